#include "lib/page_compare.h"

#include <algorithm>
#include <array>

#include "lib/backing_file.h"

namespace nosigbus {

bool is_read(const PaddedRead& read, std::size_t page) {
    return read.error == 0 || (page + 1) * page_size() <= read.real_bytes;
}

PageCompare::PageCompare(const PageDigester& digester, Crew& crew)
    : digester_(digester), crew_(crew), windows_(crew_.size() * window_pages * page_size()) {}

void PageCompare::compare(int fd, std::uint64_t first, std::span<const GivenPages::State> states,
                          std::span<bool> differs) {
    const std::size_t window = window_pages * page_size();
    const auto do_part = [&](std::size_t from, std::size_t count, unsigned who) {
        compare_part(fd, first + from, states.subspan(from, count), differs.subspan(from, count),
                     std::span(windows_).subspan(who * window, window));
    };
    if (states.size() < Crew::worth_sharing) return do_part(0, states.size(), 0);
    crew_.run((states.size() + part_pages - 1) / part_pages, [&](std::size_t part, unsigned who) {
        const std::size_t from = part * part_pages;
        do_part(from, std::min(part_pages, states.size() - from), who);
    });
}

void PageCompare::compare_part(int fd, std::uint64_t first, std::span<const GivenPages::State> states,
                               std::span<bool> differs, std::span<std::byte> window) const {
    std::array<PageDigest, window_pages> digests{};
    std::size_t i = 0;
    while (i < states.size()) {
        if (states[i] == GivenPages::absent || GivenPages::is_unknown(states[i])) {
            differs[i] = states[i] != GivenPages::absent;
            ++i;
            continue;
        }
        std::size_t count = 1;
        while (count < window_pages && i + count < states.size() && states[i + count] != GivenPages::absent) ++count;
        const auto bytes = window.first(count * page_size());
        const PaddedRead read = read_padded(fd, bytes, static_cast<off_t>((first + i) * page_size()));
        const auto now = digester_.digest(bytes, read.real_bytes, digests);
        for (std::size_t k = 0; k < count; ++k) differs[i + k] = !is_read(read, k) || states[i + k] != now[k];
        i += count;
    }
}

}  // namespace nosigbus
