#include <doctest/doctest.h>

#include <string>

#include "fs/stats_text.h"
#include "lib/counters.h"

using namespace nosigbus;

TEST_CASE("what the counters say of themselves is read back, in its order") {
    Counters mount;
    mount.views.faults_averted = 3;
    mount.restarts = ~std::uint64_t{0};
    const std::string text = to_json(mount, {.engine = "auto", .count = 1, .memory = 2, .allowed = 3});
    const auto of_mount = parse_stats(text);
    REQUIRE(of_mount);
    REQUIRE(of_mount->size() == 13);
    CHECK(of_mount->front() == std::pair<std::string_view, std::string_view>{"engine", "auto"});
    CHECK((*of_mount)[4] == std::pair<std::string_view, std::string_view>{"faults_averted", "3"});
    CHECK(of_mount->back() == std::pair<std::string_view, std::string_view>{"restarts", "18446744073709551615"});
    const std::string of_view = to_json(mount.views, 5, 4096, {Engine::shadow, "opened_for_reading"}, 7);
    REQUIRE(parse_stats(of_view));
    CHECK(parse_stats(of_view)->front() == std::pair<std::string_view, std::string_view>{"real_size", "5"});
}

TEST_CASE("what anybody else may have said is not read, nor handed on to a terminal") {
    const std::string good = R"({"a":1,"b":"c"})";
    CHECK(parse_stats(good));
    for (std::size_t length = 0; length < good.size(); ++length) CHECK_FALSE(parse_stats(good.substr(0, length)));
    for (const char* bad : {"",
                            "{}",
                            "[]",
                            R"({"a":1}x)",
                            R"({"a":1} )",
                            R"( {"a":1})",
                            R"({"a":1,})",
                            R"({"a":-1})",
                            R"({"a":1.5})",
                            R"({"a":{"b":1}})",
                            R"({"a":[1]})",
                            R"({"a":""})",
                            R"({"":1})",
                            R"({"a":"\u001b"})",
                            "{\"a\":\"\033[2J\"}",
                            "{\"a\033\":1}",
                            R"({"a":"b c"})",
                            R"({a:1})",
                            R"({"A":1})",
                            "{\"a\":1}\n"}) {
        CAPTURE(bad);
        CHECK_FALSE(parse_stats(bad));
    }
    CHECK_FALSE(parse_stats(std::string("{\"a\":1\0}", 8)));
}
