#include "lib/refresher.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lib/backing_file.h"
#include "tests/unit/source.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr off_t M = 1 << 20;
constexpr std::chrono::seconds deadline{60};

struct Call {
    enum class Kind { drop, push, grow };

    Kind kind;
    NodeId node;
    PageRange range;    // of a grow: the page behind the view
    std::string bytes;  // of a push

    [[nodiscard]] bool is_whole_drop() const { return kind == Kind::drop && range == PageRange{0, 0}; }
    [[nodiscard]] bool touches(PageRange other) const {
        return is_whole_drop() || (range.first < other.end() && other.first < range.end());
    }
};

using Calls = std::vector<Call>;

// The kernel's pages, by what is in them, and a record of what was asked of it.
class FakePages : public ViewPages {
  public:
    explicit FakePages(const PageDigester& digester) : digester_(digester) {}

    void drop(std::uint64_t node, off_t offset, off_t length) override {
        CHECK(offset % static_cast<off_t>(page_size()) == 0);
        CHECK(length % static_cast<off_t>(page_size()) == 0);
        const PageRange range{static_cast<std::uint64_t>(offset) / page_size(),
                              static_cast<std::uint64_t>(length) / page_size()};
        note({Call::Kind::drop, node, range, {}});
        const std::lock_guard lock(pages_mutex_);
        auto& pages = pages_[node];
        if (length == 0) {
            pages.clear();
        } else {
            pages.erase(pages.lower_bound(range.first), pages.lower_bound(range.end()));
        }
    }
    bool push(std::uint64_t node, off_t offset, std::span<const std::byte> bytes) override {
        CHECK(offset % static_cast<off_t>(page_size()) == 0);
        CHECK(bytes.size() % page_size() == 0);
        CHECK_FALSE(bytes.empty());
        const PageRange range{static_cast<std::uint64_t>(offset) / page_size(), bytes.size() / page_size()};
        note({Call::Kind::push, node, range, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())});
        if (refuses_pushes) return false;
        const std::lock_guard lock(pages_mutex_);
        put(node, range.first, bytes);
        return true;
    }
    void grow(std::uint64_t node, off_t view_size) override {
        note({Call::Kind::grow, node, {static_cast<std::uint64_t>(view_size) / page_size(), 1}, {}});
    }

    // A READ of pages that the kernel does not have, as its handler answers it; each page is locked meanwhile.
    void read(const NodePtr& node, int fd, PageRange range) {
        const std::lock_guard lock(pages_mutex_);
        read_locked(node, fd, range);
    }
    void read_if_missing(const NodePtr& node, int fd, std::uint64_t page) {
        const std::lock_guard lock(pages_mutex_);
        if (!pages_[node->id()].contains(page)) read_locked(node, fd, {page, 1});
    }

    [[nodiscard]] bool has(const NodePtr& node, std::uint64_t page) {
        const std::lock_guard lock(pages_mutex_);
        return pages_[node->id()].contains(page);
    }
    // How many of the kernel's pages are not what the file has.
    std::size_t wrong(const NodePtr& node, int fd) {
        const std::lock_guard lock(pages_mutex_);
        std::vector<std::byte> bytes(page_size());
        std::size_t result = 0;
        for (const auto& [page, digest] : pages_[node->id()]) {
            read_padded(fd, bytes, offset_of(page));
            result += digester_(bytes) != digest ? 1 : 0;
        }
        return result;
    }

    Calls calls() {
        const std::lock_guard lock(mutex_);
        return calls_;
    }
    Calls take_calls() {
        const std::lock_guard lock(mutex_);
        return std::exchange(calls_, {});
    }
    std::size_t call_count() {
        const std::lock_guard lock(mutex_);
        return calls_.size();
    }

    // From now on the refresher waits in each call until it is let go.
    void hold() { set_hold(true); }
    void let_go() { set_hold(false); }
    [[nodiscard]] bool waits_in_a_call() {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, deadline, [this] { return waiting_; });
    }

    // On the refresher's thread, before a call does anything. What it refers to lives until the refresher has stopped.
    void on_call(std::function<void(const Call&)> hook) {
        const std::lock_guard lock(mutex_);
        on_call_ = std::move(hook);
    }
    std::atomic<bool> refuses_pushes{false};

  private:
    void read_locked(const NodePtr& node, int fd, PageRange range) {
        GivenPages& given = node->view().pages();
        std::vector<std::byte> bytes(range.count * page_size());
        const GivenPages::State token = given.giving(range);
        const PaddedRead result = read_padded(fd, bytes, offset_of(range.first));
        CHECK(result.error == 0);
        put(node->id(), range.first, bytes);
        std::vector<PageDigest> digests;
        for (std::uint64_t i = 0; i < range.count; ++i) digests.push_back(pages_[node->id()].at(range.first + i));
        given.given(token, range.first, digests);
    }
    void note(Call call) {
        {
            std::unique_lock lock(mutex_);
            calls_.push_back(call);
            waiting_ = true;
            changed_.notify_all();
            changed_.wait(lock, [this] { return !hold_; });
            waiting_ = false;
        }
        std::function<void(const Call&)> hook;
        {
            const std::lock_guard lock(mutex_);
            hook = on_call_;
        }
        if (hook) hook(call);
    }
    void put(NodeId node, std::uint64_t first, std::span<const std::byte> bytes) {
        for (std::size_t at = 0; at < bytes.size(); at += page_size())
            pages_[node][first++] = digester_(bytes.subspan(at, page_size()));
    }
    void set_hold(bool hold) {
        const std::lock_guard lock(mutex_);
        hold_ = hold;
        changed_.notify_all();
    }

    const PageDigester& digester_;
    std::mutex pages_mutex_;
    std::map<NodeId, std::map<std::uint64_t, PageDigest>> pages_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool hold_ = false;
    bool waiting_ = false;
    std::function<void(const Call&)> on_call_;
    Calls calls_;
};

struct House : Source {
    PageDigester digester;
    Counters counters;
    FakePages pages{digester};
    ReadErrors errors{counters};
    Refresher refresher{pages, digester, M, counters, errors};

    House() : Source(M) {}
    ~House() {
        pages.let_go();
        refresher.stop();
    }
    House(const House&) = delete;
    House& operator=(const House&) = delete;

    // A file that a client has open.
    struct File {
        UniqueFd raw;
        NodePtr node;
        std::vector<OpenFilePtr> open;
    };
    File file(const std::string& name, std::string_view content, int flags = O_RDONLY) {
        File result{make_file(directory.file(name), content), look_up(name), {}};
        result.open.push_back(open(result.node, flags));
        return result;
    }
    // One whose bytes are all zeros, and costs nothing.
    File sparse_file(const std::string& name, std::uint64_t count, int flags = O_RDONLY) {
        File result{make_file(directory.file(name)), nullptr, {}};
        REQUIRE(::ftruncate(result.raw.get(), offset_of(count)) == 0);
        result.node = look_up(name);
        result.open.push_back(open(result.node, flags));
        return result;
    }
    void read(const File& file, PageRange range) { pages.read(file.node, file.raw.get(), range); }

    // Returns whether it was answered in time.
    bool barrier(const NodePtr& node) {
        auto done = std::make_shared<std::promise<void>>();
        refresher.refresh(node, [done] { done->set_value(); });
        return done->get_future().wait_for(deadline) == std::future_status::ready;
    }
    bool barrier(const File& file) { return barrier(file.node); }
    std::size_t wrong(const File& file) { return pages.wrong(file.node, file.raw.get()); }
};

void change_page(const House::File& file, std::uint64_t page) {
    static std::atomic<unsigned> count{0};
    const unsigned stamp = ++count;
    sys::write_at(file.raw.get(), std::as_bytes(std::span(&stamp, 1)), offset_of(page) + 12);
}

std::uint64_t pages_in(const Calls& calls, Call::Kind kind) {
    std::uint64_t result = 0;
    for (const Call& call : calls) result += call.kind == kind ? call.range.count : 0;
    return result;
}

std::size_t calls_in(const Calls& calls, Call::Kind kind) {
    return static_cast<std::size_t>(
        std::count_if(calls.begin(), calls.end(), [&](const Call& call) { return call.kind == kind; }));
}

bool any_touches(const Calls& calls, PageRange range) {
    return std::any_of(calls.begin(), calls.end(), [&](const Call& call) { return call.touches(range); });
}

}  // namespace

TEST_CASE("nothing is asked for a view that is what its file is") {
    House house;
    const auto file = house.file("a", pages_of('x', 1000) + "and a bit");
    house.read(file, {0, 1010});
    house.refresher.start();
    CHECK(house.barrier(file));
    house.refresher.changed(file.node);
    CHECK(house.barrier(file));
    CHECK(house.pages.calls().empty());
    CHECK(house.counters.views.refreshes >= 2);
    CHECK(house.counters.pages_compared >= 2 * 1001);
}

TEST_CASE("nothing is asked for a view of which the kernel has no page, or that nobody has open") {
    House house;
    const auto file = house.file("a", pages_of('x', 10));
    make_file(house.directory.file("closed"), "hello");
    const NodePtr closed = house.look_up("closed");
    house.refresher.start();
    change_page(file, 3);
    CHECK(house.barrier(file));
    CHECK(house.barrier(closed));
    CHECK(house.pages.calls().empty());
}

TEST_CASE("one changed page of a thousand is pushed with the file's bytes, and no other") {
    for (const std::uint64_t page : {0, 1, 63, 64, 500, 999}) {
        CAPTURE(page);
        House house;
        const auto file = house.file("a", pages_of('x', 1000));
        house.read(file, {0, 1000});
        change_page(file, page);
        house.refresher.start();
        CHECK(house.barrier(file));
        const Calls calls = house.pages.calls();
        REQUIRE(calls.size() == 1);
        CHECK(calls[0].kind == Call::Kind::push);
        CHECK(calls[0].node == file.node->id());
        CHECK(calls[0].range == PageRange{page, 1});
        CHECK((calls[0].bytes == content_of(file.raw.get()).substr(page * page_size(), page_size())));
        CHECK(house.counters.views.pages_pushed == 1);
        CHECK(house.counters.views.pages_dropped == 0);
        // What was pushed is known: the next refresh asks for nothing.
        CHECK(house.barrier(file));
        CHECK(house.pages.calls().size() == 1);
    }
}

TEST_CASE("the page that holds the file's end is pushed with zeros behind it") {
    House house;
    const auto file = house.file("a", "hello");
    house.read(file, {0, 2});
    write_bytes(file.raw.get(), " world", 5);
    house.refresher.start();
    CHECK(house.barrier(file));
    const Calls calls = house.pages.calls();
    REQUIRE(calls.size() == 1);
    CHECK(calls[0].kind == Call::Kind::push);
    CHECK((calls[0].bytes == "hello world" + std::string(page_size() - 11, '\0')));
}

TEST_CASE("while somebody has the view open for writing, a changed page is dropped") {
    House house;
    auto file = house.file("a", pages_of('x', 1000));
    house.read(file, {0, 1000});
    file.open.push_back(house.open(file.node, O_RDWR));
    change_page(file, 500);
    house.refresher.start();
    CHECK(house.barrier(file));
    Calls calls = house.pages.take_calls();
    REQUIRE(calls.size() == 1);
    CHECK(calls[0].kind == Call::Kind::drop);
    CHECK(calls[0].range == PageRange{500, 1});
    CHECK_FALSE(house.pages.has(file.node, 500));
    // When they have closed it, it is pushed again.
    house.close(file.open.back());
    file.open.pop_back();
    change_page(file, 400);
    CHECK(house.barrier(file));
    calls = house.pages.take_calls();
    REQUIRE(calls.size() == 1);
    CHECK(calls[0].kind == Call::Kind::push);
    CHECK(house.wrong(file) == 0);
}

TEST_CASE("where count is lost during a refresh, whoever waits for it sees nothing stale") {
    House house;
    const auto file = house.sparse_file("a", 8192, O_RDWR);
    house.read(file, {0, 8192});
    change_page(file, 1);
    change_page(file, 8000);
    house.pages.on_call([&](const Call& call) {
        if (call.kind == Call::Kind::drop && call.range.first == 1)
            file.node->view().pages().giving({1 << 20, std::uint64_t{1} << 23});
    });
    house.refresher.start();
    CHECK(house.barrier(file));
    CHECK(house.counters.whole_drops == 1);
    CHECK(house.wrong(file) == 0);
}

TEST_CASE("a large view that has changed all over is brought up to date in few calls, each page once") {
    for (const int flags : {O_RDONLY, O_RDWR}) {
        CAPTURE(flags);
        House house;
        constexpr std::uint64_t pages = 8192;
        const auto file = house.sparse_file("a", pages, flags);
        house.read(file, {0, pages});
        for (std::uint64_t page = 0; page < pages; ++page) change_page(file, page);
        house.refresher.start();
        CHECK(house.barrier(file));
        const Calls calls = house.pages.calls();
        CHECK(calls.size() <= pages / 32);
        CHECK(pages_in(calls, Call::Kind::push) + pages_in(calls, Call::Kind::drop) == pages);
        if (flags == O_RDWR) CHECK(calls_in(calls, Call::Kind::push) == 0);
        CHECK(house.wrong(file) == 0);
    }
}

TEST_CASE("what a large shrink has cut off is dropped in few calls, and what stands before it is left alone") {
    House house;
    constexpr std::uint64_t pages = 20'000;
    constexpr std::uint64_t left = 3'000;
    const auto file = house.sparse_file("a", pages);
    for (std::uint64_t page = 0; page < pages; ++page) change_page(file, page);
    house.read(file, {0, pages});
    house.refresher.start();
    CHECK(house.barrier(file));
    CHECK(house.pages.take_calls().empty());
    REQUIRE(::ftruncate(file.raw.get(), offset_of(left) + 2) == 0);
    change_page(file, 5);
    CHECK(house.barrier(file));
    const Calls calls = house.pages.calls();
    CHECK(calls.size() <= 40);
    // The page that was cut, and the one that has changed.
    CHECK(pages_in(calls, Call::Kind::push) == 2);
    CHECK(pages_in(calls, Call::Kind::drop) == pages - left - 1);
    REQUIRE_FALSE(calls.empty());
    CHECK(calls[0].range.first >= left);
    CHECK(calls.back().range == PageRange{5, 1});
    CHECK(house.wrong(file) == 0);
    for (std::uint64_t page = 0; page < left; ++page) REQUIRE(house.pages.has(file.node, page));
}

TEST_CASE("changes here and there are pushed, and nothing else is touched") {
    House house;
    constexpr std::uint64_t pages = 4096;
    const auto file = house.sparse_file("a", pages);
    house.read(file, {0, pages});
    for (std::uint64_t page = 100; page < pages; page += 400) change_page(file, page);
    house.refresher.start();
    CHECK(house.barrier(file));
    const Calls calls = house.pages.calls();
    CHECK(pages_in(calls, Call::Kind::push) == 10);
    CHECK(pages_in(calls, Call::Kind::drop) == 0);
    CHECK(house.wrong(file) == 0);
}

TEST_CASE("what a writer may have stored past the file's end is dropped, though it was zeros") {
    House house;
    const auto file = house.file("a", pages_of('x', 10), O_RDWR);
    house.read(file, {0, 20});
    house.refresher.start();
    CHECK(house.barrier(file));
    for (std::uint64_t page = 0; page < 20; ++page) {
        CAPTURE(page);
        CHECK(house.pages.has(file.node, page) == (page < 10));
    }
    const Calls calls = house.pages.calls();
    CHECK_FALSE(any_touches(calls, {0, 10}));
    CHECK(pages_in(calls, Call::Kind::drop) == 10);
}

TEST_CASE("after a shrink what was cut off comes first, and what stands before it is left alone") {
    for (const bool with_writer : {false, true}) {
        for (const std::uint64_t cut_pages : {1, 15, 16, 17, 32, 64, 100, 300, 700}) {
            CAPTURE(with_writer);
            CAPTURE(cut_pages);
            constexpr std::uint64_t pages = 1000;
            const std::uint64_t left = pages - cut_pages;
            House house;
            const auto file =
                house.file("a", pages_of('x', static_cast<std::size_t>(pages)), with_writer ? O_RDWR : O_RDONLY);
            house.read(file, {0, pages});
            house.refresher.start();
            CHECK(house.barrier(file));
            CHECK(house.pages.take_calls().empty());

            REQUIRE(::ftruncate(file.raw.get(), offset_of(left)) == 0);
            CHECK(house.barrier(file));
            const Calls calls = house.pages.calls();
            REQUIRE_FALSE(calls.empty());
            CHECK(calls[0].range.first >= left);
            CHECK(calls[0].touches({left, cut_pages}));
            CHECK_FALSE(any_touches(calls, {0, left}));
            CHECK(house.wrong(file) == 0);
        }
    }
}

TEST_CASE("a shrink shows where it is before anything else of a large view") {
    House house;
    constexpr std::uint64_t pages = 9000;
    const auto file = house.sparse_file("a", pages);
    for (std::uint64_t page = 0; page < pages; page += 1) change_page(file, page);
    house.read(file, {0, pages});
    house.refresher.start();
    CHECK(house.barrier(file));
    for (std::uint64_t page = 5; page < 8000; page += 100) change_page(file, page);
    REQUIRE(::ftruncate(file.raw.get(), offset_of(8500)) == 0);
    CHECK(house.barrier(file));
    const Calls calls = house.pages.calls();
    const auto first_before =
        std::find_if(calls.begin(), calls.end(), [](const Call& call) { return call.range.first < 8500; });
    std::uint64_t cut_off = 0;
    for (auto call = calls.begin(); call != first_before; ++call) cut_off += call->range.count;
    CHECK(cut_off == 500);
    CHECK(house.wrong(file) == 0);
}

TEST_CASE("a page of which nobody knows what the kernel has is dropped") {
    House house;
    const auto file = house.file("a", pages_of('x', 100));
    house.read(file, {0, 100});
    file.node->view().pages().make_unknown({40, 2});
    house.refresher.start();
    CHECK(house.barrier(file));
    const Calls calls = house.pages.calls();
    REQUIRE(calls.size() == 1);
    CHECK(calls[0].kind == Call::Kind::drop);
    CHECK(calls[0].range == PageRange{40, 2});
    CHECK(house.barrier(file));
    CHECK(house.pages.calls().size() == 1);
}

TEST_CASE("a READ during a push leaves the page to another refresh") {
    House house;
    const auto file = house.file("a", pages_of('x', 100));
    house.read(file, {0, 100});
    change_page(file, 40);
    house.pages.on_call([&](const Call& call) {
        // It has read the file, and the kernel takes its answer before or after what is pushed.
        if (call.kind == Call::Kind::push) file.node->view().pages().giving({40, 1});
    });
    house.refresher.start();
    house.refresher.changed(file.node);
    CHECK(comes_true([&] { return calls_in(house.pages.calls(), Call::Kind::drop) > 0; }));
    house.refresher.stop();
    const Calls calls = house.pages.calls();
    REQUIRE(calls.size() == 2);
    CHECK(calls[0].kind == Call::Kind::push);
    CHECK(calls[1].kind == Call::Kind::drop);
    CHECK(calls[1].range == PageRange{40, 1});
    CHECK(house.counters.views.refreshes == 2);
    CHECK_FALSE(house.pages.has(file.node, 40));
}

TEST_CASE("where count was lost the whole view is dropped once, and counted anew") {
    House house;
    const auto file = house.file("a", pages_of('x', 100));
    file.node->view().pages().giving({0, std::uint64_t{1} << 23});
    REQUIRE(file.node->view().pages().lost_count());
    house.refresher.start();
    CHECK(house.barrier(file));
    Calls calls = house.pages.take_calls();
    REQUIRE(calls.size() == 1);
    CHECK(calls[0].is_whole_drop());
    CHECK(house.counters.whole_drops == 1);
    CHECK_FALSE(file.node->view().pages().lost_count());

    house.read(file, {0, 100});
    change_page(file, 7);
    CHECK(house.barrier(file));
    calls = house.pages.take_calls();
    REQUIRE(calls.size() == 1);
    CHECK(calls[0].range == PageRange{7, 1});
    CHECK(house.counters.whole_drops == 1);
}

TEST_CASE("a file that cannot be opened has its whole view dropped") {
    House house;
    const auto file = house.file("a", pages_of('x', 100));
    house.read(file, {0, 100});
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    rlimit none = before;
    none.rlim_cur = 3;
    house.refresher.start();
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
    const bool answered = house.barrier(file);
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
    CHECK(answered);
    Calls calls = house.pages.take_calls();
    REQUIRE(calls.size() == 1);
    CHECK(calls[0].is_whole_drop());
    // When it can be opened again, it is compared again.
    house.read(file, {0, 100});
    change_page(file, 7);
    CHECK(house.barrier(file));
    calls = house.pages.take_calls();
    REQUIRE(calls.size() == 1);
    CHECK(calls[0].range == PageRange{7, 1});
}

TEST_CASE("a page that cannot be pushed is dropped") {
    House house;
    const auto file = house.file("a", pages_of('x', 100));
    house.read(file, {0, 100});
    change_page(file, 7);
    house.pages.refuses_pushes = true;
    house.refresher.start();
    CHECK(house.barrier(file));
    const Calls calls = house.pages.calls();
    REQUIRE(calls.size() == 2);
    CHECK(calls[0].kind == Call::Kind::push);
    CHECK(calls[1].kind == Call::Kind::drop);
    CHECK(calls[1].range == PageRange{7, 1});
    CHECK(house.wrong(file) == 0);
}

TEST_CASE("whoever asks during a push is answered when it has ended, also where it fails") {
    for (const bool fails : {false, true}) {
        CAPTURE(fails);
        House house;
        const auto file = house.file("a", pages_of('x', 100));
        house.read(file, {0, 100});
        change_page(file, 7);
        std::atomic<int> replies{0};
        std::atomic<int> during{-1};
        house.pages.on_call([&](const Call& call) {
            if (call.kind != Call::Kind::push) return;
            file.node->view().after_push([&] { ++replies; });
            during = replies.load();
            if (fails) throw std::runtime_error("a push");
        });
        house.refresher.start();
        CHECK(house.barrier(file));
        house.refresher.stop();
        CHECK(during == 0);
        CHECK(replies == 1);
        CHECK(house.wrong(file) == 0);
    }
}

TEST_CASE(
    "a view that is pushed to again and again is dropped from at last, so that it is left alone if nobody looks") {
    House house;
    const auto file = house.file("a", pages_of('x', 100));
    house.read(file, {0, 100});
    house.refresher.start();
    int rounds = 0;
    for (; house.counters.views.pages_dropped == 0 && rounds < 2000; ++rounds) {
        change_page(file, 7);
        REQUIRE(house.barrier(file));
    }
    CHECK(house.counters.views.pages_dropped >= 1);
    CHECK(rounds > 4);
    CHECK(house.counters.views.pages_pushed > 4);
    CHECK_FALSE(house.pages.has(file.node, 7));
    // Nobody looks: it costs nothing from now on.
    house.pages.take_calls();
    for (int i = 0; i < 10; ++i) {
        change_page(file, 7);
        REQUIRE(house.barrier(file));
    }
    CHECK(house.pages.calls().empty());
    // Somebody looks: it is pushed to again.
    house.read(file, {7, 1});
    change_page(file, 7);
    CHECK(house.barrier(file));
    const Calls calls = house.pages.calls();
    REQUIRE(calls.size() == 1);
    CHECK(calls[0].kind == Call::Kind::push);
}

TEST_CASE("the barrier is done when the view has been refreshed, not before") {
    House house;
    const auto file = house.file("a", pages_of('x', 5000), O_RDWR);
    house.read(file, {0, 5000});
    for (std::uint64_t page = 3; page < 5000; page += 200) change_page(file, page);
    house.refresher.start();
    std::promise<std::pair<std::size_t, std::size_t>> done;
    house.refresher.refresh(file.node, [&] { done.set_value({house.pages.call_count(), house.wrong(file)}); });
    auto future = done.get_future();
    REQUIRE(future.wait_for(deadline) == std::future_status::ready);
    const auto [calls, wrong] = future.get();
    CHECK(calls == 25);
    CHECK(wrong == 0);
}

TEST_CASE("a barrier that comes during a refresh waits for one that begins after it") {
    House house;
    const auto file = house.file("a", pages_of('x', 100));
    house.read(file, {0, 100});
    house.pages.hold();
    change_page(file, 50);
    house.refresher.start();
    house.refresher.changed(file.node);
    REQUIRE(house.pages.waits_in_a_call());
    // Behind the place where the refresh is.
    change_page(file, 3);
    std::promise<std::size_t> done;
    house.refresher.refresh(file.node, [&] { done.set_value(house.wrong(file)); });
    house.pages.let_go();
    auto future = done.get_future();
    REQUIRE(future.wait_for(deadline) == std::future_status::ready);
    CHECK(future.get() == 0);
    CHECK(house.counters.views.refreshes == 2);
}

TEST_CASE("changes that wait become one, and each file has its turn") {
    House house;
    const auto first = house.file("first", pages_of('x'));
    const auto loud = house.file("loud", pages_of('x'));
    const auto quiet = house.file("quiet", pages_of('x'));
    for (const auto* file : {&first, &loud, &quiet}) {
        house.read(*file, {0, 1});
        change_page(*file, 0);
    }
    house.pages.hold();
    house.refresher.start();
    house.refresher.changed(first.node);
    REQUIRE(house.pages.waits_in_a_call());
    for (int i = 0; i < 1000; ++i) house.refresher.changed(loud.node);
    house.refresher.changed(quiet.node);
    for (int i = 0; i < 1000; ++i) house.refresher.changed(loud.node);
    house.pages.let_go();
    house.refresher.stop();
    std::vector<NodeId> nodes;
    for (const Call& call : house.pages.calls()) nodes.push_back(call.node);
    CHECK(nodes == std::vector<NodeId>{first.node->id(), loud.node->id(), quiet.node->id()});
    CHECK(house.counters.views.refreshes == 3);
}

TEST_CASE("a change during a refresh makes another one") {
    House house;
    const auto file = house.file("a", pages_of('x', 100));
    house.read(file, {0, 100});
    change_page(file, 50);
    house.pages.hold();
    house.refresher.start();
    house.refresher.changed(file.node);
    REQUIRE(house.pages.waits_in_a_call());
    change_page(file, 3);
    house.refresher.changed(file.node);
    house.pages.let_go();
    house.refresher.stop();
    CHECK(house.counters.views.refreshes == 2);
    CHECK(house.wrong(file) == 0);
}

TEST_CASE("a barrier on a small file does not wait for a large one that changes all the time") {
    for (const bool waited_for : {false, true}) {
        CAPTURE(waited_for);
        House house;
        constexpr std::uint64_t pages = 20'000;
        const auto large = house.sparse_file("large", pages, O_RDWR);
        const auto small = house.file("small", pages_of('x'));
        house.read(large, {0, pages});
        house.read(small, {0, 1});
        std::atomic<bool> stop{false};
        house.pages.on_call([&](const Call& call) {
            // So there is something to be done in each part of it, for ever.
            if (stop || call.node != large.node->id() || call.kind != Call::Kind::drop) return;
            large.node->view().pages().make_unknown(call.range);
            house.refresher.changed(large.node);
            if (waited_for) house.refresher.refresh(large.node, [] {});
        });
        for (std::uint64_t page = 50; page < pages; page += 100) large.node->view().pages().make_unknown({page, 1});
        house.refresher.start();
        house.refresher.changed(large.node);
        REQUIRE(comes_true([&] { return house.pages.call_count() > 0; }));
        for (int turn = 0; turn < 20; ++turn) {
            change_page(small, 0);
            const std::size_t before = house.pages.call_count();
            std::promise<std::size_t> done;
            house.refresher.refresh(small.node, [&] { done.set_value(house.pages.call_count()); });
            auto future = done.get_future();
            REQUIRE(future.wait_for(deadline) == std::future_status::ready);
            // One pass over the large one takes 200 calls.
            CHECK(future.get() - before < 100);
            CHECK(house.wrong(small) == 0);
        }
        stop = true;
        house.refresher.stop();
    }
}

TEST_CASE("a file that is changed all the time is refreshed all the same, and so are those beside it") {
    House house;
    const auto loud = house.file("loud", pages_of('x', 10));
    const auto other = house.file("other", pages_of('x', 10));
    house.read(loud, {0, 10});
    house.read(other, {0, 10});
    house.refresher.start();
    std::atomic<bool> stop{false};
    std::thread changing([&] {
        while (!stop) {
            change_page(loud, 3);
            house.refresher.changed(loud.node);
        }
    });
    const auto is_refreshed = [&](std::uint64_t more) {
        const std::uint64_t wanted = house.counters.views.refreshes + more;
        return comes_true([&] { return house.counters.views.refreshes >= wanted; });
    };
    CHECK(is_refreshed(20));
    for (int turn = 0; turn < 50; ++turn) {
        change_page(other, 5);
        CHECK(house.barrier(other));
        CHECK(house.wrong(other) == 0);
    }
    CHECK(is_refreshed(20));
    CHECK(house.barrier(loud));
    stop = true;
    changing.join();
    house.refresher.changed(loud.node);
    house.refresher.stop();
    CHECK(house.wrong(loud) == 0);
}

TEST_CASE("a file that is changed all the time is held back, but not from those who wait for it") {
    House house;
    const auto loud = house.sparse_file("loud", 400);  // a pass is short enough to come again soon on any machine
    house.read(loud, {0, 400});
    house.refresher.start();
    std::atomic<bool> stop{false};
    std::thread changing([&] {
        while (!stop) house.refresher.changed(loud.node);
    });
    CHECK(comes_true([&] { return house.counters.held_back > 0; }));
    for (int turn = 0; turn < 20; ++turn) {
        change_page(loud, 77);
        CHECK(house.barrier(loud));
        CHECK(house.wrong(loud) == 0);
    }
    stop = true;
    changing.join();
}

TEST_CASE("a file that outgrew its view grows it, published before the kernel is told") {
    House house;
    const auto file = house.file("a", "hello");
    REQUIRE(::ftruncate(file.raw.get(), 2 * M + 1) == 0);
    struct Seen {
        off_t view_size = 0;
        bool known = true;
    };
    std::vector<Seen> seen;
    house.pages.on_call([&](const Call& call) {
        if (call.kind == Call::Kind::grow) seen.push_back({file.node->view_size(), file.node->is_known_to_kernel()});
    });
    house.refresher.start();
    house.refresher.changed(file.node);
    house.refresher.stop();
    REQUIRE(seen.size() == 1);
    CHECK(seen[0].view_size == 3 * M);
    CHECK_FALSE(seen[0].known);
    CHECK(file.node->view_size() == 3 * M);
    CHECK(file.node->is_known_to_kernel());
    CHECK(house.pages.calls()[0].kind == Call::Kind::grow);
    CHECK(house.pages.calls()[0].range.first == 3 * M / page_size());
}

TEST_CASE("a view grows also where nobody has it open") {
    House house;
    make_file(house.directory.file("a"));
    const NodePtr node = house.look_up("a");
    REQUIRE(::truncate(house.directory.file("a").c_str(), 2 * M + 1) == 0);
    house.refresher.start();
    house.refresher.changed(node);
    house.refresher.stop();
    CHECK(calls_in(house.pages.calls(), Call::Kind::grow) == 1);
    CHECK(node->view_size() == 3 * M);
}

TEST_CASE("to grow a view touches no page of the file, and the kernel is told again whoever asks") {
    House house;
    const auto file = house.file("a", pages_of('x', 10));
    house.read(file, {0, 10});
    change_page(file, 3);
    house.refresher.start();
    for (int i = 0; i < 2; ++i) {
        std::promise<off_t> done;
        house.refresher.grow(file.node, M + 1, [&] { done.set_value(file.node->view_size()); });
        auto future = done.get_future();
        REQUIRE(future.wait_for(deadline) == std::future_status::ready);
        CHECK(future.get() == 2 * M);
    }
    house.refresher.stop();
    const Calls calls = house.pages.calls();
    CHECK(calls_in(calls, Call::Kind::grow) == 2);
    CHECK(calls.size() == 2);
}

TEST_CASE("the page that a growth makes behind the view is dropped when it may have become part of it") {
    House house;
    const auto file = house.file("a", "hello");
    house.refresher.start();
    std::promise<void> done;
    house.refresher.grow(file.node, M + 1, [&] { done.set_value(); });
    REQUIRE(done.get_future().wait_for(deadline) == std::future_status::ready);
    house.pages.take_calls();
    REQUIRE(::ftruncate(file.raw.get(), 2 * M + 10) == 0);
    write_bytes(file.raw.get(), "new bytes", 2 * M);
    CHECK(house.barrier(file));
    const Calls calls = house.pages.calls();
    CHECK(std::any_of(calls.begin(), calls.end(), [](const Call& call) {
        return call.kind == Call::Kind::drop && call.touches({static_cast<std::uint64_t>(2 * M) / page_size(), 1});
    }));
}

TEST_CASE("whoever waits for a view to grow does not wait for a long refresh, whichever comes first") {
    for (const bool refresh_has_begun : {false, true}) {
        CAPTURE(refresh_has_begun);
        House house;
        constexpr std::uint64_t pages = 30'000;
        const auto file = house.sparse_file("large", pages, O_RDWR);
        house.read(file, {0, pages});
        for (std::uint64_t page = 50; page < pages; page += 100) change_page(file, page);
        house.pages.hold();
        house.refresher.start();
        std::promise<std::size_t> done;
        const auto grow = [&] {
            house.refresher.grow(file.node, offset_of(pages) + M,
                                 [&] { done.set_value(calls_in(house.pages.calls(), Call::Kind::drop)); });
        };
        if (!refresh_has_begun) grow();
        house.refresher.changed(file.node);
        if (refresh_has_begun) {
            REQUIRE(house.pages.waits_in_a_call());
            grow();
        }
        house.pages.let_go();
        auto future = done.get_future();
        REQUIRE(future.wait_for(deadline) == std::future_status::ready);
        // The pass takes 300 drops.
        CHECK(future.get() < 150);
        CHECK(house.barrier(file));
        CHECK(house.wrong(file) == 0);
    }
}

TEST_CASE("what a reply throws is survived") {
    House house;
    const auto file = house.file("a", pages_of('x', 100));
    house.read(file, {0, 100});
    change_page(file, 7);
    house.refresher.start();
    house.refresher.refresh(file.node, [] { throw std::runtime_error("a reply to a barrier"); });
    house.refresher.grow(file.node, M + 1, [] { throw std::runtime_error("a reply to a growth"); });
    CHECK(house.barrier(file));
    CHECK(house.wrong(file) == 0);
    change_page(file, 8);
    CHECK(house.barrier(file));
    CHECK(house.wrong(file) == 0);
}

TEST_CASE("where the engine throws the whole view is dropped, and whoever waits is answered") {
    House house;
    const auto file = house.file("a", pages_of('x', 100), O_RDWR);
    house.read(file, {0, 100});
    change_page(file, 7);
    std::atomic<int> count{0};
    house.pages.on_call([&](const Call& /*call*/) {
        if (count++ == 0) throw std::runtime_error("the first call");
    });
    house.refresher.start();
    CHECK(house.barrier(file));
    house.refresher.stop();
    const Calls calls = house.pages.calls();
    REQUIRE_FALSE(calls.empty());
    CHECK(calls.back().is_whole_drop());
    CHECK(house.wrong(file) == 0);
}

TEST_CASE("what waits when it is stopped is done first") {
    House house;
    const auto first = house.file("first", pages_of('x'));
    house.read(first, {0, 1});
    change_page(first, 0);
    house.pages.hold();
    house.refresher.start();
    house.refresher.changed(first.node);
    REQUIRE(house.pages.waits_in_a_call());
    int done = 0;
    std::vector<House::File> files;
    for (int i = 0; i < 100; ++i) {
        files.push_back(house.file(std::to_string(i), pages_of('x')));
        house.read(files.back(), {0, 1});
        change_page(files.back(), 0);
        house.refresher.refresh(files.back().node, [&] { ++done; });
    }
    std::thread letting_go([&] { house.pages.let_go(); });
    house.refresher.stop();
    letting_go.join();
    CHECK(done == 100);
    for (const auto& file : files) CHECK(house.wrong(file) == 0);
}

TEST_CASE("a node that is closed and forgotten while it waits is let go") {
    House house;
    const auto first = house.file("first", pages_of('x'));
    house.read(first, {0, 1});
    change_page(first, 0);
    auto gone = house.file("gone", pages_of('x'));
    house.read(gone, {0, 1});
    house.pages.hold();
    house.refresher.start();
    house.refresher.changed(first.node);
    REQUIRE(house.pages.waits_in_a_call());
    house.refresher.changed(gone.node);
    const std::weak_ptr<Node> node = gone.node;
    house.close(gone.open[0]);
    gone.open.clear();
    house.nodes.forget(gone.node->id(), 1);
    gone.node.reset();
    CHECK_FALSE(node.expired());
    house.pages.let_go();
    CHECK(comes_true([&] { return node.expired(); }));
}

// Two clients fault on pages all the time, files change size and bytes, and somebody opens and closes the view for
// writing.
TEST_CASE("when a barrier is answered no page is older than it, whatever happens meanwhile") {
    House house;
    constexpr std::uint64_t pages = 400;
    auto file = house.file("a", pages_of('x', static_cast<std::size_t>(pages)));
    house.refresher.start();
    std::atomic<bool> stop{false};
    const auto look = [&](unsigned seed) {
        std::mt19937 random(seed);
        while (!stop) {
            house.pages.read_if_missing(file.node, file.raw.get(), random() % (pages + 50));
            if (random() % 16 == 0) house.refresher.changed(file.node);
        }
    };
    std::thread one(look, 1);
    std::thread other(look, 2);
    std::mt19937 random(3);
    std::size_t wrong = 0;
    bool answered = true;
    for (int round = 0; round < 300 && answered; ++round) {
        const unsigned what = random() % 8;
        if (what == 0) {
            REQUIRE(::ftruncate(file.raw.get(), static_cast<off_t>(random() % (pages * page_size()))) == 0);
        } else if (what == 1) {
            const std::uint64_t first = random() % pages;
            for (std::uint64_t page = first; page < pages; ++page) change_page(file, page);
        } else {
            for (unsigned i = 0; i < what; ++i) change_page(file, random() % pages);
        }
        if (random() % 8 == 0) {
            if (file.open.size() > 1) {
                house.close(file.open.back());
                file.open.pop_back();
            } else {
                file.open.push_back(house.open(file.node, O_RDWR));
            }
        }
        answered = house.barrier(file);
        wrong += house.wrong(file);
    }
    stop = true;
    one.join();
    other.join();
    CHECK(answered);
    CHECK(wrong == 0);
    CHECK(house.counters.views.pages_pushed > 0);
    CHECK(house.counters.views.pages_dropped > 0);
}
