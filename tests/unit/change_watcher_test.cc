#include "lib/change_watcher.h"

#include <doctest/doctest.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <optional>

#include "tests/unit/temporary.h"

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

struct House {
    TemporaryDirectory directory;
    SharedState state;
    NodeTable nodes{state, sys::open_at(AT_FDCWD, directory.path().c_str(), O_PATH | O_DIRECTORY), 4096};
    Heard heard;
    ChangeWatcher watcher{[this](const NodePtr& node) { heard.note(node); }};
    std::map<NodeId, Lookup> lookups;

    House() { watcher.start(); }

    NodePtr look_up(const std::string& name) {
        UniqueFd path = sys::open_at(AT_FDCWD, directory.file(name).c_str(), O_PATH);
        const auto attributes = sys::stat_fd(path.get(), STATX_BASIC_STATS | STATX_MNT_ID);
        Lookup lookup = nodes.look_up(std::move(path), attributes);
        NodePtr node = lookup.node();
        lookup.keep();
        return node;
    }
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
