#include "lib/shared_state.h"

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <set>
#include <system_error>

using namespace nosigbus;

TEST_CASE("the first node's id is FUSE_ROOT_ID") {
    SharedState state;
    CHECK(state.nodes().publish(state.nodes().take()) == 1);
}

TEST_CASE("an id is never used again") {
    SharedState state;
    std::set<SlotId> seen;
    for (int turn = 0; turn < 1000; ++turn) {
        NodeSlot& slot = state.nodes().take();
        const SlotId id = state.nodes().publish(slot);
        CHECK(slot.id == id);
        CHECK(seen.insert(id).second);
        state.nodes().give_back(slot);
        CHECK(slot.id == 0);
    }
}

TEST_CASE("a full table says ENFILE and has room again when a slot is given back") {
    std::array<NodeSlot, 4> slots{};
    std::atomic<std::uint64_t> high{0};
    SlotTable<NodeSlot> table(slots, high);
    std::array<NodeSlot*, 3> taken{};  // slot 0 is never used
    for (NodeSlot*& slot : taken) table.publish(*(slot = &table.take()));
    try {
        table.take();
        FAIL("took a slot that is not there");
    } catch (const std::system_error& failure) {
        CHECK(failure.code().value() == ENFILE);
    }
    table.give_back(*taken[1]);
    CHECK(&table.take() == taken[1]);
}

TEST_CASE("a slot whose ids are used up is not taken again") {
    std::array<NodeSlot, 3> slots{};
    std::atomic<std::uint64_t> high{0};
    SlotTable<NodeSlot> table(slots, high);
    NodeSlot& slot = table.take();
    slot.turn = last_turn;
    table.publish(slot);
    table.give_back(slot);
    CHECK(&table.take() != &slot);
    CHECK_THROWS_AS(table.take(), std::system_error);
}
