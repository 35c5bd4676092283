// Owns a mapping of a file; loads from it may fault and say so.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <string>
#include <utility>

#include "tests/mount/files.h"
#include "tests/mount/loads.h"

namespace nosigbus::test {

// What a load that raised SIGBUS comes to.
inline constexpr int fault = -1;

class Mapping {
  public:
    Mapping(int fd, std::size_t length, int protection = PROT_READ, int flags = MAP_SHARED, std::size_t offset = 0)
        : address_(must(::mmap(nullptr, length, protection, flags, fd, static_cast<off_t>(offset)), "mmap")),
          length_(length) {}
    Mapping(Mapping&& other) noexcept
        : address_(std::exchange(other.address_, nullptr)), length_(std::exchange(other.length_, 0)) {}
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    Mapping& operator=(Mapping&&) = delete;
    ~Mapping() {
        if (length_ > 0) ::munmap(address_, length_);
    }

    [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(address_); }
    [[nodiscard]] std::size_t size() const { return length_; }

    // The bytes that could be loaded: fewer than asked for where a load raised SIGBUS.
    [[nodiscard]] std::string bytes() const { return load(data(), length_); }
    [[nodiscard]] std::string bytes(std::size_t offset, std::size_t length) const {
        return load(data() + offset, length);
    }

    // The byte at `offset`, or `fault`.
    [[nodiscard]] int byte(std::size_t offset) const {
        const std::string one = bytes(offset, 1);
        return one.empty() ? fault : static_cast<unsigned char>(one[0]);
    }

    // How many pages could be loaded before one raised SIGBUS.
    [[nodiscard]] std::size_t touch() const { return touch_pages(data(), length_); }

    // How many bytes could be stored before SIGBUS.
    [[nodiscard]] std::size_t store(std::size_t offset, const std::string& bytes) const {
        return test::store(data() + offset, bytes);
    }

    [[nodiscard]] int sync() const { return ::msync(address_, length_, MS_SYNC); }

    void unmap() {
        ::munmap(address_, length_);
        length_ = 0;
    }

  private:
    void* address_;
    std::size_t length_;
};

}  // namespace nosigbus::test
