// Digests of pages, to tell whether a page of the file is still what the kernel was given.
#pragma once

#include <xxhash.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nosigbus {

// Of the kernel's pages: what READ is asked in, and FUSE_NOTIFY_STORE makes whole.
std::size_t page_size();

// Never 0 and always even, see GivenPages.
using PageDigest = std::uint64_t;

// XXH3 of libxxhash, with a secret that nobody outside this process knows: whoever owns the file has no
// practical way to make two pages that look alike. By chance it happens once in 2^63. Immutable, so any thread may use
// it.
class PageDigester {
  public:
    // Throws std::system_error where there is no random number to be had.
    PageDigester();

    [[nodiscard]] PageDigest operator()(std::span<const std::byte> page) const;

    // Of as many whole pages as `digests` has room for and `bytes` has, of whose bytes the first `real_bytes` come from
    // the file and the others are zeros. Returns those that it filled.
    [[nodiscard]] std::span<const PageDigest> digest(std::span<const std::byte> bytes, std::size_t real_bytes,
                                                     std::span<PageDigest> digests) const;

    // Of a page without a byte of the file.
    [[nodiscard]] PageDigest of_zeros() const { return of_zeros_; }

  private:
    std::array<std::byte, XXH3_SECRET_SIZE_MIN> secret_;
    PageDigest of_zeros_;
};

}  // namespace nosigbus
