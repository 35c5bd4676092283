#include "lib/refresher.h"

#include <doctest/doctest.h>

#include <fmt/format.h>

#include <future>
#include <string>
#include <vector>

#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr off_t M = 1 << 20;

// Writes down what it is asked. The first drop waits until it is let go, so that a test can fill the queue behind it.
class FakePages : public ViewPages {
  public:
    void drop(std::uint64_t node) override {
        add(fmt::format("drop {}", node));
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return !hold_; });
    }
    void grow(std::uint64_t node, off_t view_size) override { add(fmt::format("grow {} {}", node, view_size)); }

    void add(std::string what) {
        const std::lock_guard lock(mutex_);
        asked_.push_back(std::move(what));
        changed_.notify_all();
    }
    void hold() { set_hold(true); }
    void let_go() { set_hold(false); }
    void wait_for(std::size_t count) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return asked_.size() >= count; });
    }
    std::vector<std::string> asked() {
        const std::lock_guard lock(mutex_);
        return asked_;
    }

  private:
    void set_hold(bool hold) {
        const std::lock_guard lock(mutex_);
        hold_ = hold;
        changed_.notify_all();
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    bool hold_ = false;
    std::vector<std::string> asked_;
};

struct House {
    TemporaryDirectory directory;
    SharedState state;
    NodeTable nodes{state, sys::open_at(AT_FDCWD, directory.path().c_str(), O_PATH | O_DIRECTORY), M};
    FakePages pages;
    Refresher refresher{pages, M};

    NodePtr file(const std::string& name, off_t size) {
        const UniqueFd file = make_file(directory.file(name));
        sys::check(::ftruncate(file.get(), size), "ftruncate");
        UniqueFd path = sys::reopen(file.get(), O_PATH);
        const auto attributes = sys::stat_fd(path.get(), STATX_BASIC_STATS | STATX_MNT_ID);
        Lookup lookup = nodes.look_up(std::move(path), attributes);
        NodePtr node = lookup.node();
        lookup.keep();
        return node;
    }
};

using Asked = std::vector<std::string>;

}  // namespace

TEST_CASE("the barrier is done when the view has been dropped, not before") {
    House house;
    const NodePtr node = house.file("a", 1);
    house.refresher.start();
    std::promise<Asked> done;
    house.refresher.refresh(node, [&] { done.set_value(house.pages.asked()); });
    CHECK(done.get_future().get() == Asked{fmt::format("drop {}", node->id())});
}

TEST_CASE("changes that wait become one, and each file has its turn") {
    House house;
    const NodePtr first = house.file("first", 1);
    const NodePtr loud = house.file("loud", 1);
    const NodePtr quiet = house.file("quiet", 1);
    house.pages.hold();
    house.refresher.start();
    house.refresher.changed(first);
    house.pages.wait_for(1);
    for (int i = 0; i < 1000; ++i) house.refresher.changed(loud);
    house.refresher.changed(quiet);
    for (int i = 0; i < 1000; ++i) house.refresher.changed(loud);
    house.pages.let_go();
    house.refresher.stop();
    CHECK(house.pages.asked() == Asked{fmt::format("drop {}", first->id()), fmt::format("drop {}", loud->id()),
                                       fmt::format("drop {}", quiet->id())});
}

TEST_CASE("a change during a refresh makes another one") {
    House house;
    const NodePtr node = house.file("a", 1);
    house.pages.hold();
    house.refresher.start();
    house.refresher.changed(node);
    house.pages.wait_for(1);
    house.refresher.changed(node);
    house.pages.let_go();
    house.refresher.stop();
    CHECK(house.pages.asked().size() == 2);
}

TEST_CASE("a file that outgrew its view grows it, published before the kernel is told") {
    House house;
    const NodePtr node = house.file("a", 1);
    REQUIRE(::truncate(house.directory.file("a").c_str(), 2 * M + 1) == 0);
    house.refresher.start();
    house.refresher.changed(node);
    house.refresher.stop();
    CHECK(house.pages.asked() ==
          Asked{fmt::format("grow {} {}", node->id(), 3 * M), fmt::format("drop {}", node->id())});
    CHECK(node->view_size() == 3 * M);
}

TEST_CASE("to grow a view drops no page, and the kernel is told again whoever asks") {
    House house;
    const NodePtr node = house.file("a", 1);
    house.refresher.start();
    for (int i = 0; i < 2; ++i) {
        std::promise<off_t> done;
        house.refresher.grow(node, M + 1, [&] { done.set_value(node->view_size()); });
        CHECK(done.get_future().get() == 2 * M);
    }
    house.refresher.stop();
    const std::string grow = fmt::format("grow {} {}", node->id(), 2 * M);
    CHECK(house.pages.asked() == Asked{grow, grow});
}

TEST_CASE("what waits when it is stopped is done first") {
    House house;
    const NodePtr first = house.file("first", 1);
    house.pages.hold();
    house.refresher.start();
    house.refresher.changed(first);
    house.pages.wait_for(1);
    int done = 0;
    std::vector<NodePtr> nodes;
    for (int i = 0; i < 100; ++i) {
        nodes.push_back(house.file(std::to_string(i), 1));
        house.refresher.refresh(nodes.back(), [&] { ++done; });
    }
    house.pages.let_go();
    house.refresher.stop();
    CHECK(done == 100);
}
