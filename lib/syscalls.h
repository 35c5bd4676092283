// The system calls we make on the source directory. Each throws std::system_error with the call's errno.
#pragma once

#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "lib/unique_fd.h"

namespace nosigbus::sys {

// Throws std::system_error for `error`, an errno value.
[[noreturn]] void fail(int error, const char* what);

// Throws for errno when `result` is negative, else hands it on.
template <typename T>
T check(T result, const char* what);

// The path by which this process reaches descriptor `fd` again: /proc/self/fd/N.
std::string proc_path(int fd);

// Where the inode behind `fd` was found, as /proc says it, or a stand-in. For people to read.
std::string name_of(int fd);

// A pidfd of this process: pidfd_open(2).
UniqueFd open_this_process();

// Another descriptor for what `fd` is open on, to be closed as one likes.
UniqueFd duplicate(int fd);

// openat(2), always with O_CLOEXEC.
UniqueFd open_at(int dir, const char* path, int flags, mode_t mode = 0);

// A new open file description for the inode behind `fd`, which may be O_PATH. Never follows a name. Adds O_NONBLOCK, so
// that a lease held by somebody else is EWOULDBLOCK and not a wait.
UniqueFd reopen(int fd, int flags);

// statx(2) of `fd` itself, which may be O_PATH.
struct statx stat_fd(int fd, unsigned mask, int flags = 0);

off_t file_size(int fd);

// pread(2) until `buffer` is full or the file ends. Returns the bytes read.
std::size_t read_at(int fd, std::span<std::byte> buffer, off_t offset);

// pwrite(2) until everything is written. Throws only when nothing was; otherwise returns the bytes written.
std::size_t write_at(int fd, std::span<const std::byte> bytes, off_t offset);

// The same, at `offset` also where somebody has set O_APPEND for the open file, with which pwrite(2) appends.
// EOPNOTSUPP where it is set and the kernel cannot (before Linux 6.9).
std::size_t write_in_place(int fd, std::span<const std::byte> bytes, off_t offset);

// Appends in one call, at whatever the end is then (RWF_APPEND). Returns the bytes written.
std::size_t append(int fd, std::span<const std::byte> bytes);

}  // namespace nosigbus::sys

template <typename T>
T nosigbus::sys::check(T result, const char* what) {
    if (result < 0) fail(errno, what);
    return result;
}
