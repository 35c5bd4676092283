// For how long a storm rages.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdlib>

namespace nosigbus::test {

// NOSIGBUS_STORM_SECONDS, or `otherwise`, the short form.
inline std::chrono::seconds storm_duration(std::chrono::seconds otherwise) {
    const char* seconds = std::getenv("NOSIGBUS_STORM_SECONDS");
    return seconds != nullptr ? std::chrono::seconds(std::max(1, std::atoi(seconds))) : otherwise;
}

}  // namespace nosigbus::test
