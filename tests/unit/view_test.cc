#include "lib/view.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "tests/unit/source.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct House {
    TemporaryDirectory directory;
    UniqueFd file = make_file(directory.file("a"), "hello");
    UniqueFd path = sys::reopen(file.get(), O_PATH);
    GivenPagesBudget budget{1 << 20};
    View view{path.get(), budget};

    void give() {
        view.pages().given(view.pages().giving({3, 1}), 3, std::array<PageDigest, 1>{2});
        REQUIRE(has_pages());
    }
    bool has_pages() { return view.pages().next(0, 100).has_value(); }

    void see() {
        struct stat now {};
        REQUIRE(::fstat(file.get(), &now) == 0);
        view.note_seen(now);
    }
    // Until the file has been left alone for so long that another change cannot look like the one of before.
    void settle() {
        REQUIRE(comes_true([this] {
            see();
            return !view.may_have_changed();
        }));
    }
};

}  // namespace

TEST_CASE("pages are counted from the first open to the last close") {
    House house;
    house.give();
    std::optional<OpenView> first(std::in_place, house.view, false);
    CHECK_FALSE(house.has_pages());
    house.give();
    std::optional<OpenView> second(std::in_place, house.view, true);
    CHECK(house.has_pages());
    first.reset();
    CHECK(house.has_pages());
    second.reset();
    CHECK_FALSE(house.has_pages());
}

TEST_CASE("a first open counts anew where count was lost") {
    House house;
    house.view.pages().giving({0, 1 << 20});
    REQUIRE(house.view.pages().lost_count());
    const OpenView open(house.view, false);
    CHECK_FALSE(house.view.pages().lost_count());
}

TEST_CASE("nothing is pushed to a view that is closed or that somebody may write to") {
    House house;
    CHECK_FALSE(house.view.begin_push());
    CHECK_FALSE(house.view.has_writers());
    const OpenView reader(house.view, false);
    CHECK_FALSE(house.view.has_writers());
    CHECK(house.view.begin_push());
    house.view.end_push();
    {
        const OpenView writer(house.view, true);
        CHECK(house.view.has_writers());
        CHECK_FALSE(house.view.begin_push());
        { const OpenView another(house.view, true); }
        CHECK_FALSE(house.view.begin_push());
    }
    CHECK_FALSE(house.view.has_writers());
    CHECK(house.view.begin_push());
    house.view.end_push();
}

TEST_CASE("a reply comes at once where nothing is being pushed") {
    House house;
    int replies = 0;
    house.view.after_push([&] { ++replies; });
    CHECK(replies == 1);
    const OpenView open(house.view, false);
    house.view.after_push([&] { ++replies; });
    CHECK(replies == 2);
    REQUIRE(house.view.begin_push());
    house.view.end_push();
    house.view.after_push([&] { ++replies; });
    CHECK(replies == 3);
}

TEST_CASE("a push that was refused holds up nobody") {
    House house;
    const OpenView writer(house.view, true);
    REQUIRE_FALSE(house.view.begin_push());
    int replies = 0;
    house.view.after_push([&] { ++replies; });
    CHECK(replies == 1);
}

TEST_CASE("replies wait for the push under way, and come in their order, once") {
    House house;
    const OpenView open(house.view, false);
    for (int turn = 0; turn < 3; ++turn) {
        REQUIRE(house.view.begin_push());
        std::vector<int> order;
        for (int i = 0; i < 5; ++i) house.view.after_push([&order, i] { order.push_back(i); });
        CHECK(order.empty());
        house.view.end_push();
        CHECK(order == std::vector<int>{0, 1, 2, 3, 4});
    }
}

TEST_CASE("a reply may ask for another one, also while it is given") {
    House house;
    const OpenView open(house.view, false);
    REQUIRE(house.view.begin_push());
    int replies = 0;
    house.view.after_push([&] { house.view.after_push([&] { ++replies; }); });
    CHECK(replies == 0);
    house.view.end_push();
    CHECK(replies == 1);
}

TEST_CASE("no reply is lost while pushes begin and end") {
    House house;
    const OpenView open(house.view, false);
    std::atomic<int> replies{0};
    std::atomic<int> early{0};
    std::atomic<int> push{0};  // the number of the one under way
    std::atomic<bool> stop{false};
    constexpr int wanted = 20'000;
    std::thread asking([&] {
        for (int i = 0; i < wanted; ++i) {
            // What is asked for during a push, and answered during it, came too early.
            const int during = push;
            house.view.after_push([&, during] {
                if (during != 0 && during == push) ++early;
                ++replies;
            });
        }
        stop = true;
    });
    int pushes = 0;
    while (!stop) {
        REQUIRE(house.view.begin_push());
        push = ++pushes;
        push = 0;
        house.view.end_push();
    }
    asking.join();
    CHECK(replies == wanted);
    CHECK(early == 0);
    CHECK(pushes > 0);
}

TEST_CASE("the backing file is kept open for reading while the view is open, and no longer") {
    House house;
    CHECK(house.view.readable() == nullptr);
    auto open = std::make_unique<OpenView>(house.view, false);
    auto file = house.view.readable();
    REQUIRE(file != nullptr);
    CHECK(content_of(file->get()) == "hello");
    CHECK(house.view.readable() == file);
    open.reset();
    CHECK(house.view.readable() == nullptr);
    // Whoever has it still may go on with it.
    CHECK(content_of(file->get()) == "hello");
    CHECK(file.use_count() == 1);
}

TEST_CASE("a file nobody has looked at may have changed") {
    House house;
    CHECK(house.view.may_have_changed());
}

TEST_CASE("a file that was changed just now may change again without looking different; later it may not") {
    struct Case {
        const char* name;
        std::function<void(House&)> act;
        bool wanted;
    };
    const std::array<timespec, 2> long_ago = {timespec{.tv_sec = 1000, .tv_nsec = 0},
                                              timespec{.tv_sec = 1000, .tv_nsec = 0}};
    const std::vector<Case> cases = {
        {"bytes", [](House& house) { write_bytes(house.file.get(), "HELLO", 0); }, true},
        {"bytes, and then seen",
         [](House& house) {
             write_bytes(house.file.get(), "HELLO", 0);
             house.see();
         },
         true},
        {"bytes, and then opened",
         [](House& house) {
             write_bytes(house.file.get(), "HELLO", 0);
             const OpenView second(house.view, false);
         },
         true},
        {"size", [](House& house) { REQUIRE(::ftruncate(house.file.get(), 100) == 0); }, true},
        {"mode: another time of change", [](House& house) { REQUIRE(::fchmod(house.file.get(), 0640) == 0); }, true},
        // That is dated now, whatever it says of the bytes.
        {"dated back", [&](House& house) { REQUIRE(::futimens(house.file.get(), long_ago.data()) == 0); }, true},
        {"read", [](House& house) { CHECK(content_of(house.file.get()) == "hello"); }, false},
    };
    std::vector<std::unique_ptr<House>> houses;
    for (std::size_t i = 0; i < cases.size(); ++i) {
        houses.push_back(std::make_unique<House>());
        houses[i]->see();
        CHECK(houses[i]->view.may_have_changed());
    }
    for (const auto& house : houses) house->settle();
    for (std::size_t i = 0; i < cases.size(); ++i) {
        CAPTURE(cases[i].name);
        House& house = *houses[i];
        const OpenView open(house.view, false);
        CHECK_FALSE(house.view.may_have_changed());
        cases[i].act(house);
        CHECK(house.view.may_have_changed() == cases[i].wanted);
    }
}

TEST_CASE("the first open settles the engine until the last close, and who writes is not for a shadow") {
    House house;
    constexpr EngineChoice shadow{Engine::shadow, "a_test"};
    constexpr EngineChoice cache{Engine::cache, "another_test"};
    CHECK(std::string(house.view.engine().why) == "not_open");
    {
        const OpenView first(house.view, false, shadow);
        CHECK(house.view.engine().engine == Engine::shadow);
        const OpenView second(house.view, false, cache);
        CHECK(house.view.engine().engine == Engine::shadow);
        CHECK_THROWS_AS(OpenView(house.view, true, shadow), std::system_error);
        CHECK_FALSE(house.view.has_writers());
    }
    CHECK(std::string(house.view.engine().why) == "not_open");
    {
        const OpenView writer(house.view, true, shadow);
        CHECK(house.view.engine().engine == Engine::cache);
        const OpenView reader(house.view, false, shadow);
        CHECK(house.view.engine().engine == Engine::cache);
    }
    {
        const OpenView without(house.view, false, shadow);
        house.view.do_without_shadow("no_memory");
        CHECK(std::string(house.view.engine().why) == "no_memory");
        const OpenView writer(house.view, true);
    }
}

TEST_CASE("who keeps a view open can end that where nobody else has it, and may still say no") {
    House house;
    OpenView kept(house.view, false);
    bool may_close = true;
    unsigned asked = 0;
    const auto ask = [&] {
        ++asked;
        return may_close;
    };
    {
        const OpenView another(house.view, false);
        CHECK_FALSE(kept.end_if_alone(ask));
        CHECK(asked == 0);
    }
    may_close = false;
    CHECK_FALSE(kept.end_if_alone(ask));
    CHECK(house.view.is_open());
    may_close = true;
    CHECK(kept.end_if_alone(ask));
    CHECK(asked == 2);
    CHECK_FALSE(house.view.is_open());
}

TEST_CASE("who opens a view to read while a writer is expected gets no shadow") {
    House house;
    house.view.expect_writer();
    const OpenView reader(house.view, false, EngineChoice{Engine::shadow, "a_test"});
    CHECK(std::string(house.view.engine().why) == "a_writer_is_coming");
    const OpenView writer(house.view, true);
}
