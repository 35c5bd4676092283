#include "lib/allowance.h"

#include <doctest/doctest.h>

using nosigbus::Allowance;
using namespace std::chrono_literals;

namespace {

// Any point in time but the clock's own beginning.
constexpr Allowance::Clock::time_point start{100s};

}  // namespace

TEST_CASE("a burst passes as fast as it comes") {
    Allowance allowance(10, 20ms);
    CHECK(allowance.ready(start) == start);
    auto now = start;
    for (int i = 0; i < 19; ++i) {
        allowance.spend(1ms, now);
        CHECK(allowance.ready(now) == now);
    }
}

TEST_CASE("after the burst it is a share of the time") {
    Allowance allowance(10, 20ms);
    auto now = start;
    Allowance::Clock::duration spent{};
    while (now < start + 10s) {
        allowance.spend(1ms, now += 1ms);
        spent += 1ms;
        const auto ready = allowance.ready(now);
        CHECK(ready >= now);
        now = ready;
    }
    CHECK(spent > 900ms);
    CHECK(spent < 1200ms);
}

TEST_CASE("what is spent beyond the allowance is waited for, and then there is something left") {
    Allowance allowance(50, 10ms);
    allowance.spend(18ms, start);
    const auto ready = allowance.ready(start);
    CHECK(ready >= start + 16ms);
    CHECK(ready <= start + 20ms);
    CHECK(allowance.ready(start + 8ms) > start + 8ms);
    CHECK(allowance.ready(ready) == ready);
    // Not for one moment only: it does not stop and go for every bit.
    allowance.spend(1us, ready);
    CHECK(allowance.ready(ready) == ready);
}

TEST_CASE("what took very long once is waited for no longer than a burst takes to be earned") {
    Allowance allowance(50, 10ms);
    allowance.spend(1h, start);
    CHECK(allowance.ready(start) <= start + 25ms);
    CHECK(allowance.ready(start) >= start + 20ms);
}

TEST_CASE("no more than a burst is ever saved") {
    Allowance allowance(50, 10ms);
    allowance.spend(1ms, start);
    const auto later = start + 1h;
    CHECK(allowance.ready(later) == later);
    allowance.spend(9ms, later);
    CHECK(allowance.ready(later) == later);
    allowance.spend(2ms, later);
    CHECK(allowance.ready(later) > later);
}

TEST_CASE("to ask costs nothing") {
    Allowance asked(10, 20ms);
    Allowance left_alone(10, 20ms);
    asked.spend(120ms, start);
    left_alone.spend(120ms, start);
    for (auto now = start; now < start + 500ms; now += 1ms) asked.ready(now);
    CHECK(asked.ready(start + 500ms) == left_alone.ready(start + 500ms));
}
