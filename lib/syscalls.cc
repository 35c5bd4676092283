#include "lib/syscalls.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <climits>
#include <system_error>

namespace nosigbus::sys {

void fail(int error, const char* what) {
    throw std::system_error(error, std::generic_category(), what);
}

std::string name_of(int fd) {
    std::string name(PATH_MAX, '\0');
    const ssize_t length = ::readlink(proc_path(fd).c_str(), name.data(), name.size());
    if (length < 0) return fmt::format("descriptor {}", fd);
    name.resize(static_cast<std::size_t>(length));
    return name;
}

std::string proc_path(int fd) {
    return fmt::format("/proc/self/fd/{}", fd);
}

UniqueFd open_this_process() {
    return UniqueFd(static_cast<int>(check(::syscall(SYS_pidfd_open, ::getpid(), 0), "pidfd_open")));
}

UniqueFd duplicate(int fd) {
    return UniqueFd(check(::fcntl(fd, F_DUPFD_CLOEXEC, 0), "fcntl"));
}

UniqueFd open_at(int dir, const char* path, int flags, mode_t mode) {
    return UniqueFd(check(::openat(dir, path, flags | O_CLOEXEC, mode), "openat"));
}

UniqueFd reopen(int fd, int flags) {
    return open_at(AT_FDCWD, proc_path(fd).c_str(), flags | O_NONBLOCK);
}

struct statx stat_fd(int fd, unsigned mask, int flags) {
    struct statx attributes {};
    check(::statx(fd, "", AT_EMPTY_PATH | flags, mask, &attributes), "statx");
    return attributes;
}

off_t file_size(int fd) {
    struct stat attributes {};
    check(::fstat(fd, &attributes), "fstat");
    return attributes.st_size;
}

std::size_t read_at(int fd, std::span<std::byte> buffer, off_t offset) {
    std::size_t done = 0;
    while (done < buffer.size()) {
        const ssize_t n = ::pread(fd, buffer.data() + done, buffer.size() - done, offset + static_cast<off_t>(done));
        if (n == 0) break;
        if (n < 0) {
            if (errno == EINTR) continue;
            if (done > 0) break;
            fail(errno, "pread");
        }
        done += static_cast<std::size_t>(n);
    }
    return done;
}

namespace {

// `write_some(bytes, offset)` is one system call.
template <typename WriteSome>
std::size_t write_all(std::span<const std::byte> bytes, off_t offset, WriteSome write_some) {
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t n = write_some(bytes.subspan(done), offset + static_cast<off_t>(done));
        if (n == 0) break;
        if (n < 0) {
            if (errno == EINTR) continue;
            if (done > 0) break;
            fail(errno, "pwrite");
        }
        done += static_cast<std::size_t>(n);
    }
    return done;
}

// iovec has no const; writev does not write through it.
iovec part_of(std::span<const std::byte> bytes) {
    return {.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};  // NOLINT(*-const-cast)
}

ssize_t write_without_append(int fd, std::span<const std::byte> bytes, off_t offset) {
    constexpr int no_append = 0x20;  // linux/fs.h of Linux 6.9: RWF_NOAPPEND
    const iovec part = part_of(bytes);
    const ssize_t n = ::pwritev2(fd, &part, 1, offset, no_append);
    if (n >= 0 || errno != EOPNOTSUPP) return n;
    const int flags = ::fcntl(fd, F_GETFL);
    errno = EOPNOTSUPP;
    if (flags < 0 || (flags & O_APPEND) != 0) return -1;
    return ::pwrite(fd, bytes.data(), bytes.size(), offset);
}

}  // namespace

std::size_t write_at(int fd, std::span<const std::byte> bytes, off_t offset) {
    return write_all(bytes, offset, [fd](std::span<const std::byte> rest, off_t at) {
        return ::pwrite(fd, rest.data(), rest.size(), at);
    });
}

std::size_t write_in_place(int fd, std::span<const std::byte> bytes, off_t offset) {
    return write_all(bytes, offset,
                     [fd](std::span<const std::byte> rest, off_t at) { return write_without_append(fd, rest, at); });
}

std::size_t append(int fd, std::span<const std::byte> bytes) {
    const iovec part = part_of(bytes);
    for (;;) {
        const ssize_t n = ::pwritev2(fd, &part, 1, 0, RWF_APPEND);
        if (n < 0 && errno == EINTR) continue;
        return static_cast<std::size_t>(check(n, "pwritev2"));
    }
}

}  // namespace nosigbus::sys
