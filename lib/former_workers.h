// Workers that died before this one, and may not be gone yet: a thread of theirs can be held up in a system call and
// finish it, a write or the push of a page, only later. Whoever would do the same again, or rely on its being over,
// waits for them here.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>

#include "lib/shared_state.h"

namespace nosigbus {

// Thread-safe.
class FormerWorkers {
  public:
    // So long they are waited for. What holds a thread up longer than that is the source's file system.
    static constexpr std::chrono::milliseconds patience{2000};

    explicit FormerWorkers(Lifeline& line);

    [[nodiscard]] bool are_gone();

    // Returns when they are gone, or `patience` after this object was made.
    void wait() { wait_until(give_up_); }
    // Returns when they are gone.
    void wait_for_all() { wait_until(Clock::time_point::max()); }

    // Notes this process as one of them, for its successor. Returns a pidfd of it, which is the note's. Throws
    // std::system_error.
    static int note_this_one(Lifeline& line);

  private:
    using Clock = std::chrono::steady_clock;

    bool look();  // with the lock held
    void wait_until(Clock::time_point end);

    Lifeline& line_;
    const Clock::time_point give_up_;
    std::atomic<bool> gone_{false};
    std::mutex mutex_;
    std::array<int, Lifeline::former_at_most> ended_{};  // pidfds; -1: gone
};

}  // namespace nosigbus
