#include "lib/backing_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <system_error>

#include "lib/mapped_region.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

struct stat status(int fd) {
    struct stat attributes {};
    sys::check(sys::look(fd, attributes) ? 0 : -1, "fstat");
    return attributes;
}

// How many of `length` bytes at `offset` lie inside the file.
std::size_t inside(const struct stat& file, off_t offset, std::size_t length) {
    if (offset < 0 || offset >= file.st_size) return 0;
    // The rest of the file may be longer than a size_t of 32 bits can say.
    return static_cast<std::size_t>(
        std::min(static_cast<std::uint64_t>(length), static_cast<std::uint64_t>(file.st_size - offset)));
}

bool unchanged_since(const struct stat& before, int fd) {
    const struct stat now = status(fd);
    return now.st_size == before.st_size && now.st_ctim.tv_sec == before.st_ctim.tv_sec &&
           now.st_ctim.tv_nsec == before.st_ctim.tv_nsec;
}

// Copies into a shared mapping of the file. Unlike pwrite(2) this cannot grow a file that shrinks meanwhile, and it
// takes no inode lock: a client that holds that lock and faults on a page that waits to be written back would wait for
// us for ever. process_vm_writev(2) on ourselves rather than memcpy, because it answers EFAULT where a plain store
// would be SIGBUS. Returns the bytes stored, or nothing where there is no such mapping.
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

// Why a store inside the file faulted. To ask the file itself (fallocate(2) would tell) takes its inode lock, see
// above.
int why_no_page(int fd) {
    struct statvfs statistics {};
    return ::fstatvfs(fd, &statistics) == 0 && statistics.f_bavail == 0 ? ENOSPC : EIO;
}

}  // namespace

PaddedRead read_padded(int fd, std::span<std::byte> buffer, off_t offset) noexcept {
    PaddedRead result{.real_bytes = 0, .error = 0};
    try {
        // read_at ends at an error too, where something was read before it: only where there is nothing more, the file
        // ends.
        while (result.real_bytes < buffer.size()) {
            const std::size_t more =
                sys::read_at(fd, buffer.subspan(result.real_bytes), offset + static_cast<off_t>(result.real_bytes));
            if (more == 0) break;
            result.real_bytes += more;
        }
    } catch (const std::system_error& failure) {
        result.error = failure.code().value();
    } catch (const std::exception&) {
        result.error = ENOMEM;
    }
    std::memset(buffer.data() + result.real_bytes, 0, buffer.size() - result.real_bytes);
    return result;
}

std::size_t store_within(int fd, std::span<const std::byte> bytes, off_t offset) {
    const off_t begin = offset;
    // A file that keeps changing its size under us has shrunk, after so many tries. Once is not enough to say of one
    // that seems unchanged that it has no page for us: before Linux 6.13 a file's times are those of the last tick, and
    // it may have shrunk and grown again since.
    constexpr int tries = 8;
    constexpr int tries_unchanged = 4;
    int unchanged = 0;
    for (int i = 0; i < tries; ++i) {
        const struct stat before = status(fd);
        bytes = bytes.first(inside(before, offset, bytes.size()));
        if (bytes.empty()) break;
        const auto stored = store_through_mapping(fd, bytes, offset);
        if (!stored) {
            offset += static_cast<off_t>(sys::write_in_place(fd, bytes, offset));
            break;
        }
        bytes = bytes.subspan(*stored);
        offset += static_cast<off_t>(*stored);
        if (bytes.empty()) break;
        unchanged = unchanged_since(before, fd) ? unchanged + 1 : 0;
        if (unchanged == tries_unchanged) sys::fail(why_no_page(fd), "store");
    }
    return static_cast<std::size_t>(offset - begin);
}

}  // namespace nosigbus
