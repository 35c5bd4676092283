#include "lib/mapped_region.h"

#include <sys/mman.h>

#include <cerrno>

#include "lib/syscalls.h"

namespace nosigbus {

MappedRegion::MappedRegion(std::size_t length, int protection, int flags, int fd, off_t offset) : length_(length) {
    void* const address = ::mmap(nullptr, length, protection, flags, fd, offset);
    if (address == MAP_FAILED) sys::fail(errno, "mmap");
    address_ = address;
}

MappedRegion::~MappedRegion() {
    if (address_ != nullptr) ::munmap(address_, length_);
}

}  // namespace nosigbus
