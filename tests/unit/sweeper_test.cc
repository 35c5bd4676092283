#include "lib/sweeper.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>

#include "tests/unit/no_watches.h"
#include "tests/unit/source.h"

using namespace nosigbus;
using namespace nosigbus::test;
using namespace std::chrono_literals;

namespace {

// A watcher that never tells of anything: it is not started. So whatever is heard was found by looking.
struct House {
    explicit House(std::chrono::milliseconds refresh = 0ms)
        : sweeper(
              watcher, [this](const NodePtr& node) { note(node); }, refresh, counters) {}

    Counters counters;
    ChangeWatcher watcher{[](const NodePtr& /*node*/) {}, counters};
    Source source;  // its open files have watches, which must not outlive the watcher
    std::mutex mutex;
    std::condition_variable heard;
    std::map<NodeId, int> count;
    Sweeper sweeper;

    void note(const NodePtr& node) {
        const std::lock_guard lock(mutex);
        ++count[node->id()];
        heard.notify_all();
    }
    bool hears_of(const NodePtr& node, int times = 1, std::chrono::milliseconds within = 20s) {
        std::unique_lock lock(mutex);
        return heard.wait_for(lock, within, [&] { return count[node->id()] >= times; });
    }
    int heard_of(const NodePtr& node) {
        const std::lock_guard lock(mutex);
        return count[node->id()];
    }

    struct Opened {
        UniqueFd raw;
        NodePtr node;
        OpenFilePtr file;
    };
    Opened open(const std::string& name) {
        UniqueFd raw = make_file(source.directory.file(name), "hello");
        NodePtr node = source.look_up(name);
        OpenFilePtr file = source.open(node, O_RDONLY, watcher.watch(node));
        return {std::move(raw), std::move(node), std::move(file)};
    }
};

// What a refresh does before it looks at the pages.
void see(const NodePtr& node) {
    struct stat now {};
    REQUIRE(::fstatat(node->descriptor(), "", &now, AT_EMPTY_PATH) == 0);
    node->view().note_seen(now);
}

void settle(const NodePtr& node) {
    REQUIRE(comes_true([&] {
        see(node);
        return !node->view().may_have_changed();
    }));
}

}  // namespace

TEST_CASE("a change without an event is found within the interval, a file left alone is left alone") {
    House house;
    const auto silent = house.open("silent");
    const auto quiet = house.open("quiet");
    settle(silent.node);
    settle(quiet.node);
    write_bytes(silent.raw.get(), "HELLO", 0);
    const auto begun = std::chrono::steady_clock::now();
    house.sweeper.start();
    CHECK(house.hears_of(silent.node));
    CHECK(std::chrono::steady_clock::now() - begun < 3 * Sweeper::interval);
    CHECK(house.counters.sweep_refreshes >= 1);
    // Once more for sure: the second sweep has passed the quiet one as well.
    CHECK(house.hears_of(silent.node, 2));
    CHECK(house.heard_of(quiet.node) == 0);
    // Refreshed when it was dated some time ago, it is left alone too.
    settle(silent.node);
    write_bytes(quiet.raw.get(), "HELLO", 0);
    const int before = house.heard_of(silent.node);
    CHECK(house.hears_of(quiet.node, 2));
    CHECK(house.heard_of(silent.node) <= before + 1);  // may have been under way
    house.sweeper.stop();
}

TEST_CASE("a file that is closed again is not looked at") {
    House house;
    auto closed = house.open("closed");
    const auto open = house.open("open");
    house.source.close(closed.file);
    closed.file.reset();
    write_bytes(closed.raw.get(), "HELLO", 0);
    house.sweeper.start();
    CHECK(house.hears_of(open.node, 2));  // new, so it may be changing
    CHECK(house.heard_of(closed.node) == 0);
}

TEST_CASE("files without a watch are looked at more often") {
    House house;
    const auto watched = house.open("watched");
    const NoWatches none_left;
    const auto unwatched = house.open("unwatched");
    REQUIRE(house.watcher.unwatched().size() == 1);
    const auto begun = std::chrono::steady_clock::now();
    house.sweeper.start();
    // Both are new, so both are told of each time they are looked at.
    CHECK(house.hears_of(unwatched.node, 3));
    CHECK(std::chrono::steady_clock::now() - begun < Sweeper::interval + 10 * Sweeper::unwatched_interval);
    CHECK(house.hears_of(watched.node, 1));
    CHECK(house.heard_of(unwatched.node) > house.heard_of(watched.node));
}

TEST_CASE("where the user asks for it every open file is refreshed again and again, changed or not") {
    House house(5ms);
    const auto one = house.open("one");
    const auto other = house.open("other");
    settle(one.node);
    settle(other.node);
    house.sweeper.start();
    CHECK(house.hears_of(one.node, 20));
    CHECK(house.hears_of(other.node, 20));
    CHECK(house.counters.sweep_refreshes == 0);
}

TEST_CASE("it ends at once when it is stopped, also when it was never started") {
    House house(1h);
    house.sweeper.stop();
    const auto begun = std::chrono::steady_clock::now();
    {
        House another(1h);
        another.sweeper.start();
    }
    CHECK(std::chrono::steady_clock::now() - begun < Sweeper::interval);
}
