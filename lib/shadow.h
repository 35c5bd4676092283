// A copy of a file that mappings see in its place: a sparse memfd as long as the view, which never shrinks. So no load
// from it faults, whatever becomes of the file or of us. It is the last copy there was: what differs from the file has
// changed.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <shared_mutex>
#include <span>
#include <utility>
#include <vector>

#include "lib/crew.h"
#include "lib/holes.h"
#include "lib/mapped_region.h"
#include "lib/unique_fd.h"

namespace nosigbus {

// A new memfd of `view_size` bytes, all holes. Throws std::system_error.
UniqueFd make_shadow(off_t view_size);

// Of a view, while clients have it open or mapped. Thread-safe.
class Shadow {
  public:
    // `memory` is one that make_shadow made, with nothing behind `shown_size` yet, which is more than the file has
    // where another worker has filled it; `backing` is the number by which the kernel knows it. `forget` is called
    // before the memory is closed; it does not throw.
    Shadow(UniqueFd memory, off_t shown_size, std::int32_t backing, std::function<void()> forget)
        : memory_(std::move(memory)), backing_(backing), forget_(std::move(forget)), shown_size_(shown_size) {}
    Shadow(const Shadow&) = delete;
    Shadow& operator=(const Shadow&) = delete;
    ~Shadow() { forget_(); }

    [[nodiscard]] int descriptor() const { return memory_.get(); }
    [[nodiscard]] std::int32_t backing() const { return backing_; }

    // Makes it at least that long. Throws std::system_error.
    void grow(off_t view_size);

    // Behind the end of `file`, which may be O_PATH, are holes now, to the end of that page zeros. Throws
    // std::system_error.
    struct Ends {
        off_t before;  // when this was last done
        off_t now;
        off_t lost;  // of what the file is known to have had
    };
    Ends cut(int file);

    // Gives back the memory that loads have taken behind the file's end, unless it is being changed just now. Throws
    // std::system_error.
    void free_tail();

    // What it takes of memory, in bytes. Throws std::system_error.
    [[nodiscard]] std::uint64_t memory() const;

    // Whether somebody has it open, or mapped, beside us. Where that cannot be known, yes.
    [[nodiscard]] bool is_in_use() const noexcept;

    // Whether it has been made like its file, and nothing has failed since: the refresher's note, which whoever opens
    // the view reads.
    [[nodiscard]] bool is_whole() const { return is_whole_; }
    void note_whole() {
        is_failing_ = false;
        is_whole_ = true;
    }
    // What has failed is to be tried again. Returns whether it is the first time in a row.
    bool note_failure() {
        is_whole_ = false;
        has_failed_ = true;
        return !is_failing_.exchange(true);
    }
    // What is shown is as good as it can be had now, and is to be tried again.
    void note_unread() { has_failed_ = true; }
    // Whether something is to be tried again, since this was asked last.
    bool has_failed() { return has_failed_.exchange(false); }

    // Whether it may take more memory than it has. Where not, what would is left out, and that has failed.
    std::atomic<bool> may_take_more{true};

    // Whether somebody has read its file through the kernel's page cache (splice(2)) up to the end, so that the kernel
    // takes that for the view's.
    std::atomic<bool> has_shown_end{false};

  private:
    friend class ShadowCopier;

    const UniqueFd memory_;
    const std::int32_t backing_;
    const std::function<void()> forget_;

    // For the copier.
    void map(std::uint64_t end);
    void copied_up_to(off_t end);

    const Holes holes_{memory_.get()};
    MappedRegion mapped_;  // the copier's
    std::atomic<bool> is_whole_{false};
    std::atomic<bool> is_failing_{false};
    std::atomic<bool> has_failed_{false};
    // What is copied was read under it, shared: so nobody copies older bytes over newer ones, nor behind the file's
    // end.
    std::shared_mutex changing_;
    std::atomic<off_t> shown_size_;  // behind are holes, but for what loads have made of them
    bool is_end_known_ = false;      // whether that is of the file, and not of another worker's doing
};

// Makes shadows like their files. For one thread, and all of a shadow's for the same.
class ShadowCopier {
  public:
    // `crew` outlives it.
    explicit ShadowCopier(Crew& crew);

    struct Step {
        std::uint64_t compared = 0;  // pages
        std::uint64_t copied = 0;
        std::uint64_t punched = 0;   // pages that are holes now
        std::uint64_t left_out = 0;  // for they would have taken memory that there may not be
        int error = 0;               // errno where the file could not be read: there the shadow is as before
    };

    // Makes `length` bytes at `offset`, whole pages within the shadow, what the file has there now, zeros past its end.
    // Only ever reads the file by pread(2), see read_padded. A page that has become zeros takes no memory afterwards;
    // one that was zeros and that somebody has loaded does. Throws std::system_error where the shadow cannot be
    // written: there may be no memory.
    Step copy(int file, Shadow& shadow, off_t offset, std::uint64_t length);

    // How many of `length` bytes at `offset` need no copy(), as both are all holes there.
    static std::uint64_t holes(int file, const Shadow& shadow, off_t offset, std::uint64_t length);

  private:
    // What each of the crew works with.
    struct Worker {
        std::vector<std::byte> now;
        std::vector<std::byte> before;
        Step step;
        std::exception_ptr failure;
    };
    static void copy_window(int file, Shadow& shadow, off_t at, std::size_t length, Worker& worker);

    Crew& crew_;
    std::vector<Worker> workers_;
};

}  // namespace nosigbus
