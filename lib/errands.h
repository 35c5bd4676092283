// What the process that serves may not do itself, confined as it is, and has another one do that shares its
// descriptors: to take a descriptor of a third process. That one gives nothing but regular files.
//
// In memory that both have mapped. Whoever dies in the midst of it leaves a slot behind, which the next one of his kind
// finds.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "lib/peer_descriptor.h"

namespace nosigbus {

struct Errand {
    // Who asks makes it `asked`, then `free` again; who runs errands makes it `running`, then `done`.
    enum State : std::uint32_t { free = 0, asked, running, done };
    std::atomic<std::uint32_t> state;  // a futex(2)
    pid_t thread;
    std::int32_t number;
    std::int32_t descriptor;  // in the table that both share
    std::int32_t error;       // 0, or an errno
    std::uint32_t rights;
};

struct ErrandBoard {
    std::atomic<std::uint32_t> bell;  // counts what has been asked: a futex(2)
    std::array<Errand, 48> errands;

    // Wakes who runs errands. Async-signal-safe.
    void ring() noexcept;
};

// For who runs errands.
//
// Takes up what a predecessor was at when it died.
void resume_errands(ErrandBoard& board) noexcept;
// Does what has been asked. Never throws.
void run_errands(ErrandBoard& board) noexcept;
// Sleeps until something may have been asked since the bell stood at `seen`, or a signal comes.
void await_errands(const ErrandBoard& board, std::uint32_t seen) noexcept;

// For a new worker, before it closes what nobody knows: whether all that its predecessor had asked for has been
// forgotten, and none is under way any more. Waits 100 ms at most.
bool forget_errands(ErrandBoard& board) noexcept;

// For a worker's threads.
class Errands {
  public:
    // How long who runs errands may be away: dead, and not yet replaced.
    static constexpr std::chrono::milliseconds usual_patience{5000};

    explicit Errands(ErrandBoard& board, std::chrono::milliseconds patience = usual_patience)
        : board_(board), patience_(patience) {}

    // As descriptor_of. Throws std::system_error, EIO where nobody ran the errand for that long.
    PeerDescriptor descriptor_of(pid_t thread, int number);

  private:
    Errand& take_slot();

    ErrandBoard& board_;
    const std::chrono::milliseconds patience_;
    std::mutex mutex_;
    std::condition_variable freed_;
};

}  // namespace nosigbus
