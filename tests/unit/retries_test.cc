#include "lib/retries.h"

#include <doctest/doctest.h>

#include <atomic>
#include <memory>

using namespace nosigbus;

TEST_CASE("what cannot be done yet is tried until it is done, and then no more") {
    std::atomic<unsigned> first = 0;
    std::atomic<unsigned> second = 0;
    Retries retries;
    retries.add([&] { return ++first == 3; });
    retries.add([&] { return ++second == 5; });
    while (second < 5) std::this_thread::yield();
    CHECK(first == 3);
    std::atomic<unsigned> third = 0;
    retries.add([&] { return ++third == 2; });
    while (third < 2) std::this_thread::yield();
    CHECK(first == 3);
    CHECK(second == 5);
}

TEST_CASE("what is not done at the end is destroyed") {
    const auto owned = std::make_shared<int>();
    Retries retries;
    retries.add([owned] { return false; });
    CHECK(owned.use_count() > 1);
    retries.stop();
    CHECK(owned.use_count() == 1);
}
