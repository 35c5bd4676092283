#include "lib/former_workers.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

#include "tests/unit/workers.h"

using namespace nosigbus;
using namespace nosigbus::test;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;

// A worker that has noted itself and does not end.
struct Lingering {
    explicit Lingering(Lifeline& line)
        : pid(start_worker([&line] {
              FormerWorkers::note_this_one(line);
              for (;;) ::pause();
          })),
          place(place_of(line)) {}
    Lingering(const Lingering&) = delete;
    Lingering& operator=(const Lingering&) = delete;
    ~Lingering() {
        if (pid == 0) return;
        end();
        status_of(pid);
    }

    void end() const { ::kill(pid, SIGKILL); }

    // Waits for its note.
    static std::size_t place_of(Lifeline& line) {
        while (line.former[0] < 0) std::this_thread::sleep_for(1ms);
        return 0;
    }

    pid_t pid;
    std::size_t place;
};

}  // namespace

TEST_CASE("where there was no worker before, nobody waits for one") {
    SharedState state;
    FormerWorkers former(state.lifeline());
    const auto start = Clock::now();
    former.wait();
    CHECK(Clock::now() - start < FormerWorkers::patience / 2);
    CHECK(former.are_gone());
}

TEST_CASE("a worker that has died is gone at once, and its place is free") {
    const NoStrays no_strays;
    SharedState state;
    Lifeline& line = state.lifeline();
    REQUIRE(run_worker([&] { FormerWorkers::note_this_one(line); }) == 0);
    const int noted = line.former[0];
    REQUIRE(is_open(noted));
    FormerWorkers former(line);
    CHECK(former.are_gone());
    CHECK(line.former[0] == -1);
    CHECK_FALSE(is_open(noted));
    CHECK(former.are_gone());
}

TEST_CASE("who waits for a worker that lingers goes on when it has ended") {
    const NoStrays no_strays;
    SharedState state;
    const Lingering worker(state.lifeline());
    const int noted = state.lifeline().former[worker.place];
    FormerWorkers former(state.lifeline());
    CHECK_FALSE(former.are_gone());
    CHECK(state.lifeline().former[worker.place] == noted);
    std::thread ending([&] {
        std::this_thread::sleep_for(100ms);
        worker.end();
    });
    const auto start = Clock::now();
    former.wait();
    const auto waited = Clock::now() - start;
    ending.join();
    CHECK(former.are_gone());
    CHECK(waited >= 90ms);
    CHECK(state.lifeline().former[worker.place] == -1);
    CHECK_FALSE(is_open(noted));
}

TEST_CASE("a worker that does not end is waited for so long and no longer, by all together") {
    const NoStrays no_strays;
    SharedState state;
    const Lingering worker(state.lifeline());
    FormerWorkers former(state.lifeline());
    const auto start = Clock::now();
    std::thread other([&] { former.wait(); });
    former.wait();
    other.join();
    const auto waited = Clock::now() - start;
    CHECK(waited >= FormerWorkers::patience - 50ms);
    CHECK(waited < 2 * FormerWorkers::patience);
    CHECK_FALSE(former.are_gone());
    const auto again = Clock::now();
    former.wait();
    CHECK(Clock::now() - again < FormerWorkers::patience / 2);
    // Whoever asks later learns of its end.
    worker.end();
    bool gone = false;
    for (int i = 0; i < 1000 && !gone; ++i) {
        gone = former.are_gone();
        std::this_thread::sleep_for(10ms);
    }
    CHECK(gone);
}

TEST_CASE("only so many workers may linger at once") {
    const NoStrays no_strays;
    SharedState state;
    Lifeline& line = state.lifeline();
    for (std::size_t i = 0; i < Lifeline::former_at_most; ++i) FormerWorkers::note_this_one(line);
    const std::size_t open = open_descriptors().size();
    try {
        FormerWorkers::note_this_one(line);
        FAIL("noted one more than there are places");
    } catch (const std::system_error& failure) {
        CHECK(failure.code().value() == EAGAIN);
    }
    CHECK(open_descriptors().size() == open);
    FormerWorkers former(line);
    CHECK_FALSE(former.are_gone());  // it is us
}
