#include "lib/view_size.h"

#include <doctest/doctest.h>

#include <initializer_list>

#include <limits>

using nosigbus::largest_view;
using nosigbus::unversioned_size;
using nosigbus::view_size;

namespace {
constexpr off_t M = 1 << 20;
constexpr off_t largest_off = std::numeric_limits<off_t>::max();
}  // namespace

TEST_CASE("a view is the real size rounded up to a multiple of max_size, at least one") {
    CHECK(view_size(0, M) == M);
    CHECK(view_size(1, M) == M);
    CHECK(view_size(M - 1, M) == M);
    CHECK(view_size(M, M) == M);
    CHECK(view_size(M + 1, M) == 2 * M);
    CHECK(view_size(7 * M / 2, M) == 4 * M);
    CHECK(view_size(5, 12288) == 12288);
    CHECK(view_size(12289, 12288) == 24576);
}

TEST_CASE("a view never shrinks") {
    CHECK(view_size(1, M, 3 * M) == 3 * M);
    CHECK(view_size(4 * M, M, 3 * M) == 4 * M);
}

TEST_CASE("sizes at the end of what an off_t holds do not overflow") {
    CHECK(view_size(largest_off, M) == largest_view);
    CHECK(view_size(largest_off, 12288) == largest_view);
    CHECK(view_size(largest_off, off_t{1} << 60) == largest_view);
    CHECK(view_size(largest_off - 5000, 4096) == largest_view);
}

TEST_CASE("an unversioned size is beyond every view and changes from turn to turn") {
    for (const off_t view : {off_t{4096}, M, off_t{1} << 40, largest_view}) {
        for (unsigned turn = 0; turn < 5000; ++turn) {
            const off_t size = unversioned_size(view, turn);
            REQUIRE(size > view);
            REQUIRE(size < largest_off - 4096);
            REQUIRE(size % 4096 == 0);
            REQUIRE(size != unversioned_size(view, turn + 1));
        }
    }
}
