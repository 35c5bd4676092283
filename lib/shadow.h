// A copy of a file that mappings see in its place: a sparse memfd as long as the view, which never shrinks. So no load
// from it faults, whatever becomes of the file or of us. It is the last copy there was: what differs from the file has
// changed.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "lib/unique_fd.h"

namespace nosigbus {

// Whose pages the mappings of a view show: the kernel's, which it asks us for, or those of a shadow.
enum class Engine : std::uint8_t { cache, shadow };

// Of a view, while clients have it open.
class Shadow {
  public:
    // `memory` is one that make_shadow made, `backing` the number by which the kernel knows it. `forget` is called
    // before the memory is closed; it does not throw.
    Shadow(UniqueFd memory, std::int32_t backing, std::function<void()> forget)
        : memory_(std::move(memory)), backing_(backing), forget_(std::move(forget)) {}
    Shadow(const Shadow&) = delete;
    Shadow& operator=(const Shadow&) = delete;
    ~Shadow() { forget_(); }

    [[nodiscard]] int descriptor() const { return memory_.get(); }
    [[nodiscard]] std::int32_t backing() const { return backing_; }

    // The refresher's own note: behind this size there are holes.
    off_t shown_size = 0;

  private:
    const UniqueFd memory_;
    const std::int32_t backing_;
    const std::function<void()> forget_;
};

// A new memfd of `view_size` bytes, all holes. Throws std::system_error.
UniqueFd make_shadow(off_t view_size);

// Whether somebody has it open, or mapped, beyond this one descriptor. Where that cannot be known, yes.
bool is_in_use(int shadow) noexcept;

// What a memfd of that kind takes of memory, in bytes. Throws std::system_error.
std::uint64_t memory_of_shadow(int shadow);

// Makes shadows like their files. For one thread.
class ShadowCopier {
  public:
    ShadowCopier();

    struct Step {
        std::uint64_t compared = 0;  // pages
        std::uint64_t copied = 0;
        std::uint64_t punched = 0;  // pages that are holes now
        int error = 0;              // errno where the file could not be read: there the shadow is zeros
    };

    // Makes `length` bytes at `offset`, whole pages within the shadow, what the file has there now, zeros past its end.
    // Only ever reads the file by pread(2), see read_padded. A page of zeros takes no memory afterwards. Throws
    // std::system_error where the shadow cannot be written: there may be no memory.
    Step copy(int file, int shadow, off_t offset, std::size_t length);

  private:
    std::vector<std::byte> now_;
    std::vector<std::byte> before_;
};

// Makes it at least that long.
void grow_shadow(int shadow, off_t view_size);

// Makes a hole of everything from `offset` on, to the end of its page by zeros. Throws std::system_error.
void cut_shadow(int shadow, off_t offset);

}  // namespace nosigbus
