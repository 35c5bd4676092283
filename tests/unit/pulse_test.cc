#include "lib/pulse.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <string>
#include <thread>

#include "lib/mapped_region.h"
#include "lib/syscalls.h"

using namespace nosigbus;
using namespace std::chrono_literals;

namespace {

constexpr unsigned looks = 6;
constexpr auto interval = 40ms;

// Looks until something hangs, or for so many intervals.
std::string look(unsigned intervals) {
    PulseMonitor monitor(looks);
    for (unsigned i = 0; i < intervals; ++i) {
        if (std::string hanging = monitor.look(); !hanging.empty()) return hanging;
        std::this_thread::sleep_for(interval);
    }
    return "";
}

// A spinning thread may have to share the processor with many.
constexpr unsigned for_long = 500;
constexpr unsigned for_some_time = 5 * looks / 2;

// A thread that does run(stop) until the test ends.
template <typename Run>
class Busy {
  public:
    explicit Busy(Run run) : thread_([this, run] { run(stop_, begun_); }) {
        while (!begun_) std::this_thread::yield();
    }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;
    ~Busy() {
        stop_ = true;
        thread_.join();
    }

  private:
    std::atomic<bool> stop_{false};
    std::atomic<bool> begun_{false};
    std::thread thread_;
};

using Flag = std::atomic<bool>;

}  // namespace

TEST_CASE("nothing hangs where nothing is done") {
    CHECK(look(for_some_time).empty());
}

TEST_CASE("a thread that waits for a lock for ever hangs, and what it is doing is said") {
    std::mutex mutex;
    mutex.lock();
    std::atomic<bool> begun{false};
    std::thread thread([&] {
        const AtWork at_work("a deadlock");
        begun = true;
        const std::lock_guard lock(mutex);
    });
    while (!begun) std::this_thread::yield();
    CHECK(look(for_long) == "a deadlock");
    mutex.unlock();
    thread.join();
    CHECK(look(for_some_time).empty());
}

TEST_CASE("a thread that waits for one in the hands of the source's file system does not hang") {
    std::mutex mutex;
    mutex.lock();
    std::atomic<bool> begun{false};
    std::thread thread([&] {
        const AtWork at_work("waiting rightly");
        begun = true;
        const auto lock = lock_parked<std::unique_lock<std::mutex>>(mutex);
        CHECK(lock.owns_lock());
    });
    while (!begun) std::this_thread::yield();
    CHECK(look(for_some_time).empty());
    mutex.unlock();
    thread.join();
    CHECK(lock_parked<std::unique_lock<std::mutex>>(mutex).owns_lock());
}

TEST_CASE("a thread is given the time of so many looks, not fewer") {
    std::mutex mutex;
    mutex.lock();
    std::atomic<bool> begun{false};
    std::thread thread([&] {
        const AtWork at_work("a deadlock");
        begun = true;
        const std::lock_guard lock(mutex);
    });
    while (!begun) std::this_thread::yield();
    std::this_thread::sleep_for(5 * interval);  // by then it sleeps
    PulseMonitor monitor(looks);
    for (unsigned i = 1; i < looks; ++i) CHECK(monitor.look().empty());
    CHECK(monitor.look() == "a deadlock");
    mutex.unlock();
    thread.join();
}

TEST_CASE("a thread that turns in circles hangs") {
    const Busy spinning([](const Flag& stop, Flag& begun) {
        const AtWork at_work("circles");
        begun = true;
        while (!stop) {
        }
    });
    CHECK(look(for_long) == "circles");
}

TEST_CASE("a thread that waits for nothing hangs") {
    struct sigaction action {};
    action.sa_handler = [](int /*signal*/) {};
    struct sigaction before {};
    REQUIRE(::sigaction(SIGUSR1, &action, &before) == 0);
    std::atomic<bool> begun{false};
    std::atomic<bool> stop{false};
    std::atomic<bool> ended{false};
    std::thread thread([&] {
        const AtWork at_work("a pause");
        begun = true;
        while (!stop) ::pause();
        ended = true;
    });
    while (!begun) std::this_thread::yield();
    CHECK(look(for_long) == "a pause");
    stop = true;
    while (!ended) {
        ::pthread_kill(thread.native_handle(), SIGUSR1);
        std::this_thread::sleep_for(1ms);
    }
    thread.join();
    REQUIRE(::sigaction(SIGUSR1, &before, nullptr) == 0);
}

TEST_CASE("a thread that hangs in a piece of work within another hangs") {
    const Busy sleeping([](const Flag& stop, Flag& begun) {
        const AtWork outer("outer work");
        const AtWork inner("inner work");
        begun = true;
        while (!stop) std::this_thread::sleep_for(1ms);
    });
    // It says the outer one's.
    CHECK(look(for_long) == "outer work");
}

TEST_CASE("a thread that gets on, by one piece of work after the other or within another, does not hang") {
    for (const bool nested : {false, true}) {
        CAPTURE(nested);
        const Busy working([nested](const Flag& stop, Flag& begun) {
            begun = true;
            const auto step = [] {
                const AtWork piece("a step");
                std::this_thread::sleep_for(1ms);
            };
            if (!nested) {
                while (!stop) step();
                return;
            }
            const AtWork whole("a long way");
            while (!stop) step();
        });
        CHECK(look(for_some_time).empty());
    }
}

TEST_CASE("a thread that is parked, or has no work, may wait as long as it likes") {
    for (const bool parked : {false, true}) {
        CAPTURE(parked);
        const Busy waiting([parked](const Flag& stop, Flag& begun) {
            const auto wait = [&] {
                begun = true;
                while (!stop) std::this_thread::sleep_for(1ms);
            };
            if (parked) {
                const AtWork at_work("waiting for the source");
                const AtWork inner("and in that");
                const Parked rightly;
                return wait();
            }
            { const AtWork before("what is over"); }
            wait();
        });
        CHECK(look(for_some_time).empty());
    }
}

TEST_CASE("a thread that was parked and goes on to hang hangs") {
    const Busy sleeping([](const Flag& stop, Flag& begun) {
        const AtWork at_work("after the rest");
        {
            const Parked resting;
            std::this_thread::sleep_for(1ms);
        }
        begun = true;
        while (!stop) std::this_thread::sleep_for(1ms);
    });
    CHECK(look(for_long) == "after the rest");
}

TEST_CASE("a thread for which the kernel works long does not hang") {
    const Busy reading([](const Flag& stop, Flag& begun) {
        constexpr std::size_t much = std::size_t{64} << 20;
        const MappedRegion memory(much, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        const UniqueFd zeros = sys::open_at(AT_FDCWD, "/dev/zero", O_RDONLY);
        const AtWork at_work("a long read");
        begun = true;
        // Past what a sanitizer would add of its own.
        while (!stop) ::syscall(SYS_read, zeros.get(), memory.data(), much);
    });
    CHECK(look(for_some_time).empty());
}

TEST_CASE("a thread that is in the hands of a file system does not hang, however long") {
    std::array<int, 2> ends{};
    REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
    const UniqueFd out(ends[0]);
    UniqueFd in(ends[1]);
    std::atomic<bool> begun{false};
    std::thread thread([&] {
        const AtWork at_work("a read that waits");
        begun = true;
        char byte = 0;
        [[maybe_unused]] const ssize_t n = ::read(out.get(), &byte, 1);
    });
    while (!begun) std::this_thread::yield();
    CHECK(look(for_some_time).empty());
    in.reset();
    thread.join();
}

TEST_CASE("of many threads the one that hangs is found, and one that is gone is not") {
    std::mutex mutex;
    mutex.lock();
    for (int i = 0; i < 20; ++i) {
        std::thread([] { const AtWork at_work("what is done soon"); }).join();
    }
    const Busy idle([](const Flag& stop, Flag& begun) {
        begun = true;
        while (!stop) std::this_thread::sleep_for(1ms);
    });
    const Busy working([](const Flag& stop, Flag& begun) {
        begun = true;
        while (!stop) {
            const AtWork at_work("a step");
            std::this_thread::sleep_for(1ms);
        }
    });
    std::thread hanging([&] {
        const AtWork at_work("a deadlock");
        const std::lock_guard lock(mutex);
    });
    CHECK(look(for_long) == "a deadlock");
    mutex.unlock();
    hanging.join();
}
