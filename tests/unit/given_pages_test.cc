#include "lib/given_pages.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

using namespace nosigbus;

namespace {

using State = GivenPages::State;
using States = std::vector<State>;

constexpr std::size_t plenty = std::size_t{64} << 20;

struct Given {
    explicit Given(std::size_t bytes = plenty) : budget(bytes) {}

    GivenPagesBudget budget;
    GivenPages pages{budget};

    // A READ from its beginning to its end: page n gets digest n * 2 + `salt`, an even number.
    void read(PageRange range, PageDigest salt = 1000) {
        const State token = pages.giving(range);
        std::vector<PageDigest> digests(range.count);
        for (std::uint64_t i = 0; i < range.count; ++i) digests[i] = digest_of(range.first + i, salt);
        pages.given(token, range.first, digests);
    }
    static PageDigest digest_of(std::uint64_t page, PageDigest salt = 1000) { return page * 2 + salt; }

    States states(PageRange range) const {
        States result(range.count);
        pages.copy(range, result);
        return result;
    }
    State state(std::uint64_t page) const { return states({page, 1})[0]; }

    // All runs, one behind the other.
    std::vector<PageRange> runs(std::uint64_t most = std::uint64_t{1} << 40) const {
        std::vector<PageRange> result;
        for (auto range = pages.next(0, most); range; range = pages.next(range->end(), most)) result.push_back(*range);
        return result;
    }
};

using Ranges = std::vector<PageRange>;

bool covers(const Ranges& runs, std::uint64_t page) {
    return std::any_of(runs.begin(), runs.end(),
                       [page](const PageRange& run) { return run.first <= page && page < run.end(); });
}

}  // namespace

TEST_CASE("what is being given is unknown, what was given has its digest, the others are absent") {
    Given given;
    const State token = given.pages.giving({10, 3});
    CHECK(GivenPages::is_unknown(token));
    CHECK(given.states({9, 5}) == States{GivenPages::absent, token, token, token, GivenPages::absent});
    given.pages.given(token, 10, std::array<PageDigest, 3>{20, 22, 24});
    CHECK(given.states({9, 5}) == States{GivenPages::absent, 20, 22, 24, GivenPages::absent});
}

TEST_CASE("a READ that was overtaken changes nothing, page by page") {
    Given given;
    const State first = given.pages.giving({0, 4});
    const State second = given.pages.giving({1, 1});
    CHECK(first != second);
    given.pages.forget({2, 1});
    given.pages.given(given.pages.giving({3, 1}), 3, std::array<PageDigest, 1>{88});
    given.pages.given(first, 0, std::array<PageDigest, 4>{2, 4, 6, 8});
    CHECK(given.states({0, 4}) == States{2, second, GivenPages::absent, 88});
    given.pages.given(second, 1, std::array<PageDigest, 1>{44});
    CHECK(given.state(1) == 44);
    // A token is good once.
    given.pages.given(second, 1, std::array<PageDigest, 1>{46});
    CHECK(given.state(1) == 44);
}

TEST_CASE("a READ that began before everything was cleared changes nothing") {
    Given given;
    const State token = given.pages.giving({5, 1});
    given.pages.clear();
    given.pages.given(token, 5, std::array<PageDigest, 1>{10});
    CHECK(given.state(5) == GivenPages::absent);
    CHECK(given.runs().empty());
}

TEST_CASE("pages made unknown stay so until they are given anew") {
    Given given;
    given.read({0, 3});
    given.pages.make_unknown({1, 1});
    CHECK(given.state(0) == Given::digest_of(0));
    CHECK(GivenPages::is_unknown(given.state(1)));
    CHECK(given.state(2) == Given::digest_of(2));
    given.read({1, 1});
    CHECK(given.state(1) == Given::digest_of(1));
}

TEST_CASE("ranges reach over the borders of chunks, wherever they begin and end") {
    for (const PageRange range : {PageRange{0, 64}, PageRange{63, 2}, PageRange{1, 200}, PageRange{64, 64},
                                  PageRange{100, 1}, PageRange{127, 130}, PageRange{std::uint64_t{1} << 50, 65}}) {
        CAPTURE(range.first);
        CAPTURE(range.count);
        Given given;
        given.read(range);
        for (std::uint64_t i = 0; i < range.count; ++i)
            REQUIRE(given.state(range.first + i) == Given::digest_of(range.first + i));
        if (range.first > 0) CHECK(given.state(range.first - 1) == GivenPages::absent);
        CHECK(given.state(range.end()) == GivenPages::absent);
        CHECK(given.runs() == Ranges{range});
        given.pages.forget(range);
        CHECK(given.runs().empty());
    }
}

TEST_CASE("runs leave out what was never given, and are no longer than wanted") {
    Given given;
    CHECK(given.runs().empty());
    given.read({10, 5});
    given.read({200, 1});
    given.read({300, 40});
    const Ranges all = given.runs();
    for (const std::uint64_t page : {10, 14, 200, 300, 339}) CHECK(covers(all, page));
    for (const std::uint64_t page : {0, 9, 15, 128, 199, 340, 1000}) CHECK_FALSE(covers(all, page));

    for (const std::uint64_t most : {std::uint64_t{1}, std::uint64_t{3}, std::uint64_t{64}}) {
        CAPTURE(most);
        std::uint64_t before = 0;
        for (const PageRange& run : given.runs(most)) {
            CHECK(run.count <= most);
            CHECK(run.count > 0);
            CHECK(run.first >= before);
            CHECK(given.state(run.first) != GivenPages::absent);
            before = run.end();
        }
        const Ranges small = given.runs(most);
        for (const std::uint64_t page : {10, 14, 200, 300, 339}) CHECK(covers(small, page));
    }
    CHECK(given.pages.next(12, 100) == PageRange{12, 3});
    CHECK(given.pages.next(15, 100)->first == 200);
    CHECK_FALSE(given.pages.next(340, 100).has_value());
}

TEST_CASE("a run is as long as its pages are, however much was given and forgotten around it") {
    Given given;
    given.read({0, 64});
    given.read({64, 64});
    given.read({128, 64});
    // In parts, so that no part is a whole chunk.
    given.pages.forget({64, 30});
    given.pages.forget({94, 34});
    const Ranges runs = given.runs();
    for (std::uint64_t page = 0; page < 64; ++page) REQUIRE(covers(runs, page));
    for (std::uint64_t page = 128; page < 192; ++page) REQUIRE(covers(runs, page));
    CHECK(runs.size() <= 2);
    // The chunk at the very end.
    given.pages.forget({128, 30});
    given.pages.forget({158, 34});
    CHECK(given.runs() == Ranges{{0, 64}});
}

TEST_CASE("only what the range names is forgotten") {
    Given given;
    given.read({0, 300});
    given.pages.forget({50, 100});
    for (std::uint64_t page = 0; page < 300; ++page) {
        CAPTURE(page);
        const bool forgotten = page >= 50 && page < 150;
        REQUIRE(given.state(page) == (forgotten ? GivenPages::absent : Given::digest_of(page)));
    }
    given.pages.forget({0, std::uint64_t{1} << 52});
    CHECK(given.runs().empty());
}

TEST_CASE("a push marks the pages that are still as they were seen, and settles them") {
    Given given;
    given.read({60, 6});
    States seen = given.states({60, 6});
    given.pages.make_unknown({61, 1});
    given.pages.forget({62, 1});
    given.read({63, 1}, 5000);
    const State token = given.pages.claim({60, 6}, seen);
    CHECK(GivenPages::is_unknown(token));
    // Those that are not are shown as absent.
    CHECK(seen == States{Given::digest_of(60), GivenPages::absent, GivenPages::absent, GivenPages::absent,
                         Given::digest_of(64), Given::digest_of(65)});
    CHECK(given.state(60) == token);
    CHECK(GivenPages::is_unknown(given.state(61)));
    CHECK(given.state(61) != token);
    CHECK(given.state(62) == GivenPages::absent);
    CHECK(given.state(63) == Given::digest_of(63, 5000));
    CHECK(given.state(65) == token);

    const std::vector<PageDigest> digests{2, 4, 6, 8, 10, 12};
    CHECK(given.pages.settle(token, 60, seen, digests));
    CHECK(given.state(60) == 2);
    CHECK(GivenPages::is_unknown(given.state(61)));
    CHECK(given.state(62) == GivenPages::absent);
    CHECK(given.state(63) == Given::digest_of(63, 5000));
    CHECK(given.state(64) == 10);
    CHECK(given.state(65) == 12);
}

TEST_CASE("an unknown page is never claimed, nor one in a place where nothing was given") {
    Given given;
    given.pages.make_unknown({3, 1});
    States seen = given.states({0, 200});
    given.pages.claim({0, 200}, seen);
    CHECK(std::all_of(seen.begin(), seen.end(), [](State state) { return state == GivenPages::absent; }));
    CHECK(GivenPages::is_unknown(given.state(3)));
    // Seen in a chunk that is gone.
    given.read({0, 200});
    seen = given.states({0, 200});
    given.pages.forget({64, 64});
    given.pages.claim({0, 200}, seen);
    for (std::uint64_t page = 0; page < 200; ++page) {
        CAPTURE(page);
        REQUIRE((seen[page] == GivenPages::absent) == (page >= 64 && page < 128));
    }
}

TEST_CASE("a READ between claim and settle makes the page unknown, and settle says so") {
    struct Case {
        const char* name;
        bool ended;  // before settle
    };
    for (const Case& it : {Case{"begun", false}, Case{"begun and ended", true}}) {
        CAPTURE(it.name);
        Given given;
        given.read({0, 3});
        States seen = given.states({0, 3});
        const State token = given.pages.claim({0, 3}, seen);
        const State reading = given.pages.giving({1, 1});
        if (it.ended) given.pages.given(reading, 1, std::array<PageDigest, 1>{40});
        CHECK_FALSE(given.pages.settle(token, 0, seen, std::array<PageDigest, 3>{2, 4, 6}));
        CHECK(given.state(0) == 2);
        CHECK(GivenPages::is_unknown(given.state(1)));
        CHECK(given.state(2) == 6);
        // The READ comes to its end later, and does not undo that.
        given.pages.given(reading, 1, std::array<PageDigest, 1>{40});
        CHECK(GivenPages::is_unknown(given.state(1)));
    }
}

TEST_CASE("settle says no where the pages were forgotten meanwhile, and brings none back") {
    for (const bool all : {false, true}) {
        CAPTURE(all);
        Given given;
        given.read({0, 100});
        States seen = given.states({0, 100});
        const State token = given.pages.claim({0, 100}, seen);
        if (all) {
            given.pages.clear();
        } else {
            given.pages.forget({64, 36});
        }
        CHECK_FALSE(given.pages.settle(token, 0, seen, std::vector<PageDigest>(100, 2)));
        // What stays may be unknown, but is nothing that was forgotten and then settled.
        CHECK(given.state(99) != 2);
        if (all) CHECK(given.state(0) != 2);
    }
}

TEST_CASE("without memory all pages count as given until everything is cleared") {
    Given given(10'000);
    std::uint64_t page = 0;
    while (!given.pages.lost_count() && page < 100'000'000) given.read({page += 1000, 1});
    REQUIRE(given.pages.lost_count());
    CHECK(page > 1000);  // there was room for some
    const State token = given.pages.giving({0, 1});
    CHECK(GivenPages::is_unknown(token));
    given.pages.given(token, 0, std::array<PageDigest, 1>{2});
    given.pages.forget({0, 10});
    CHECK(given.pages.lost_count());

    // Its memory is there again: counting starts anew, as often as one likes.
    for (int turn = 0; turn < 100; ++turn) {
        given.pages.clear();
        CHECK_FALSE(given.pages.lost_count());
        given.read({7, 3});
        CHECK_FALSE(given.pages.lost_count());
        CHECK(given.runs() == Ranges{{7, 3}});
        given.pages.giving({0, 100'000});
        CHECK(given.pages.lost_count());
    }
}

TEST_CASE("a push whose count is lost meanwhile is not settled") {
    Given given(10'000);
    given.read({0, 2});
    States seen = given.states({0, 2});
    const State token = given.pages.claim({0, 2}, seen);
    given.pages.giving({0, 100'000});
    REQUIRE(given.pages.lost_count());
    CHECK_FALSE(given.pages.settle(token, 0, seen, std::array<PageDigest, 2>{2, 4}));
    CHECK(given.pages.lost_count());
}

TEST_CASE("what is forgotten in parts gives its memory back too") {
    GivenPagesBudget budget(10'000);
    GivenPages pages(budget);
    for (std::uint64_t page = 0; page < 10'000'000; page += 1000) {
        pages.giving({page, 2});
        pages.forget({page, 1});
        pages.forget({page + 1, 1});
    }
    CHECK_FALSE(pages.lost_count());
    CHECK_FALSE(pages.next(0, 1000).has_value());
}

TEST_CASE("a small view is counted though another one has taken the whole budget") {
    GivenPagesBudget budget(10'000);
    GivenPages greedy(budget);
    for (std::uint64_t page = 0; !greedy.lost_count() && budget.take(1); page += 64) {
        budget.give_back(1);
        greedy.giving({page, 1});
    }
    while (budget.take(1)) {
    }
    GivenPages small(budget);
    small.giving({0, 500});
    CHECK_FALSE(small.lost_count());
}

TEST_CASE("memory comes back from what was forgotten, and from pages that are no more") {
    GivenPagesBudget budget(10'000);
    for (int turn = 0; turn < 1000; ++turn) {
        GivenPages pages(budget);
        pages.giving({0, 2000});
        REQUIRE_FALSE(pages.lost_count());
        pages.forget({0, 2000});
        pages.giving({6400, 2000});
        REQUIRE_FALSE(pages.lost_count());
    }
}

TEST_CASE("all share one budget, and one that has lost count leaves it to the others") {
    GivenPagesBudget budget(10'000);
    GivenPages greedy(budget);
    GivenPages modest(budget);
    greedy.giving({0, 100'000});
    CHECK(greedy.lost_count());
    modest.giving({0, 2000});
    CHECK_FALSE(modest.lost_count());
    CHECK(modest.next(0, 5000) == PageRange{0, 2000});
}

// Two threads read what the kernel does not have, one pushes and drops, one changes the file. A page's lock is held as
// the kernel holds it.
TEST_CASE("whatever happens at the same time, a digest stands for what the kernel has, and nothing it has is absent") {
    constexpr std::uint64_t pages = 200;
    constexpr int rounds = 10;
    constexpr int steps = 3000;
    constexpr std::uint64_t none = ~std::uint64_t{0};
    struct Page {
        std::mutex lock;
        std::uint64_t bytes = none;           // in the kernel
        std::atomic<std::uint64_t> file = 0;  // in the file
    };
    const auto digest = [](std::uint64_t bytes) { return (bytes + 1) * 2; };
    Given given;
    std::array<Page, pages> world;
    std::atomic<int> settled{0};
    std::atomic<int> overtaken{0};

    const auto reader = [&](unsigned seed) {
        std::mt19937 random(seed);
        for (int i = 0; i < steps; ++i) {
            const std::uint64_t number = random() % pages;
            Page& page = world[number];
            const std::lock_guard lock(page.lock);
            if (page.bytes != none) continue;
            const State token = given.pages.giving({number, 1});
            const std::uint64_t bytes = page.file;
            given.pages.given(token, number, std::array<PageDigest, 1>{digest(bytes)});
            page.bytes = bytes;
        }
    };
    const auto refresher = [&](unsigned seed) {
        std::mt19937 random(seed);
        for (int i = 0; i < steps; ++i) {
            const std::uint64_t number = random() % pages;
            Page& page = world[number];
            States seen = given.states({number, 1});
            if (seen[0] == GivenPages::absent || seen[0] == digest(page.file)) continue;
            if (!GivenPages::is_unknown(seen[0]) && random() % 4 != 0) {
                const State token = given.pages.claim({number, 1}, seen);
                if (seen[0] != GivenPages::absent) {
                    const std::uint64_t bytes = page.file;
                    {
                        const std::lock_guard lock(page.lock);
                        page.bytes = bytes;
                    }
                    const bool ok = given.pages.settle(token, number, seen, std::array<PageDigest, 1>{digest(bytes)});
                    ++(ok ? settled : overtaken);
                    continue;
                }
            }
            given.pages.forget({number, 1});
            const std::lock_guard lock(page.lock);
            page.bytes = none;
        }
    };
    // Memory pressure: the kernel's pages go without our being told.
    const auto shrinker = [&](unsigned seed) {
        std::mt19937 random(seed);
        for (int i = 0; i < steps; ++i) {
            Page& page = world[random() % pages];
            ++page.file;
            if (i % 8 != 0) continue;
            const std::lock_guard lock(page.lock);
            page.bytes = none;
        }
    };
    for (unsigned round = 0; round < rounds; ++round) {
        std::vector<std::thread> threads;
        threads.emplace_back(reader, 4 * round);
        threads.emplace_back(reader, 4 * round + 1);
        threads.emplace_back(refresher, 4 * round + 2);
        threads.emplace_back(shrinker, 4 * round + 3);
        for (std::thread& thread : threads) thread.join();
        for (std::uint64_t number = 0; number < pages; ++number) {
            CAPTURE(number);
            const State state = given.state(number);
            if (world[number].bytes == none) continue;
            REQUIRE(state != GivenPages::absent);
            if (!GivenPages::is_unknown(state)) REQUIRE(state == digest(world[number].bytes));
        }
    }
    MESSAGE("settled " << settled.load() << ", overtaken " << overtaken.load());
    CHECK(settled > 0);
}

TEST_CASE("where another worker has given pages, all of them count as given until counting starts anew") {
    Given given;
    given.read({0, 100});
    const State token = given.pages.giving({200, 1});
    given.pages.lose_count();
    CHECK(given.pages.lost_count());
    CHECK(given.runs().empty());
    // What was under way then, and what comes after, is known of no page.
    given.pages.given(token, 200, std::array{PageDigest{8}});
    given.read({0, 4});
    CHECK(given.states({0, 4}) == States(4, GivenPages::absent));
    CHECK(given.pages.lost_count());
    given.pages.lose_count();
    given.pages.clear();
    CHECK_FALSE(given.pages.lost_count());
    given.read({0, 4});
    CHECK(given.runs() == Ranges{{0, 4}});
}

TEST_CASE("a push that was under way when the count was lost is not settled") {
    Given given;
    given.read({0, 2});
    States claimed = given.states({0, 2});
    const State token = given.pages.claim({0, 2}, claimed);
    given.pages.lose_count();
    CHECK_FALSE(given.pages.settle(token, 0, claimed, std::array{PageDigest{8}, PageDigest{10}}));
    CHECK(given.pages.lost_count());
}

TEST_CASE("a view whose count is lost takes no memory") {
    GivenPagesBudget budget(20'000);
    GivenPages pages(budget);
    for (std::uint64_t page = 0; page < 40 * 64; page += 64) pages.giving({page, 1});
    CHECK_FALSE(pages.lost_count());
    CHECK_FALSE(budget.take(20'000));
    pages.lose_count();
    CHECK(budget.take(20'000));
    budget.give_back(20'000);
}
