// Where a file that lives in memory is all holes, found without its inode's lock: SEEK_DATA takes that, and who holds
// it may be a client that never lets go (a write(2) whose bytes come from a page of its own making).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace nosigbus {

// cachestat(2), which glibc and headers before Linux 6.5 do not know.
inline constexpr int cachestat_number = 451;

// Looks into one file, which stays the caller's.
class Holes {
  public:
    explicit Holes(int fd);

    // Whether `length` bytes at `offset`, whole pages, may have data. Where that cannot be known, yes: the file is on
    // no tmpfs(5), it is not ours to ask about, or the kernel has no cachestat(2) (Linux 6.5).
    [[nodiscard]] bool may_have_data(off_t offset, off_t length) const;

    // How many pages of that have data; nothing where that cannot be known.
    [[nodiscard]] std::optional<std::uint64_t> pages_with_data(off_t offset, off_t length) const;

  private:
    const int fd_;
    const bool is_in_memory_;
};

}  // namespace nosigbus
