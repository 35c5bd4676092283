// Sizes as people write them in options: 4096, 64K, 1G.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace nosigbus {

// Bytes for a decimal number with an optional suffix K, M, G or T (powers of 1024, either case).
// Nothing for anything else, or for what does not fit 63 bits.
std::optional<std::int64_t> parse_size(std::string_view text);

}  // namespace nosigbus
