// Nodes, open files and watches, as a worker finds them that another one left.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>

#include "tests/unit/source.h"
#include "tests/unit/workers.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr off_t M = Worker::max_size;

struct Ids {
    NodeId a;
    NodeId b;
    SlotId handle;
    SlotId other_handle;
};

std::string watches_of(int inotify) {
    std::ifstream info("/proc/self/fdinfo/" + std::to_string(inotify));
    std::string watches;
    for (std::string line; std::getline(info, line);) {
        if (line.starts_with("inotify wd:")) watches += line.substr(0, line.find(" sdev")) + '\n';
    }
    return watches;
}

std::size_t count_of_watches(SharedState& state) {
    const std::string watches = watches_of(state.lifeline().inotify);
    return static_cast<std::size_t>(std::count(watches.begin(), watches.end(), '\n'));
}

}  // namespace

TEST_CASE("a worker finds the nodes of the one before by their ids and by their inodes, with their lookups") {
    House house;
    const Shared<Ids> ids;
    make_file(house.file("a"), "hello");
    make_file(house.file("b"));
    house.live_and_die([&](Worker& worker) {
        ids->b = worker.known(house.file("b"))->id();
        ids->a = worker.known(house.file("a"))->id();
        worker.known(house.file("a"));
    });
    Successor worker(house);
    CHECK(worker.knows(1));
    CHECK(worker.known(house.file("a"))->id() == ids->a);
    CHECK(worker.known(house.file("b"))->id() == ids->b);
    CHECK(worker.known(house.directory.path())->id() == 1);
    CHECK(worker.nodes.get(ids->a)->key() == key_of(sys::stat_fd(worker.nodes.get(ids->a)->descriptor(), STATX_INO)));
    // The kernel knows it three times.
    worker.nodes.forget(ids->a, 2);
    CHECK(worker.knows(ids->a));
    worker.nodes.forget(ids->a, 1);
    CHECK_FALSE(worker.knows(ids->a));
    CHECK(worker.knows(ids->b));
}

TEST_CASE("hard links still share a node after a worker has died") {
    House house;
    const Shared<Ids> ids;
    make_file(house.file("a"));
    std::filesystem::create_hard_link(house.file("a"), house.file("b"));
    house.live_and_die([&](Worker& worker) { ids->a = worker.known(house.file("a"))->id(); });
    std::filesystem::remove(house.file("a"));
    Successor worker(house);
    CHECK(worker.known(house.file("b"))->id() == ids->a);
}

TEST_CASE("a node that only its worker needed goes with it, and one that an open file needs stays") {
    House house;
    const Shared<Ids> ids;
    make_file(house.file("a"), "hello");
    make_file(house.file("b"), "hello");
    house.live_and_die([&](Worker& worker) {
        const NodePtr* const a = &left<NodePtr>(worker.known(house.file("a")));
        ids->a = (*a)->id();
        worker.nodes.forget(ids->a, 1);  // and the worker still works with it
        const NodePtr b = worker.known(house.file("b"));
        ids->b = b->id();
        ids->handle = worker.open(b, O_RDONLY)->id();
        worker.nodes.forget(b->id(), 1);
    });
    CHECK(in_use(house.state.nodes()) == 3);
    {
        Successor worker(house);
        CHECK(in_use(house.state.nodes()) == 2);
        CHECK_FALSE(worker.knows(ids->a));
        CHECK_FALSE(worker.knows(ids->b));
        CHECK(worker.files.get(ids->handle)->node()->id() == ids->b);
        // What is looked up now is another node for the kernel.
        CHECK(worker.known(house.file("b"))->id() != ids->b);
        CHECK(worker.known(house.file("a"))->id() != ids->a);
        worker.files.remove(ids->handle);
        CHECK(in_use(house.state.nodes()) == 3);
    }
    CHECK(in_use(house.state.nodes()) == 0);
}

TEST_CASE("what the kernel may have been told of a view's size is not less in the next worker") {
    House house;
    const Shared<Ids> ids;
    make_file(house.file("a"), "hello");
    make_file(house.file("b"), "hello");
    house.live_and_die([&](Worker& worker) {
        const NodePtr a = worker.known(house.file("a"));
        const NodePtr b = worker.known(house.file("b"));
        *ids = {.a = a->id(), .b = b->id(), .handle = 0, .other_handle = 0};
        a->grow_view(5 * M);
        a->told_kernel();
        a->grow_view(7 * M);  // and before the kernel is told it dies
        a->note_failed_past_view();
        static_cast<void>(b->next_unversioned_size());
    });
    Successor worker(house);
    Node& a = *worker.nodes.get(ids->a);
    CHECK(a.is_regular());
    CHECK(a.view_size() == 7 * M);
    CHECK(a.outgrown());
    CHECK_FALSE(a.is_known_to_kernel());
    CHECK_FALSE(a.holds(1));
    a.told_kernel();
    CHECK(a.holds(7 * M));
    CHECK(a.has_failed_past_view());
    a.forget_failed_past_view();
    CHECK_FALSE(a.has_failed_past_view());
    Node& b = *worker.nodes.get(ids->b);
    CHECK(b.view_size() == M);
    CHECK_FALSE(b.outgrown());
    CHECK(b.is_known_to_kernel());
    CHECK_FALSE(b.has_failed_past_view());
    CHECK(b.view_if_opened() == nullptr);
}

TEST_CASE("nodes outlive many workers, and none of their ids is used twice") {
    House house;
    const Shared<std::array<NodeId, 20>> ids;
    std::map<NodeId, int> seen;
    for (std::size_t turn = 0; turn < ids->size(); ++turn) {
        const std::string name = house.file(std::to_string(turn));
        make_file(name);
        house.live_and_die([&](Worker& worker) {
            (*ids)[turn] = worker.known(name)->id();
            if (turn % 3 == 2) worker.nodes.forget((*ids)[turn - 1], 1);
        });
        CHECK(seen[(*ids)[turn]]++ == 0);
    }
    Successor worker(house);
    for (std::size_t turn = 0; turn < ids->size(); ++turn) {
        CAPTURE(turn);
        CHECK(worker.knows((*ids)[turn]) == (turn % 3 != 1 || turn + 1 == ids->size()));
    }
}

TEST_CASE("open files keep their handles, what may be done with them, and their place in the view") {
    House house;
    const Shared<Ids> ids;
    make_file(house.file("a"), "hello");
    house.live_and_die([&](Worker& worker) {
        const NodePtr a = worker.known(house.file("a"));
        ids->a = a->id();
        ids->handle = worker.open(a, O_RDWR)->id();
        ids->other_handle = worker.open(a, O_RDONLY)->id();
    });
    Successor worker(house);
    View& view = worker.nodes.get(ids->a)->view();
    CHECK(view.has_writers());
    {
        const OpenFilePtr file = worker.files.get(ids->handle);
        CHECK(file->is_writable());
        CHECK(::pwrite(file->descriptor(), "J", 1, 0) == 1);
        const OpenFilePtr other = worker.files.get(ids->other_handle);
        CHECK_FALSE(other->is_writable());
        CHECK(content_of(other->descriptor()) == "Jello");
        CHECK(other->node() == file->node());
    }
    worker.files.remove(ids->handle);
    CHECK_FALSE(view.has_writers());
    CHECK(view.begin_push());  // the reader is still there
    view.end_push();
    worker.files.remove(ids->other_handle);
    CHECK_FALSE(view.begin_push());
    CHECK_FALSE(worker.has_handle(ids->handle));
    CHECK_FALSE(worker.has_handle(ids->other_handle));
    const SlotId next = worker.open(worker.nodes.get(ids->a), O_RDONLY)->id();
    CHECK(next != ids->handle);
    CHECK(next != ids->other_handle);
}

TEST_CASE("directories are taken over too, without a view and without a watch") {
    House house;
    const Shared<Ids> ids;
    house.live_and_die([&](Worker& worker) {
        const NodePtr root = worker.nodes.get(1);
        constexpr int flags = O_RDONLY | O_DIRECTORY;
        ids->handle = worker.files.add(root, sys::open_at(root->descriptor(), ".", flags), flags, {})->id();
    });
    Successor worker(house);
    CHECK(worker.files.get(ids->handle)->node()->id() == 1);
    CHECK(worker.watcher.open_nodes().empty());
    CHECK(worker.nodes.get(1)->view_if_opened() == nullptr);
}

TEST_CASE("an open file is known by the request it was for until the kernel has the handle") {
    House house;
    const Shared<Ids> ids;
    make_file(house.file("a"));
    house.live_and_die([&](Worker& worker) {
        const NodePtr a = worker.known(house.file("a"));
        ids->handle = worker.open(a, O_RDONLY, 77)->id();
        worker.open(a, O_RDONLY, 78)->note_taken();
    });
    Successor worker(house);
    REQUIRE(worker.files.opened_for(77));
    CHECK(worker.files.opened_for(77)->id() == ids->handle);
    CHECK_FALSE(worker.files.opened_for(78));
    CHECK_FALSE(worker.files.opened_for(79));
    worker.files.opened_for(77)->note_taken();
    CHECK_FALSE(worker.files.opened_for(77));
    CHECK(worker.has_handle(ids->handle));
}

TEST_CASE("a change between two workers is heard by the second: files keep their watches") {
    House house;
    const Shared<Ids> ids;
    const UniqueFd file = make_file(house.file("a"), "hello");
    house.live_and_die([&](Worker& worker) {
        const NodePtr a = worker.known(house.file("a"));
        ids->a = a->id();
        ids->handle = worker.open(a, O_RDONLY)->id();
    });
    const std::string watches = watches_of(house.state.lifeline().inotify);
    CHECK(count_of_watches(house.state) == 1);
    REQUIRE(::ftruncate(file.get(), 1) == 0);  // there is nobody who could be told
    std::mutex mutex;
    std::map<NodeId, int> heard;
    Successor worker(house);
    worker.changed = [&](const NodePtr& node) {
        const std::lock_guard lock(mutex);
        ++heard[node->id()];
    };
    const auto times = [&] {
        const std::lock_guard lock(mutex);
        return heard[ids->a];
    };
    worker.watcher.start();
    CHECK(comes_true([&] { return times() > 0; }));
    const int before = times();
    REQUIRE(::ftruncate(file.get(), 2) == 0);
    CHECK(comes_true([&] { return times() > before; }));
    worker.watcher.stop();
    CHECK(watches_of(house.state.lifeline().inotify) == watches);  // the same, added once more
    worker.files.remove(ids->handle);
    CHECK(count_of_watches(house.state) == 0);
}

TEST_CASE("watches of files that nobody has open any more are dropped, and no others") {
    House house;
    const Shared<Ids> ids;
    make_file(house.file("a"));
    make_file(house.file("b"));
    house.live_and_die([&](Worker& worker) {
        ids->handle = worker.open(worker.known(house.file("a")), O_RDONLY)->id();
        // Watched, and not yet open when it dies.
        left<ChangeWatcher::Watch>(worker.watcher.watch(worker.known(house.file("b"))));
    });
    CHECK(count_of_watches(house.state) == 2);
    Successor worker(house);
    CHECK(count_of_watches(house.state) == 1);
    CHECK(worker.watcher.open_nodes().size() == 1);
    CHECK(worker.watcher.unwatched().empty());
    const auto watch = worker.watcher.watch(worker.known(house.file("b")));
    CHECK(count_of_watches(house.state) == 2);
    worker.watcher.drop_other_watches();
    CHECK(count_of_watches(house.state) == 2);
}

TEST_CASE("what a watcher keeps by many numbers it does not drop") {
    House house;
    house.live_and_die([](Worker& /*worker*/) {});
    Successor worker(house);
    std::vector<ChangeWatcher::Watch> watches;
    for (int i = 0; i < 40; ++i) {  // more than a hexadecimal digit tells
        make_file(house.file(std::to_string(i)));
        watches.push_back(worker.watcher.watch(worker.known(house.file(std::to_string(i)))));
    }
    worker.watcher.drop_other_watches();
    CHECK(count_of_watches(house.state) == 40);
}
