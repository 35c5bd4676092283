#include "lib/unanswered.h"

#include <doctest/doctest.h>

#include <array>

#include "tests/unit/workers.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct Answers : House {
    struct Ids {
        std::array<NodeId, 8> nodes;
        std::array<SlotId, 8> files;
    };
    Shared<Ids> ids;

    Answers() {
        for (const char* name : {"a", "b", "c"}) make_file(directory.file(name), "hello");
    }

    // How often the kernel knows it.
    std::uint64_t lookups(NodeId id) {
        for (const NodeSlot& slot : state.nodes().taken()) {
            if (slot.id == id) return slot.lookups;
        }
        return 0;
    }
};

}  // namespace

TEST_CASE("a lookup for a request that the kernel asks again is taken back, once") {
    Answers house;
    house.live_and_die([&](Worker& worker) {
        house.ids->nodes[0] = worker.known(house.file("a"))->id();
        left<Lookup>(worker.look_up(house.file("a"), 10));
        house.ids->nodes[1] = left<Lookup>(worker.look_up(house.file("b"), 10)).node()->id();
    });
    const NodeId a = house.ids->nodes[0];
    const NodeId b = house.ids->nodes[1];
    CHECK(house.lookups(a) == 2);
    Successor worker(house);
    CHECK(house.lookups(a) == 2);
    CHECK(worker.knows(b));
    worker.unanswered.asked_again(10);
    CHECK(house.lookups(a) == 1);
    CHECK_FALSE(worker.knows(b));
    CHECK(in_use(house.state.lookups()) == 0);
    worker.unanswered.asked_again(10);
    worker.unanswered.all_asked();
    CHECK(house.lookups(a) == 1);
}

TEST_CASE("a lookup for a request that the kernel does not ask again is one that it knows of") {
    Answers house;
    house.live_and_die([&](Worker& worker) {
        house.ids->nodes[0] = left<Lookup>(worker.look_up(house.file("a"), 10)).node()->id();
        left<Lookup>(worker.look_up(house.file("a"), 12));
    });
    const NodeId a = house.ids->nodes[0];
    Successor worker(house);
    worker.unanswered.asked_again(14);
    worker.unanswered.asked_again(12);
    CHECK(house.lookups(a) == 1);
    worker.unanswered.all_asked();
    CHECK(house.lookups(a) == 1);
    CHECK(in_use(house.state.lookups()) == 0);
    // From now on request numbers are those of others.
    worker.unanswered.asked_again(10);
    CHECK(house.lookups(a) == 1);
}

TEST_CASE("all lookups of one request are taken back, as many as a directory has entries") {
    Answers house;
    house.live_and_die([&](Worker& worker) {
        house.ids->nodes[0] = worker.known(house.file("a"))->id();
        for (int i = 0; i < 100; ++i) left<Lookup>(worker.look_up(house.file("a"), i % 2 == 0 ? 10 : 12));
    });
    Successor worker(house);
    CHECK(house.lookups(house.ids->nodes[0]) == 101);
    worker.unanswered.asked_again(10);
    CHECK(house.lookups(house.ids->nodes[0]) == 51);
    worker.unanswered.all_asked();
    CHECK(house.lookups(house.ids->nodes[0]) == 51);
}

TEST_CASE("a lookup that may not have been counted is not taken back: rather one too many than one too few") {
    Answers house;
    house.live_and_die([&](Worker& worker) {
        house.ids->nodes[0] = worker.known(house.file("a"))->id();
        left<Lookup>(worker.look_up(house.file("a"), 10));
    });
    const NodeId a = house.ids->nodes[0];
    for (LookupSlot& slot : house.state.lookups().taken()) slot.is_counted = false;
    Successor worker(house);
    worker.unanswered.asked_again(10);
    CHECK(house.lookups(a) == 2);
    CHECK(in_use(house.state.lookups()) == 0);
}

TEST_CASE("a lookup that was given back in full before its worker died is nobody's concern") {
    Answers house;
    house.live_and_die([&](Worker& worker) {
        house.ids->nodes[0] = worker.known(house.file("a"))->id();
        { const Lookup lookup = worker.look_up(house.file("a"), 10); }
        Lookup lookup = worker.look_up(house.file("a"), 12);
        lookup.keep();
    });
    Successor worker(house);
    for (const RequestNumber request : {10, 12}) worker.unanswered.asked_again(request);
    CHECK(house.lookups(house.ids->nodes[0]) == 2);
}

TEST_CASE("a file that was opened for a request that the kernel asks again is closed, with its watch") {
    Answers house;
    house.live_and_die([&](Worker& worker) {
        const NodePtr a = worker.known(house.file("a"));
        house.ids->files[0] = worker.open(a, O_RDONLY, 10)->id();
        house.ids->files[1] = worker.open(a, O_RDONLY, 12)->id();
        const OpenFilePtr taken = worker.open(a, O_RDWR, 14);
        house.ids->files[2] = taken->id();
        taken->note_taken();
    });
    Successor worker(house);
    int descriptor = worker.files.get(house.ids->files[0])->descriptor();
    worker.unanswered.asked_again(10);
    CHECK_FALSE(worker.has_handle(house.ids->files[0]));
    CHECK_FALSE(is_open(descriptor));
    // Not asked again: the kernel has it.
    worker.unanswered.all_asked();
    CHECK(worker.has_handle(house.ids->files[1]));
    CHECK_FALSE(worker.files.opened_for(12));
    // The kernel had it before its worker died.
    worker.unanswered.asked_again(14);
    CHECK(worker.has_handle(house.ids->files[2]));
    CHECK(in_use(house.state.open_files()) == 2);
}

TEST_CASE("a file that was created for a request is left for it, whatever the note says came of it") {
    for (const bool is_done : {false, true}) {
        CAPTURE(is_done);
        Answers house;
        house.live_and_die([&](Worker& worker) {
            Deed& deed = left<Deed>(worker.deeds.begin(10, {}));
            if (is_done) deed.done(0);
            const NodePtr a = left<Lookup>(worker.look_up(house.file("a"), 10)).node();
            house.ids->nodes[0] = a->id();
            house.ids->files[0] = worker.open(a, O_RDWR, 10)->id();
        });
        Successor worker(house);
        worker.unanswered.asked_again(10);
        CHECK_FALSE(worker.knows(house.ids->nodes[0]));  // its lookup is taken back all the same
        CHECK(worker.has_handle(house.ids->files[0]));
        worker.unanswered.all_asked();
        REQUIRE(worker.files.opened_for(10));
        CHECK(worker.files.opened_for(10)->id() == house.ids->files[0]);
        const Deed found = worker.deeds.find(10);
        REQUIRE(found);
        CHECK(found.is_done() == is_done);
    }
}

TEST_CASE("a worker that dies over what the one before left leaves the same to the next") {
    Answers house;
    house.live_and_die([&](Worker& worker) {
        house.ids->nodes[0] = worker.known(house.file("a"))->id();
        left<Lookup>(worker.look_up(house.file("a"), 10));
        left<Lookup>(worker.look_up(house.file("a"), 12));
        house.ids->files[0] = worker.open(worker.nodes.get(house.ids->nodes[0]), O_RDONLY, 10)->id();
        house.ids->files[1] = worker.open(worker.nodes.get(house.ids->nodes[0]), O_RDONLY, 12)->id();
    });
    house.live_and_die([&](Worker& worker) {
        worker.unanswered.asked_again(10);
        left<Lookup>(worker.look_up(house.file("a"), 10));
        house.ids->files[2] = worker.open(worker.nodes.get(house.ids->nodes[0]), O_RDONLY, 10)->id();
    });
    Successor worker(house);
    CHECK(house.lookups(house.ids->nodes[0]) == 3);
    CHECK_FALSE(worker.has_handle(house.ids->files[0]));
    worker.unanswered.asked_again(10);
    worker.unanswered.asked_again(12);
    worker.unanswered.all_asked();
    CHECK(house.lookups(house.ids->nodes[0]) == 1);
    CHECK(in_use(house.state.open_files()) == 0);
    CHECK(in_use(house.state.lookups()) == 0);
}
