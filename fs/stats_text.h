// Reads what user.nosigbus.stats says.
#pragma once

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace nosigbus {

// Names and values, in their order, which are part of the text.
using Stats = std::vector<std::pair<std::string_view, std::string_view>>;

// Takes what to_json (lib/counters.h) makes and nothing else: what has that attribute may be another file system, which
// could say anything to a terminal.
std::optional<Stats> parse_stats(std::string_view text);

}  // namespace nosigbus
