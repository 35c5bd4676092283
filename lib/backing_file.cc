#include "lib/backing_file.h"

#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "lib/mapped_region.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// How many of `length` bytes at `offset` lie inside the file now.
std::size_t inside(int fd, off_t offset, std::size_t length) {
    const off_t left = sys::file_size(fd) - offset;
    return left <= 0 ? 0 : std::min(length, static_cast<std::size_t>(left));
}

// Copies into a shared mapping of the file. Unlike pwrite(2) this cannot grow a file that shrinks meanwhile, and it
// takes no inode lock, so a client that holds that lock while it faults on the view does not wait for us.
// process_vm_writev(2) on ourselves rather than memcpy, because it answers EFAULT where a plain store would be SIGBUS.
// Returns the bytes stored; throws std::system_error where there is no such mapping.
std::size_t store_through_mapping(int fd, std::span<const std::byte> bytes, off_t offset) {
    static const auto page = static_cast<off_t>(::sysconf(_SC_PAGESIZE));
    const auto lead = static_cast<std::size_t>(offset % page);
    const MappedRegion window(lead + bytes.size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                              offset - static_cast<off_t>(lead));
    // iovec has no const; the local side is only read.
    const iovec from{.iov_base = const_cast<std::byte*>(bytes.data()),
                     .iov_len = bytes.size()};  // NOLINT(*-const-cast)
    const iovec to{.iov_base = window.data() + lead, .iov_len = bytes.size()};
    const ssize_t n = ::process_vm_writev(::getpid(), &from, 1, &to, 1, 0);
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno != EFAULT) sys::fail(errno, "process_vm_writev");
    return 0;
}

}  // namespace

PaddedRead read_padded(int fd, std::span<std::byte> buffer, off_t offset) noexcept {
    PaddedRead result{.real_bytes = 0, .error = 0};
    try {
        result.real_bytes = sys::read_at(fd, buffer, offset);
    } catch (const std::system_error& failure) {
        result.error = failure.code().value();
    }
    std::memset(buffer.data() + result.real_bytes, 0, buffer.size() - result.real_bytes);
    return result;
}

void store_within(int fd, std::span<const std::byte> bytes, off_t offset) {
    std::size_t done = 0;
    const std::size_t room = inside(fd, offset, bytes.size());
    if (room == 0) return;
    try {
        done = store_through_mapping(fd, bytes.first(room), offset);
    } catch (const std::system_error&) {
        // No shared writable mapping of this file: the write below does it, or says why it cannot.
    }
    // What is left is past the end by now, or a page could not be had (a full tmpfs), and then the write says so.
    const off_t rest = offset + static_cast<off_t>(done);
    const std::size_t still = inside(fd, rest, room - done);
    if (still > 0) sys::write_at(fd, bytes.subspan(done, still), rest);
}

}  // namespace nosigbus
