#include "lib/shared_state.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <initializer_list>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "lib/syscalls.h"

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

namespace {

// What another process would map: the same memory by another descriptor.
UniqueFd again(const SharedState& state) {
    return UniqueFd(sys::check(::fcntl(state.descriptor(), F_DUPFD_CLOEXEC, 0), "fcntl"));
}

// The memory as it is at this moment, apart from what becomes of it: what a crash would leave.
UniqueFd copy_of(const SharedState& state) {
    UniqueFd copy(sys::check(::memfd_create("copy", MFD_CLOEXEC), "memfd_create"));
    const off_t size = sys::file_size(state.descriptor());
    sys::check(::ftruncate(copy.get(), size), "ftruncate");
    std::vector<std::byte> bytes;
    for (off_t at = 0; (at = ::lseek(state.descriptor(), at, SEEK_DATA)) >= 0;) {
        const off_t end = ::lseek(state.descriptor(), at, SEEK_HOLE);
        bytes.resize(static_cast<std::size_t>(end - at));
        sys::read_at(state.descriptor(), bytes, at);
        sys::write_at(copy.get(), bytes, at);
        at = end;
    }
    return copy;
}

std::string why_unreadable(UniqueFd memory) {
    try {
        const SharedState state(std::move(memory));
    } catch (const UnreadableState& failure) {
        return failure.what();
    }
    return "";
}

template <typename T>
UniqueFd with(UniqueFd memory, off_t offset, T value) {
    sys::check(::pwrite(memory.get(), &value, sizeof value, offset), "pwrite");
    return memory;
}

}  // namespace

TEST_CASE("who maps the state anew sees all that the one before left") {
    SharedState first;
    NodeSlot& node = first.nodes().take();
    node.inode = 42;
    node.lookups = 3;
    node.descriptor = -1;
    const SlotId node_id = first.nodes().publish(node);
    OpenFileSlot& file = first.open_files().take();
    file.node = node_id;
    file.descriptor = -1;
    const SlotId file_id = first.open_files().publish(file);
    LookupSlot& lookup = first.lookups().take();
    lookup.request = 7;
    first.lookups().publish(lookup);
    DeedSlot& deed = first.deeds().take();
    deed.result = 99;
    first.deeds().publish(deed);
    TruncationSlot& truncation = first.truncations().take();
    truncation.size = 1234;
    first.truncations().publish(truncation);
    const std::array init = {std::byte{1}, std::byte{2}};
    first.keep_init(init);
    first.accepted_flags() = 0x1234'5678'9abc;
    first.counters().events = 5;
    first.lifeline().beats = 6;

    for (const bool from_copy : {false, true}) {
        CAPTURE(from_copy);
        SharedState second(from_copy ? copy_of(first) : again(first));
        REQUIRE(second.nodes().taken().size() == 1);
        CHECK(second.nodes().taken()[0].id == node_id);
        CHECK(second.nodes().taken()[0].inode == 42);
        CHECK(second.nodes().taken()[0].lookups == 3);
        REQUIRE(second.open_files().taken().size() == 1);
        CHECK(second.open_files().taken()[0].id == file_id);
        CHECK(second.open_files().taken()[0].node == node_id);
        REQUIRE(second.lookups().taken().size() == 1);
        CHECK(second.lookups().taken()[0].request == 7);
        REQUIRE(second.deeds().taken().size() == 1);
        CHECK(second.deeds().taken()[0].result == 99);
        REQUIRE(second.truncations().taken().size() == 1);
        CHECK(second.truncations().taken()[0].size == 1234);
        CHECK(std::ranges::equal(second.init(), init));
        CHECK(second.accepted_flags() == 0x1234'5678'9abc);
        CHECK(second.counters().events == 5);
        CHECK(second.lifeline().beats == 6);
    }
}

TEST_CASE("slots that were given back are found by who maps the state anew, and those in use are not") {
    SharedState first;
    std::vector<NodeSlot*> slots;
    for (int i = 0; i < 10; ++i) {
        slots.push_back(&first.nodes().take());
        first.nodes().publish(*slots.back());
    }
    for (const std::size_t i : {std::size_t{3}, std::size_t{7}}) first.nodes().give_back(*slots[i]);
    SharedState second(again(first));
    const auto all = second.nodes().taken();
    std::set<NodeSlot*> found;
    for (int i = 0; i < 2; ++i) found.insert(&second.nodes().take());
    CHECK(found == std::set<NodeSlot*>{&all[3], &all[7]});
    CHECK(second.nodes().taken().size() == 10);
    second.nodes().take();
    CHECK(second.nodes().taken().size() == 11);
}

TEST_CASE("a slot that was taken and never came into use is free for the next, with an id that nobody has had") {
    SharedState first;
    std::set<SlotId> seen;
    NodeSlot& used = first.nodes().take();
    seen.insert(first.nodes().publish(used));
    first.nodes().give_back(used);
    NodeSlot& taken = first.nodes().take();
    taken.descriptor = 77;
    taken.lookups = 5;
    SharedState second(again(first));
    NodeSlot& slot = second.nodes().take();
    CHECK(&slot - second.nodes().taken().data() == 0);
    CHECK(seen.insert(second.nodes().publish(slot)).second);
}

TEST_CASE("a slot that was being given back keeps its id out of use, wherever that ended") {
    for (const bool is_free : {false, true}) {
        CAPTURE(is_free);
        SharedState first;
        NodeSlot& slot = first.nodes().take();
        const SlotId id = first.nodes().publish(slot);
        ++slot.turn;  // as far as it came
        if (is_free) slot.id = 0;
        SharedState second(again(first));
        NodeSlot& left = second.nodes().taken()[0];
        if (!is_free) second.nodes().give_back(left);
        CHECK(&second.nodes().take() == &left);
        CHECK(second.nodes().publish(left) != id);
    }
}

TEST_CASE("a slot whose ids are used up stays so for who maps the state anew") {
    SharedState first;
    NodeSlot& slot = first.nodes().take();
    slot.turn = last_turn;
    first.nodes().publish(slot);
    first.nodes().give_back(slot);
    SharedState second(again(first));
    CHECK(&second.nodes().take() != second.nodes().taken().data());
}

TEST_CASE("a slot whose last id was being given back when its worker died is not taken again") {
    SharedState first;
    NodeSlot& slot = first.nodes().take();
    slot.turn = last_turn;
    first.nodes().publish(slot);
    ++slot.turn;  // as far as it came
    SharedState second(again(first));
    second.nodes().give_back(second.nodes().taken()[0]);
    CHECK(&second.nodes().take() != second.nodes().taken().data());
}

TEST_CASE("look_at_slots finds what another process has done since") {
    SharedState first;
    SharedState second(again(first));
    NodeSlot& slot = second.nodes().take();
    second.nodes().publish(slot);
    first.look_at_slots();
    CHECK(&first.nodes().take() != &first.nodes().taken()[0]);
}

TEST_CASE("memory that is no state of this nosigbus is refused in one line that says so") {
    const SharedState state;
    constexpr off_t version_at = 8;
    constexpr off_t size_at = 12;
    CHECK(why_unreadable(copy_of(state)).empty());
    CHECK(why_unreadable(with(copy_of(state), 0, 'N')) == "there is no state of nosigbus");
    CHECK(why_unreadable(UniqueFd(::memfd_create("empty", MFD_CLOEXEC))) == "there is no state of nosigbus");
    const std::string text = why_unreadable(with(copy_of(state), version_at, std::uint32_t{4711}));
    CHECK(text.starts_with("the state is of version 4711, and this nosigbus reads version "));
    CHECK(text.find('\n') == std::string::npos);
    CHECK(why_unreadable(with(copy_of(state), size_at, std::uint32_t{8})) == "the state is of another kind of machine");
    const UniqueFd longer = copy_of(state);
    REQUIRE(::ftruncate(longer.get(), sys::file_size(longer.get()) + 4096) == 0);
    CHECK(why_unreadable(UniqueFd(::dup(longer.get()))) == "the state is of another kind of machine");
    const UniqueFd shorter = copy_of(state);
    REQUIRE(::ftruncate(shorter.get(), 64) == 0);
    CHECK(why_unreadable(UniqueFd(::dup(shorter.get()))) == "there is no state of nosigbus");
}

TEST_CASE("an INIT request longer than any known one is kept as far as there is room") {
    SharedState state;
    CHECK(state.init().empty());
    std::vector<std::byte> request(1000, std::byte{7});
    state.keep_init(request);
    CHECK(state.init().size() == 256);
    request.resize(104);
    state.keep_init(request);
    CHECK(std::ranges::equal(state.init(), request));
}

TEST_CASE("all descriptors that the state names are told, each once, and those of free slots are not") {
    SharedState state;
    std::vector<int> told;
    const auto note = [&told](int descriptor) { told.push_back(descriptor); };
    state.for_each_descriptor(note);
    CHECK(told == std::vector{state.descriptor()});

    Lifeline& line = state.lifeline();
    line.device = 1001;
    line.inotify = 1002;
    line.mount_namespace = 1003;
    line.successor_ready = 1005;
    line.former[0] = 1006;
    line.former[Lifeline::former_at_most - 1] = 1007;
    for (const int descriptor : {1008, 9999, 1009}) {
        NodeSlot& slot = state.nodes().take();
        slot.descriptor = descriptor;
        slot.shadow = descriptor == 1008 ? -1 : descriptor + 1000;
        slot.leaving = descriptor == 1008 ? 3008 : slot.shadow.load();
        state.nodes().publish(slot);
    }
    state.nodes().give_back(state.nodes().taken()[1]);
    OpenFileSlot& file = state.open_files().take();
    file.descriptor = 1010;
    state.open_files().publish(file);
    state.open_files().take().descriptor = 9998;  // not in use yet

    told.clear();
    state.for_each_descriptor(note);
    std::sort(told.begin(), told.end());
    std::vector<int> expected = {state.descriptor(), 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 2009, 3008};
    std::sort(expected.begin(), expected.end());
    CHECK(told == expected);
}

TEST_CASE("the memory costs what is used of it") {
    const SharedState state;
    struct stat attributes {};
    REQUIRE(::fstat(state.descriptor(), &attributes) == 0);
    CHECK(attributes.st_size > off_t{100} << 20);
    CHECK(attributes.st_blocks * 512 < 64 << 10);
}
