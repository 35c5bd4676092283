#include "lib/change_watcher.h"

#include <doctest/doctest.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <optional>

#include "tests/unit/no_watches.h"
#include "tests/unit/source.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct Heard {
    std::mutex mutex;
    std::condition_variable condition;
    std::map<NodeId, int> count;

    void note(const NodePtr& node) {
        const std::lock_guard lock(mutex);
        ++count[node->id()];
        condition.notify_all();
    }
    bool wait_for(const NodePtr& node, int at_least = 1) {
        std::unique_lock lock(mutex);
        return condition.wait_for(lock, std::chrono::seconds(10), [&] { return count[node->id()] >= at_least; });
    }
    int of(const NodePtr& node) {
        const std::lock_guard lock(mutex);
        return count[node->id()];
    }
};

struct House : Source {
    Heard heard;
    Counters counters;
    ChangeWatcher watcher{[this](const NodePtr& node) { heard.note(node); }, counters};

    House() { watcher.start(); }
};

}  // namespace

TEST_CASE("a change to a watched file is heard, also when it has no name any more") {
    House house;
    const UniqueFd file = make_file(house.directory.file("a"), "hello");
    const NodePtr node = house.look_up("a");
    const auto watch = house.watcher.watch(node);
    REQUIRE(::ftruncate(file.get(), 1) == 0);
    CHECK(house.heard.wait_for(node));
    std::filesystem::rename(house.directory.file("a"), house.directory.file("b"));
    const int before = house.heard.of(node);
    REQUIRE(::pwrite(file.get(), "x", 1, 0) == 1);
    CHECK(house.heard.wait_for(node, before + 1));
    std::filesystem::remove(house.directory.file("b"));
    const int then = house.heard.of(node);
    REQUIRE(::ftruncate(file.get(), 0) == 0);
    CHECK(house.heard.wait_for(node, then + 1));
}

TEST_CASE("a file is watched until the last watch is gone") {
    House house;
    const UniqueFd file = make_file(house.directory.file("a"), "hello");
    const UniqueFd other = make_file(house.directory.file("b"), "hello");
    const NodePtr node = house.look_up("a");
    const NodePtr sentinel = house.look_up("b");
    const auto watch_sentinel = house.watcher.watch(sentinel);
    {
        const auto first = house.watcher.watch(node);
        { const auto second = house.watcher.watch(node); }
        REQUIRE(::ftruncate(file.get(), 1) == 0);
        CHECK(house.heard.wait_for(node));
    }
    const int before = house.heard.of(node);
    REQUIRE(::ftruncate(file.get(), 2) == 0);
    REQUIRE(::ftruncate(other.get(), 2) == 0);  // heard after all that came before it
    CHECK(house.heard.wait_for(sentinel));
    CHECK(house.heard.of(node) == before);
    CHECK(node.use_count() == 2);  // ours and the table's
}

TEST_CASE("who is open is known, and who of them has no watch") {
    House house;
    make_file(house.directory.file("a"));
    make_file(house.directory.file("b"));
    const NodePtr watched = house.look_up("a");
    const NodePtr unwatched = house.look_up("b");
    using Nodes = std::vector<NodePtr>;
    CHECK(house.watcher.open_nodes().empty());
    {
        const auto first = house.watcher.watch(watched);
        CHECK(house.watcher.open_nodes() == Nodes{watched});
        CHECK(house.watcher.unwatched().empty());
        CHECK(house.counters.unwatched_opens == 0);
        const NoWatches none_left;
        const auto second = house.watcher.watch(unwatched);
        CHECK(house.watcher.open_nodes().size() == 2);
        CHECK(house.watcher.unwatched() == Nodes{unwatched});
        CHECK(house.counters.unwatched_opens == 1);
        {
            const auto again = house.watcher.watch(unwatched);
            CHECK(house.watcher.unwatched() == Nodes{unwatched});
        }
        CHECK(house.watcher.unwatched() == Nodes{unwatched});
    }
    CHECK(house.watcher.open_nodes().empty());
    CHECK(house.watcher.unwatched().empty());
    // There are watches again: the next open has one.
    const auto third = house.watcher.watch(unwatched);
    CHECK(house.watcher.unwatched().empty());
    REQUIRE(::truncate(house.directory.file("b").c_str(), 1) == 0);
    CHECK(house.heard.wait_for(unwatched));
}

TEST_CASE("the last of many changes is heard as well, though not each of them") {
    House house;
    const UniqueFd file = make_file(house.directory.file("a"));
    const NodePtr node = house.look_up("a");
    const auto watch = house.watcher.watch(node);
    for (int turn = 0; turn < 20; ++turn) {
        for (int i = 0; i < 500; ++i) REQUIRE(::pwrite(file.get(), "x", 1, i) == 1);
        const int before = house.heard.of(node);
        REQUIRE(::pwrite(file.get(), "y", 1, 0) == 1);
        REQUIRE(house.heard.wait_for(node, before + 1));
    }
    CHECK(house.counters.events > 0);
}

TEST_CASE("each of many files that change at once is heard") {
    House house;
    std::vector<UniqueFd> files;
    std::vector<NodePtr> nodes;
    std::vector<ChangeWatcher::Watch> watches;
    for (int i = 0; i < 300; ++i) {
        const std::string name = std::to_string(i);
        files.push_back(make_file(house.directory.file(name)));
        nodes.push_back(house.look_up(name));
        watches.push_back(house.watcher.watch(nodes.back()));
    }
    for (const UniqueFd& file : files) REQUIRE(::ftruncate(file.get(), 1) == 0);
    for (const NodePtr& node : nodes) REQUIRE(house.heard.wait_for(node));
}
