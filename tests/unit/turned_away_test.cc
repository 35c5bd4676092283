#include "lib/turned_away.h"

#include <doctest/doctest.h>

#include <chrono>

#include "tests/unit/source.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

TurnedAway::Clock::time_point now;

struct Door {
    Source source;
    TurnedAway turned_away{source.state.lifeline(), [] { return now; }};

    NodePtr make(const std::string& name) {
        make_file(source.directory.file(name));
        return source.look_up(name);
    }
};

constexpr pid_t thread = 1000;
constexpr auto sharing_its_place = static_cast<pid_t>(thread + Lifeline::turned_away_at_most);

}  // namespace

TEST_CASE("who was turned away is known until he comes in") {
    Door door;
    const NodePtr file = door.make("file");
    CHECK_FALSE(door.turned_away.has(thread));
    door.turned_away.add(thread, *file);
    CHECK(door.turned_away.has(thread));
    CHECK_FALSE(door.turned_away.has(thread + 1));
    CHECK(door.turned_away.remove(thread, *file));
    CHECK_FALSE(door.turned_away.has(thread));
    CHECK_FALSE(door.turned_away.remove(thread, *file));
}

TEST_CASE("who comes with another file has not been turned away from it, and is forgotten all the same") {
    Door door;
    const NodePtr file = door.make("file");
    const NodePtr other = door.make("other");
    door.turned_away.add(thread, *file);
    CHECK_FALSE(door.turned_away.remove(thread, *other));
    CHECK_FALSE(door.turned_away.has(thread));
}

TEST_CASE("who does not come back soon is forgotten") {
    Door door;
    const NodePtr file = door.make("file");
    door.turned_away.add(thread, *file);
    now += TurnedAway::patience - std::chrono::milliseconds(1);
    CHECK(door.turned_away.has(thread));
    now += std::chrono::milliseconds(1);
    CHECK_FALSE(door.turned_away.has(thread));
    CHECK_FALSE(door.turned_away.remove(thread, *file));
    // And has not been turned away for another time.
    door.turned_away.add(thread, *file);
    CHECK(door.turned_away.remove(thread, *file));
}

TEST_CASE("of two whose places are one, the later one is known, and not for the earlier one") {
    Door door;
    const NodePtr file = door.make("file");
    door.turned_away.add(thread, *file);
    door.turned_away.add(sharing_its_place, *file);
    CHECK_FALSE(door.turned_away.has(thread));
    CHECK_FALSE(door.turned_away.remove(thread, *file));
    CHECK(door.turned_away.remove(sharing_its_place, *file));
}

TEST_CASE("a thread that we are told nothing of is never known") {
    Door door;
    const NodePtr file = door.make("file");
    door.turned_away.add(0, *file);
    CHECK_FALSE(door.turned_away.has(0));
    CHECK_FALSE(door.turned_away.remove(0, *file));
}
