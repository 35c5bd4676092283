#include "lib/crew.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstddef>
#include <vector>

using namespace nosigbus;

TEST_CASE("a crew does each part once, nobody two at a time, and all are done when it returns") {
    for (const unsigned helpers : {0U, 1U, 3U}) {
        CAPTURE(helpers);
        Crew crew(helpers);
        REQUIRE(crew.size() == helpers + 1);
        for (int turn = 0; turn < 1000; ++turn) {
            std::vector<int> done(17);
            std::vector<std::atomic<int>> busy(crew.size());
            std::atomic<bool> twice = false;
            crew.run(done.size(), [&](std::size_t part, unsigned who) {
                twice = twice || ++busy.at(who) != 1;
                ++done.at(part);
                --busy.at(who);
            });
            REQUIRE(done == std::vector<int>(done.size(), 1));
            REQUIRE_FALSE(twice);
        }
    }
}
