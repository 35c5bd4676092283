// The clock of all measurements: CLOCK_MONOTONIC, which all processes share.
#pragma once

#include <chrono>

namespace nosigbus::bench {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// How long `work` takes.
template <typename Work>
Seconds time_of(Work work) {
    const auto begin = Clock::now();
    work();
    return Clock::now() - begin;
}

}  // namespace nosigbus::bench
