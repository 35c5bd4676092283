// A worker that dies at every step of its life, one after the other: what the next one finds then.
#ifdef NOSIGBUS_FAULT_POINTS

#include <doctest/doctest.h>

#include <array>
#include <map>
#include <set>
#include <string>

#include "lib/fault_point.h"
#include "tests/unit/workers.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr off_t M = Worker::max_size;

// What the kernel knows, as the worker's life goes on.
struct Kernel {
    static constexpr std::size_t names = 3;

    struct Known {
        NodeId id;
        std::uint64_t lookups;
        off_t size;
    };
    std::array<Known, names> nodes;
    std::array<SlotId, 4> handles;
    RequestNumber in_flight;          // 0: none
    std::array<NodeId, 64> node_ids;  // that there ever were
    std::size_t node_id_count;
    std::array<SlotId, 64> handle_ids;
    std::size_t handle_id_count;
    // Of the deed that is in flight.
    bool is_changing;
    bool executed;
    std::int64_t result;

    void note_id(NodeId id) { node_ids.at(node_id_count++) = id; }
    void note_handle(SlotId id) { handle_ids.at(handle_id_count++) = id; }
};

struct KernelsHouse : House {
    Shared<Kernel> kernel;
    std::array<std::string, Kernel::names> paths;

    KernelsHouse() {
        for (std::size_t i = 0; i < paths.size(); ++i) {
            paths[i] = directory.file(std::to_string(i));
            make_file(paths[i], "hello");
        }
    }
};

// LOOKUP, as a handler does it, with a kernel that takes the answer or does not.
void look_up(Worker& worker, KernelsHouse& house, std::size_t name, RequestNumber request, bool is_taken = true) {
    Kernel& kernel = *house.kernel;
    kernel.in_flight = request;
    Lookup lookup = worker.look_up(house.paths[name], request);
    kernel.note_id(lookup.node()->id());
    if (!is_taken) {
        kernel.in_flight = 0;
        return;
    }
    Kernel::Known& known = kernel.nodes[name];
    if (known.id != lookup.node()->id()) known = {.id = lookup.node()->id(), .lookups = 0, .size = M};
    ++known.lookups;
    kernel.in_flight = 0;
    lookup.keep();
}

void forget(Worker& worker, KernelsHouse& house, std::size_t name, std::uint64_t lookups) {
    Kernel::Known& known = house.kernel->nodes[name];
    const NodeId id = known.id;
    known.lookups -= lookups;
    if (known.lookups == 0) known = {};
    worker.nodes.forget(id, lookups);
}

void open(Worker& worker, KernelsHouse& house, std::size_t name, std::size_t handle, RequestNumber request) {
    Kernel& kernel = *house.kernel;
    kernel.in_flight = request;
    const OpenFilePtr file = worker.open(worker.nodes.get(kernel.nodes[name].id), O_RDWR, request);
    kernel.note_handle(file->id());
    kernel.handles[handle] = file->id();
    kernel.in_flight = 0;
    file->note_taken();
}

void close(Worker& worker, KernelsHouse& house, std::size_t handle) {
    const SlotId id = std::exchange(house.kernel->handles[handle], 0);
    worker.files.remove(id);
}

void change(Worker& worker, KernelsHouse& house, RequestNumber request, std::int64_t result) {
    Kernel& kernel = *house.kernel;
    kernel.executed = false;
    kernel.result = result;
    kernel.is_changing = true;
    kernel.in_flight = request;
    Deed deed = worker.deeds.begin(request, {});
    if (result < 0) {
        deed.failed(static_cast<int>(-result));
    } else {
        kernel.executed = true;
        deed.done(result);
    }
    kernel.in_flight = 0;
    kernel.is_changing = false;
}

void grow(Worker& worker, KernelsHouse& house, std::size_t name, off_t size) {
    Kernel::Known& known = house.kernel->nodes[name];
    const NodePtr node = worker.nodes.get(known.id);
    node->grow_view(size);
    known.size = size;
    node->told_kernel();
}

// All that passes a place where it may die, most of it more than once.
void live(Worker& worker, KernelsHouse& house) {
    worker.add_root(house.directory.path());
    look_up(worker, house, 0, 10);
    look_up(worker, house, 0, 12);
    look_up(worker, house, 1, 14, false);
    look_up(worker, house, 1, 16);
    open(worker, house, 1, 0, 18);
    open(worker, house, 0, 1, 20);
    change(worker, house, 22, 42);
    grow(worker, house, 1, 3 * M);
    forget(worker, house, 0, 1);
    forget(worker, house, 0, 1);  // it stays for who has it open
    look_up(worker, house, 0, 24);
    close(worker, house, 1);
    change(worker, house, 26, -EEXIST);
    look_up(worker, house, 2, 28);
    forget(worker, house, 2, 1);
    look_up(worker, house, 2, 30);
    open(worker, house, 2, 2, 32);
    close(worker, house, 0);
    grow(worker, house, 1, 5 * M);
    change(worker, house, 34, 7);
}

NodeSlot* slot_of(SharedState& state, NodeId id) {
    for (NodeSlot& slot : state.nodes().taken()) {
        if (slot.id == id) return &slot;
    }
    return nullptr;
}

// Each descriptor that a slot in use names is open, and belongs to it alone.
void check_descriptors(SharedState& state) {
    std::set<int> seen;
    const auto check = [&seen](int descriptor) {
        CHECK(is_open(descriptor));
        CHECK(seen.insert(descriptor).second);
    };
    for (const NodeSlot& slot : state.nodes().taken()) {
        if (slot.id != 0) check(slot.descriptor);
    }
    for (const OpenFileSlot& slot : state.open_files().taken()) {
        if (slot.id != 0) check(slot.descriptor);
    }
    state.for_each_descriptor([](int descriptor) { CHECK(is_open(descriptor)); });
}

template <typename Slot>
void check_ids(SlotTable<Slot>& table) {
    const auto slots = table.taken();
    for (std::size_t i = 0; i < slots.size(); ++i) {
        if (slots[i].id != 0) CHECK((slots[i].id & slot_mask) == i + 1);
    }
}

void check_state(KernelsHouse& house) {
    SharedState& state = house.state;
    check_ids(state.nodes());
    check_ids(state.open_files());
    check_ids(state.lookups());
    check_ids(state.deeds());
    check_descriptors(state);
    for (const Kernel::Known& known : house.kernel->nodes) {
        if (known.lookups == 0) continue;
        const NodeSlot* const slot = slot_of(state, known.id);
        REQUIRE(slot != nullptr);
        CHECK(slot->lookups >= known.lookups);
        CHECK(slot->view_size >= known.size);
        CHECK((slot->view_size == M || slot->outgrown));
        struct stat expected {};
        struct stat found {};
        const auto name = static_cast<std::size_t>(&known - house.kernel->nodes.data());
        REQUIRE(::stat(house.paths[name].c_str(), &expected) == 0);
        REQUIRE(::fstatat(slot->descriptor, "", &found, AT_EMPTY_PATH) == 0);
        CHECK(found.st_ino == expected.st_ino);
    }
}

// What was known of a deed that the kernel asks for again.
void check_deed(Worker& worker, const Kernel& kernel) {
    const Deed note = worker.deeds.find(kernel.in_flight);
    if (kernel.executed) REQUIRE(note);
    if (!note || !note.is_done()) return;
    if (kernel.result < 0) {
        CHECK_THROWS_AS(static_cast<void>(note.result()), std::system_error);
    } else {
        CHECK(kernel.executed);
        CHECK(note.result() == kernel.result);
    }
}

// Returns whether the worker died of it.
bool die_at(const std::string& place, unsigned pass) {
    CAPTURE(place);
    CAPTURE(pass);
    KernelsHouse house;
    const int status = run_worker([&] {
        house.state.look_at_slots();
        use_faults(house.state.fault());
        ask_for_fault(place + " die " + std::to_string(pass));
        live(left<Worker>(house.state), house);
    });
    if (!was_killed(status)) {
        CHECK(status == 0);
        return false;
    }
    const Kernel& kernel = *house.kernel;
    SharedState& state = house.state;
    state.look_at_slots();
    check_state(house);
    std::set<NodeId> node_ids(kernel.node_ids.begin(), kernel.node_ids.begin() + kernel.node_id_count);
    std::set<SlotId> handle_ids(kernel.handle_ids.begin(), kernel.handle_ids.begin() + kernel.handle_id_count);
    for (const NodeSlot& slot : state.nodes().taken()) node_ids.insert(slot.id);
    for (const OpenFileSlot& slot : state.open_files().taken()) handle_ids.insert(slot.id);

    Worker worker(state);
    if (in_use(state.nodes()) == 0) return true;  // it died before it had the root
    worker.take_over();
    check_state(house);
    if (kernel.in_flight != 0) worker.unanswered.asked_again(kernel.in_flight);
    check_state(house);
    worker.unanswered.all_asked();
    check_state(house);
    if (kernel.is_changing) check_deed(worker, kernel);

    // One too many is what the shared memory may show for two instructions.
    const std::uint64_t too_many = place == "lookup.counted" || place == "forget" ? 1 : 0;
    for (const Kernel::Known& known : kernel.nodes) {
        if (known.lookups == 0) continue;
        const NodeSlot* const slot = slot_of(state, known.id);
        CHECK(slot->lookups <= known.lookups + too_many);
        CHECK(worker.knows(known.id));
    }
    for (const SlotId handle : kernel.handles) {
        if (handle != 0) CHECK(worker.has_handle(handle));
    }
    CHECK(in_use(state.lookups()) == 0);
    CHECK(in_use(state.deeds()) == 0);
    for (const OpenFileSlot& slot : state.open_files().taken()) CHECK((slot.id == 0 || slot.opening == 0));

    // What comes new has ids of its own.
    for (int i = 0; i < 12; ++i) {
        const std::string path = house.directory.file("new" + std::to_string(i));
        make_file(path);
        const NodePtr node = worker.known(path);
        CHECK(node_ids.insert(node->id()).second);
        CHECK(handle_ids.insert(worker.open(node, O_RDONLY)->id()).second);
        worker.deeds.begin(100, {}).done(1);
    }
    check_state(house);
    return true;
}

}  // namespace

TEST_CASE("wherever a worker dies, the next one finds all that the kernel knows, and gives no id twice") {
    for (const std::string place :
         {"slot.taken", "slot.filled", "slot.published", "slot.turned", "slot.free", "lookup.counted", "lookup.noted",
          "lookup.answered", "forget", "view.grows", "view.grown", "deed.begun", "deed.executed", "deed.done"}) {
        CAPTURE(place);
        unsigned passes = 0;
        while (die_at(place, passes)) ++passes;
        CHECK(passes >= 2);
    }
}

TEST_CASE("a worker that dies over what it takes over leaves no less to the next") {
    for (const std::string first : {"lookup.noted", "deed.executed", "slot.turned"}) {
        for (const std::string second : {"forget", "slot.turned", "slot.free"}) {
            for (unsigned pass = 0;; ++pass) {
                CAPTURE(first);
                CAPTURE(second);
                CAPTURE(pass);
                KernelsHouse house;
                const auto work = [&](const std::string& place, unsigned passes, auto act) {
                    return run_worker([&] {
                        house.state.look_at_slots();
                        use_faults(house.state.fault());
                        ask_for_fault(place + " die " + std::to_string(passes));
                        act(left<Worker>(house.state));
                    });
                };
                REQUIRE(was_killed(work(first, 1, [&](Worker& worker) { live(worker, house); })));
                const RequestNumber in_flight = house.kernel->in_flight;
                const int status = work(second, pass, [&](Worker& worker) {
                    worker.take_over();
                    worker.unanswered.asked_again(in_flight);
                    worker.unanswered.all_asked();
                });
                house.state.look_at_slots();
                check_state(house);
                Worker worker(house.state);
                worker.take_over();
                worker.unanswered.asked_again(in_flight);
                worker.unanswered.all_asked();
                check_state(house);
                CHECK(static_cast<bool>(worker.deeds.find(in_flight)) == (first == "deed.executed"));
                CHECK(in_use(house.state.lookups()) == 0);
                CHECK(in_use(house.state.deeds()) == 0);
                if (!was_killed(status)) break;
            }
        }
    }
}

#endif
