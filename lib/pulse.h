// Whether each thread gets on with its work. A thread says when it begins and ends a piece of it; who looks at all of
// them from time to time sees which one has been at the same piece for long.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace nosigbus {

class Pulse;

// To be called when a thread begins, for as long as there is memory: what it needs for all below. Throws
// std::bad_alloc.
void prepare_pulse();

// This thread does a piece of work, called `name`, while this lives. One within another is progress.
class AtWork {
  public:
    explicit AtWork(const char* name) noexcept;
    AtWork(const AtWork&) = delete;
    AtWork& operator=(const AtWork&) = delete;
    ~AtWork();

  private:
    Pulse& pulse_;
};

// Meanwhile this thread waits for what may rightly take any time.
class Parked {
  public:
    Parked() noexcept;
    Parked(const Parked&) = delete;
    Parked& operator=(const Parked&) = delete;
    ~Parked();

  private:
    Pulse& pulse_;
};

// Locks one that another thread may rightly have for any time, while it is in the hands of the source's file system.
// `Lock` is of <mutex> or <shared_mutex>.
template <typename Lock>
Lock lock_parked(typename Lock::mutex_type& mutex) {
    Lock lock(mutex, std::try_to_lock);
    if (lock) return lock;
    const Parked parked;
    lock.lock();
    return lock;
}

// Looks at all threads of this process. For one thread.
class PulseMonitor {
  public:
    // A thread found at the same piece of work so many times in a row hangs, unless it is in the hands of the source's
    // file system.
    explicit PulseMonitor(unsigned looks) : looks_(looks) {}

    // To be called at even intervals. Returns what a thread that hangs is doing; empty where none does.
    std::string look();

  private:
    struct Seen {
        pid_t thread;
        std::uint64_t beats;
        unsigned times;
        std::uint64_t user_time;  // of the thread, in clock ticks, when it was first seen at this
        std::uint64_t kernel_time;
    };

    [[nodiscard]] static bool hangs(const Seen& seen);

    const unsigned looks_;
    std::vector<Seen> seen_;
};

}  // namespace nosigbus
