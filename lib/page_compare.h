// Compares pages that the kernel was given with the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lib/backing_file.h"
#include "lib/crew.h"
#include "lib/given_pages.h"
#include "lib/page_digest.h"

namespace nosigbus {

// Whether what `read` gave for its page number `page` is what a load shows, and not zeros for want of anything better.
bool is_read(const PaddedRead& read, std::size_t page);

// For one thread.
class PageCompare {
  public:
    // `crew` outlives it, and only reads.
    PageCompare(const PageDigester& digester, Crew& crew);

    // Sets differs[i] to whether page first + i, of which the kernel has states[i], is not what the file `fd` has now:
    // not for an absent one, and always for one that is unknown or cannot be read.
    void compare(int fd, std::uint64_t first, std::span<const GivenPages::State> states, std::span<bool> differs);

  private:
    static constexpr std::size_t window_pages = 16;  // stays in the processor's cache
    static constexpr std::size_t part_pages = 128;   // some 60 us

    void compare_part(int fd, std::uint64_t first, std::span<const GivenPages::State> states, std::span<bool> differs,
                      std::span<std::byte> window) const;

    const PageDigester& digester_;
    Crew& crew_;
    std::vector<std::byte> windows_;
};

}  // namespace nosigbus
