#include "lib/holes.h"

#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdint>

namespace nosigbus {
namespace {

// linux/mman.h of Linux 6.5; Debian 12 has that of 6.1.
struct CachestatRange {
    std::uint64_t offset;
    std::uint64_t length;
};
struct Cachestat {
    std::uint64_t in_cache;
    std::uint64_t dirty;
    std::uint64_t in_writeback;
    std::uint64_t evicted;  // of a tmpfs: swapped out (filemap_cachestat)
    std::uint64_t recently_evicted;
};

bool is_on_tmpfs(int fd) {
    struct statfs found {};
    return ::fstatfs(fd, &found) == 0 && found.f_type == TMPFS_MAGIC;
}

}  // namespace

Holes::Holes(int fd) : fd_(fd), is_in_memory_(is_on_tmpfs(fd)) {}

std::optional<std::uint64_t> Holes::pages_with_data(off_t offset, off_t length) const {
    if (!is_in_memory_) return std::nullopt;
    CachestatRange range{.offset = static_cast<std::uint64_t>(offset), .length = static_cast<std::uint64_t>(length)};
    Cachestat found{};
    if (::syscall(cachestat_number, fd_, &range, &found, 0U) != 0) return std::nullopt;
    return found.in_cache + found.evicted;
}

bool Holes::may_have_data(off_t offset, off_t length) const {
    return pages_with_data(offset, length) != 0U;
}

}  // namespace nosigbus
