// Waiting for a condition, never for a time.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace nosigbus::test {

inline constexpr std::chrono::seconds patience{10};

// Asks `condition` until it holds. False when it did not within `deadline`.
template <typename Condition>
bool eventually(Condition condition, std::chrono::milliseconds deadline = patience) {
    const auto end = std::chrono::steady_clock::now() + deadline;
    for (auto nap = std::chrono::microseconds(50);; nap = std::min(nap * 2, std::chrono::microseconds(5000))) {
        if (condition()) return true;
        if (std::chrono::steady_clock::now() >= end) return false;
        std::this_thread::sleep_for(nap);
    }
}

}  // namespace nosigbus::test
