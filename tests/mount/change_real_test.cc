// The matrix where stat(2) tells the real size.
#include <doctest/doctest.h>

#include "tests/mount/matrix.h"

using namespace nosigbus::test;

TEST_SUITE_BEGIN("change-real");

TEST_CASE("a shared read-only mapping follows the file") {
    check_column(shared_ro, stat_real);
}

TEST_CASE("a shared writable mapping follows the file") {
    check_column(shared_rw, stat_real);
}

TEST_CASE("a private mapping follows the file") {
    check_column(private_clean, stat_real);
}

TEST_CASE("the private copies of pages stay, all other pages follow the file") {
    check_column(private_cow, stat_real);
}

TEST_SUITE_END();
