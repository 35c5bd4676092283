#include "lib/deeds.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <set>
#include <system_error>
#include <thread>
#include <vector>

#include "tests/unit/workers.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct Directory {
    TemporaryDirectory directory;
    UniqueFd descriptor = sys::open_at(AT_FDCWD, directory.path().c_str(), O_PATH | O_DIRECTORY);

    [[nodiscard]] Identity at(const char* name) const { return identity_at(descriptor.get(), name); }
    [[nodiscard]] std::string file(const std::string& name) const { return directory.file(name); }
};

// Longer than file systems take between two dates.
void let_time_pass() {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

int error_of(const Deed& deed) {
    try {
        static_cast<void>(deed.result());
    } catch (const std::system_error& failure) {
        return failure.code().value();
    }
    return 0;
}

Before sized(off_t size) {
    Before before{};
    before.size = size;
    return before;
}

// What is noted when a worker dies.
template <typename Work>
void live_and_die(SharedState& state, Work work) {
    const int status = run_worker([&] {
        state.look_at_slots();
        auto& deeds = left<Deeds>(state);
        deeds.take_over();
        work(deeds);
    });
    REQUIRE(status == 0);
    state.look_at_slots();
}

}  // namespace

TEST_CASE("an inode keeps its identity under another name, and what stands in its place has another") {
    const Directory house;
    CHECK_FALSE(house.at("a").is_there());
    make_file(house.file("a"), "hello");
    make_file(house.file("b"), "hello");
    const Identity a = house.at("a");
    CHECK(a.is_there());
    CHECK(a != house.at("b"));
    std::filesystem::rename(house.file("a"), house.file("c"));
    CHECK_FALSE(house.at("a").is_there());
    CHECK(house.at("c") == a);
    std::filesystem::create_hard_link(house.file("c"), house.file("d"));
    CHECK(house.at("d") == a);
    // It stays the same whatever is written to it.
    REQUIRE(::truncate(house.file("c").c_str(), 0) == 0);
    REQUIRE(::chmod(house.file("c").c_str(), 0400) == 0);
    CHECK(house.at("c") == a);
}

TEST_CASE("a symbolic link has its own identity, and so has the inode behind a descriptor") {
    const Directory house;
    make_file(house.file("a"));
    std::filesystem::create_symlink("a", house.file("link"));
    std::filesystem::create_symlink("nowhere", house.file("dangling"));
    CHECK(house.at("link").is_there());
    CHECK(house.at("link") != house.at("a"));
    CHECK(house.at("dangling").is_there());
    const UniqueFd link = sys::open_at(house.descriptor.get(), "link", O_PATH | O_NOFOLLOW);
    CHECK(identity_at(link.get(), "") == house.at("link"));
    CHECK(identity_at(-1, "").is_there() == false);
}

TEST_CASE("an inode that gets the number of one that is gone is not taken for it") {
    const Directory house;
    make_file(house.file("a"));
    const Identity before = house.at("a");
    REQUIRE(before.born_seconds != 0);  // else its file system does not say, and there is nothing to see here
    for (int i = 0; i < 100; ++i) {
        REQUIRE(::unlink(house.file("a").c_str()) == 0);
        let_time_pass();
        make_file(house.file("a"));
        CHECK(house.at("a") != before);
        if (house.at("a").inode == before.inode) return;
    }
}

TEST_CASE("what was made after a note is new, and what was there long before is not") {
    const Directory house;
    make_file(house.file("old"));
    let_time_pass();
    Before before{};
    date(before);
    CHECK_FALSE(is_new_since(before, house.at("old")));
    CHECK_FALSE(is_new_since(before, house.at("nothing")));
    for (int i = 0; i < 50; ++i) {
        const std::string name = std::to_string(i);
        Before just_before{};
        date(just_before);
        make_file(house.file(name));
        CHECK(is_new_since(just_before, house.at(name.c_str())));
        CHECK(is_new_since(before, house.at(name.c_str())));
    }
    // A link to what is old makes nothing new.
    std::filesystem::create_hard_link(house.file("old"), house.file("link"));
    CHECK_FALSE(is_new_since(before, house.at("link")));
}

TEST_CASE("where nobody knows when an inode was made, it may be new") {
    Before before{};
    date(before);
    CHECK(is_new_since(before, {.device = 1, .inode = 2, .born_seconds = 0, .born_nanoseconds = 0}));
    CHECK_FALSE(is_new_since(before, {}));
    const auto then = before.seconds;
    const auto later = static_cast<std::uint64_t>(before.nanoseconds);
    CHECK(is_new_since(before, {.device = 1, .inode = 2, .born_seconds = then, .born_nanoseconds = later}));
    CHECK(is_new_since(before, {.device = 1, .inode = 2, .born_seconds = then + 1, .born_nanoseconds = 0}));
    CHECK_FALSE(
        is_new_since(before, {.device = 1, .inode = 2, .born_seconds = then - 1, .born_nanoseconds = 999'999'999}));
}

TEST_CASE("a deed says what came of it, and its note goes with it") {
    SharedState state;
    Deeds deeds(state);
    {
        Deed deed = deeds.begin(7, sized(5));
        CHECK(deed);
        CHECK(deed.before().size == 5);
        CHECK_FALSE(deed.is_done());
        deed.done(42);
        CHECK(deed.is_done());
        CHECK(deed.result() == 42);
        CHECK(in_use(state.deeds()) == 1);
        Deed moved = std::move(deed);
        CHECK_FALSE(deed);  // NOLINT(bugprone-use-after-move)
        CHECK(moved.result() == 42);
        Deed other;
        CHECK_FALSE(other);
        other = std::move(moved);
        CHECK(other.result() == 42);
        CHECK(in_use(state.deeds()) == 1);
    }
    CHECK(in_use(state.deeds()) == 0);
    {
        Deed deed = deeds.begin(8, {});
        CHECK_FALSE(deed.is_done());  // the note in that place before was
        deed.failed(EEXIST);
        CHECK(deed.is_done());
        CHECK(error_of(deed) == EEXIST);
    }
    {
        Deed deed = deeds.begin(9, {});
        deed.done(3);
        CHECK(error_of(deed) == 0);
    }
    CHECK(in_use(state.deeds()) == 0);
}

TEST_CASE("there is an end to notes, which whoever wants one more is told") {
    SharedState state;
    Deeds deeds(state);
    std::vector<Deed> all;
    for (std::uint64_t i = 1; i < SharedState::deed_capacity; ++i) all.push_back(deeds.begin(i, {}));
    try {
        static_cast<void>(deeds.begin(1, {}));
        FAIL("began more than there is room for");
    } catch (const std::system_error& failure) {
        CHECK(failure.code().value() == ENFILE);
    }
    all.pop_back();
    CHECK(deeds.begin(1, {}));
}

TEST_CASE("what a worker noted is found by the next when the kernel asks again, and only then") {
    SharedState state;
    live_and_die(state, [](Deeds& deeds) {
        left<Deed>(deeds.begin(10, sized(100))).done(4);
        left<Deed>(deeds.begin(12, sized(200))).failed(ENOENT);
        left<Deed>(deeds.begin(14, sized(300)));
        left<Deed>(deeds.begin(16, sized(400))).done(6);
    });
    Deeds deeds(state);
    deeds.take_over();
    CHECK_FALSE(deeds.find(10));
    CHECK_FALSE(deeds.asked_again(11));
    CHECK_FALSE(deeds.find(11));
    for (const RequestNumber request : {10, 12, 14}) CHECK(deeds.asked_again(request));
    deeds.all_asked();
    {
        const Deed done = deeds.find(10);
        REQUIRE(done);
        CHECK(done.is_done());
        CHECK(done.result() == 4);
        CHECK(done.before().size == 100);
        CHECK_FALSE(deeds.find(10));  // it has an owner
        const Deed failed = deeds.find(12);
        REQUIRE(failed);
        CHECK(error_of(failed) == ENOENT);
        Deed begun = deeds.find(14);
        REQUIRE(begun);
        CHECK_FALSE(begun.is_done());
        CHECK(begun.before().size == 300);
        begun.done(1);
        CHECK(begun.result() == 1);
        CHECK_FALSE(deeds.find(16));  // answered, or the kernel would have asked
        CHECK(in_use(state.deeds()) == 3);
    }
    CHECK(in_use(state.deeds()) == 0);
}

TEST_CASE("a note that was asked for again and not yet looked at outlives the last question") {
    SharedState state;
    live_and_die(state, [](Deeds& deeds) {
        left<Deed>(deeds.begin(10, {})).done(4);
        left<Deed>(deeds.begin(12, {})).done(5);
    });
    Deeds deeds(state);
    deeds.take_over();
    CHECK(deeds.asked_again(12));
    deeds.all_asked();
    deeds.all_asked();
    CHECK(in_use(state.deeds()) == 1);
    CHECK_FALSE(deeds.asked_again(10));
    // A request of the same kind that is new has nothing to do with it.
    const Deed other = deeds.begin(20, {});
    const Deed found = deeds.find(12);
    REQUIRE(found);
    CHECK(found.result() == 5);
}

TEST_CASE("a note lasts through any number of workers that die over it") {
    SharedState state;
    live_and_die(state, [](Deeds& deeds) {
        left<Deed>(deeds.begin(10, sized(1)));
        left<Deed>(deeds.begin(12, sized(2)));
    });
    live_and_die(state, [](Deeds& deeds) {
        // It dies with one note at work and the other not asked for yet.
        deeds.asked_again(10);
        left<Deed>(deeds.find(10));
    });
    live_and_die(state, [](Deeds& deeds) {
        deeds.asked_again(10);
        left<Deed>(deeds.find(10)).done(9);
    });
    live_and_die(state, [](Deeds& deeds) { deeds.asked_again(10); });
    Deeds deeds(state);
    deeds.take_over();
    CHECK(deeds.asked_again(10));
    CHECK(deeds.asked_again(12));
    const Deed first = deeds.find(10);
    REQUIRE(first);
    CHECK(first.is_done());
    CHECK(first.result() == 9);
    CHECK(first.before().size == 1);
    const Deed second = deeds.find(12);
    REQUIRE(second);
    CHECK_FALSE(second.is_done());
    CHECK(second.before().size == 2);
}
