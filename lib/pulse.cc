#include "lib/pulse.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <list>
#include <mutex>
#include <new>
#include <sstream>

namespace nosigbus {

// One thread's. It stands in a list of all of them while the thread lives.
class Pulse {
  public:
    Pulse();
    Pulse(const Pulse&) = delete;
    Pulse& operator=(const Pulse&) = delete;
    ~Pulse();

    static Pulse& of_this_thread() {
        thread_local Pulse pulse;
        return pulse;
    }

    void begin(const char* name) noexcept {
        if (depth_++ == 0) {
            name_ = name;
            ++beats_;
        } else {
            beats_ += 2;
        }
    }
    void end() noexcept {
        if (--depth_ == 0) {
            ++beats_;
        } else {
            beats_ += 2;
        }
    }

    // Odd: at work.
    [[nodiscard]] std::uint64_t beats() const { return beats_; }
    [[nodiscard]] const char* name() const { return name_; }
    [[nodiscard]] pid_t thread() const { return thread_; }

    void park() noexcept {
        if (depth_ > 0) ++beats_;
    }

  private:
    const pid_t thread_ = ::gettid();
    unsigned depth_ = 0;
    std::atomic<std::uint64_t> beats_{0};
    std::atomic<const char*> name_{""};
};

namespace {

struct AllPulses {
    std::mutex mutex;
    std::list<const Pulse*> list;
};

AllPulses& all_pulses() {
    static AllPulses all;
    return all;
}

// What the kernel says of a thread of ours: proc(5), /proc/PID/stat.
struct ThreadState {
    char state = '?';
    std::uint64_t user_time = 0;
    std::uint64_t kernel_time = 0;
};

ThreadState state_of(pid_t thread) {
    std::ifstream file(fmt::format("/proc/self/task/{}/stat", thread));
    std::string line;
    std::getline(file, line);
    const std::size_t name_end = line.rfind(')');
    if (name_end == std::string::npos) return {};
    std::istringstream fields(line.substr(name_end + 1));
    ThreadState result;
    std::string skipped;
    fields >> result.state;
    for (int field = 4; field < 14; ++field) fields >> skipped;
    fields >> result.user_time >> result.kernel_time;
    return result;
}

// Whether it sleeps in a call that waits for other threads or for nothing at all, not for a file system.
bool sleeps_for_us(pid_t thread) {
    std::ifstream file(fmt::format("/proc/self/task/{}/syscall", thread));
    long number = -1;
    if (!(file >> number)) return true;  // not told: what it was doing is known to take no time
    // Some machines have only the newer ones of these, and 32-bit ones some of them twice.
    constexpr auto ours = std::to_array<long>({
        SYS_futex,
        SYS_clock_nanosleep,
        SYS_nanosleep,
        SYS_ppoll,
#ifdef SYS_poll
        SYS_poll,
        SYS_pause,
#endif
#ifdef SYS_futex_time64
        SYS_futex_time64,
        SYS_clock_nanosleep_time64,
        SYS_ppoll_time64,
#endif
    });
    return std::ranges::find(ours, number) != ours.end();
}

}  // namespace

Pulse::Pulse() {
    const std::lock_guard lock(all_pulses().mutex);
    all_pulses().list.push_back(this);
}

Pulse::~Pulse() {
    const std::lock_guard lock(all_pulses().mutex);
    all_pulses().list.remove(this);
}

void prepare_pulse() {
    Pulse::of_this_thread();
}

AtWork::AtWork(const char* name) noexcept : pulse_(Pulse::of_this_thread()) {
    pulse_.begin(name);
}

AtWork::~AtWork() {
    pulse_.end();
}

Parked::Parked() noexcept : pulse_(Pulse::of_this_thread()) {
    pulse_.park();
}

Parked::~Parked() {
    pulse_.park();
}

bool PulseMonitor::hangs(const Seen& seen) {
    const ThreadState now = state_of(seen.thread);
    switch (now.state) {
        case 'R': {
            // In the kernel it works for the source's file system, which may have much to do.
            const std::uint64_t user = now.user_time - seen.user_time;
            return user > 0 && user > now.kernel_time - seen.kernel_time;
        }
        case 'S':
            return sleeps_for_us(seen.thread);
        default:
            return false;  // D: the source's file system has it
    }
}

std::string PulseMonitor::look() try {
    std::vector<Seen> now;
    std::string hanging;
    const std::lock_guard lock(all_pulses().mutex);
    for (const Pulse* pulse : all_pulses().list) {
        const std::uint64_t beats = pulse->beats();
        if (beats % 2 == 0) continue;
        const auto before = std::ranges::find_if(
            seen_, [&](const Seen& seen) { return seen.thread == pulse->thread() && seen.beats == beats; });
        if (before == seen_.end()) {
            const ThreadState state = state_of(pulse->thread());
            now.push_back({pulse->thread(), beats, 1, state.user_time, state.kernel_time});
            continue;
        }
        ++before->times;
        now.push_back(*before);
        if (before->times >= looks_ && hangs(*before)) hanging = pulse->name();
    }
    seen_ = std::move(now);
    return hanging;
} catch (const std::bad_alloc&) {
    return {};  // no memory to look with; there will be
}

}  // namespace nosigbus
