// Read errors of backing files: counted all, logged some.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>

namespace nosigbus {

// What a load could not be given is zeros, not a fault; this is where it is not hidden. Thread-safe.
class ReadErrors {
  public:
    // Logs at most one line a second, with how many were left out.
    void report(std::uint64_t node, int error) noexcept;

    [[nodiscard]] std::uint64_t count() const { return count_; }

  private:
    std::atomic<std::uint64_t> count_{0};
    std::mutex mutex_;
    std::chrono::steady_clock::time_point next_line_;
    std::uint64_t logged_ = 0;
};

}  // namespace nosigbus
