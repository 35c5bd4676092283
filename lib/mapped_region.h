// Owns a mapping and unmaps it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <utility>

namespace nosigbus {

class MappedRegion {
  public:
    MappedRegion() = default;
    // mmap(2) of `length` bytes of `fd` from `offset`, which is a multiple of the page size. Throws std::system_error.
    MappedRegion(std::size_t length, int protection, int flags, int fd, off_t offset);
    MappedRegion(MappedRegion&& other) noexcept
        : address_(std::exchange(other.address_, nullptr)), length_(std::exchange(other.length_, 0)) {}
    MappedRegion& operator=(MappedRegion&& other) noexcept {
        std::swap(address_, other.address_);
        std::swap(length_, other.length_);
        return *this;
    }
    MappedRegion(const MappedRegion&) = delete;
    MappedRegion& operator=(const MappedRegion&) = delete;
    ~MappedRegion();

    [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(address_); }
    [[nodiscard]] std::size_t size() const { return length_; }

  private:
    void* address_ = nullptr;
    std::size_t length_ = 0;
};

}  // namespace nosigbus
