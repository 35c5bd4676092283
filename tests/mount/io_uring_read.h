// One read by io_uring(7), without its library.
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace nosigbus::test {

// Reads into `buffer`, as pread(2) does: the bytes read, or -1 and errno. ENOSYS or EPERM where the kernel has no
// io_uring for us.
ssize_t io_uring_pread(int fd, void* buffer, std::size_t length, off_t offset);

}  // namespace nosigbus::test
