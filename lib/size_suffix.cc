#include "lib/size_suffix.h"

#include <charconv>
#include <limits>

namespace nosigbus {
namespace {

// How far the suffix shifts the number left, or -1 for no suffix we know.
int suffix_shift(std::string_view suffix) {
    if (suffix.empty()) return 0;
    if (suffix.size() > 1) return -1;
    switch (suffix.front()) {
        case 'k':
        case 'K':
            return 10;
        case 'm':
        case 'M':
            return 20;
        case 'g':
        case 'G':
            return 30;
        case 't':
        case 'T':
            return 40;
        default:
            return -1;
    }
}

}  // namespace

std::optional<std::int64_t> parse_size(std::string_view text) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{}) return std::nullopt;
    const int shift = suffix_shift(text.substr(static_cast<std::size_t>(end - text.data())));
    if (shift < 0) return std::nullopt;
    const auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (number > (limit >> shift)) return std::nullopt;
    return static_cast<std::int64_t>(number << shift);
}

}  // namespace nosigbus
