#include "lib/size_suffix.h"

#include <doctest/doctest.h>

#include <initializer_list>

using nosigbus::parse_size;

TEST_CASE("a size is a number with an optional suffix") {
    CHECK(parse_size("0") == 0);
    CHECK(parse_size("4096") == 4096);
    CHECK(parse_size("64K") == 64 * 1024);
    CHECK(parse_size("64k") == 64 * 1024);
    CHECK(parse_size("3M") == 3 * 1024 * 1024);
    CHECK(parse_size("1G") == 1024 * 1024 * 1024);
    CHECK(parse_size("2T") == 2LL * 1024 * 1024 * 1024 * 1024);
    CHECK(parse_size("9223372036854775807") == 9223372036854775807LL);
}

TEST_CASE("anything else is not a size") {
    for (const char* text : {"", "K", "abc", "-1", "+1", " 1", "1 ", "1KB", "1.5G", "99E", "0x10", "1G1",
                             "9223372036854775808", "18446744073709551616", "8388608T"}) {
        CAPTURE(text);
        CHECK_FALSE(parse_size(text).has_value());
    }
}
