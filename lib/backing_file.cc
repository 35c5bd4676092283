#include "lib/backing_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
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
// Returns the bytes stored, or nothing where there is no such mapping.
std::optional<std::size_t> store_through_mapping(int fd, std::span<const std::byte> bytes, off_t offset) {
    static const auto page = static_cast<off_t>(::sysconf(_SC_PAGESIZE));
    const auto lead = static_cast<std::size_t>(offset % page);
    MappedRegion window;
    try {
        window = MappedRegion(lead + bytes.size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                              offset - static_cast<off_t>(lead));
    } catch (const std::system_error&) {
        return std::nullopt;
    }
    // iovec has no const; the local side is only read.
    auto* const local = const_cast<std::byte*>(bytes.data());  // NOLINT(*-const-cast)
    const iovec from{.iov_base = local, .iov_len = bytes.size()};
    const iovec to{.iov_base = window.data() + lead, .iov_len = bytes.size()};
    const ssize_t n = ::process_vm_writev(::getpid(), &from, 1, &to, 1, 0);
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno == EFAULT) return 0;
    return std::nullopt;
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
    // A file that keeps shrinking and growing under us has shrunk, after so many tries.
    constexpr int tries = 4;
    std::size_t done = 0;
    for (int i = 0; i < tries; ++i) {
        const auto rest = bytes.subspan(done);
        const off_t at = offset + static_cast<off_t>(done);
        const std::size_t room = inside(fd, at, rest.size());
        if (room == 0) return;
        // What is left after a short store is past the end by now, or a page could not be had: then this says why (a
        // full tmpfs: ENOSPC), and changes no size.
        if (i > 0) sys::check(::fallocate(fd, FALLOC_FL_KEEP_SIZE, at, static_cast<off_t>(room)), "fallocate");
        const auto stored = store_through_mapping(fd, rest.first(room), at);
        if (!stored) {
            sys::write_at(fd, rest.first(room), at);
            return;
        }
        done += *stored;
    }
}

}  // namespace nosigbus
