// Read errors of backing files: counted all, logged some.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>

#include "lib/counters.h"

namespace nosigbus {

// What a load could not be given is zeros, or a fault where the user wants that; this is where it is not hidden.
// Thread-safe.
class ReadErrors {
  public:
    explicit ReadErrors(Counters& counters) : counters_(counters) {}

    // `fd` is the backing file, or -1 where it is not known. Logs at most one line a second, with how many there were.
    void report(int fd, int error) noexcept;

  private:
    Counters& counters_;
    std::mutex mutex_;
    std::chrono::steady_clock::time_point next_line_;
    std::uint64_t logged_ = 0;
};

}  // namespace nosigbus
