// The matrix where files are opened cached, as on kernels before 6.6.
#include <doctest/doctest.h>

#include "tests/mount/matrix.h"

using namespace nosigbus::test;

TEST_SUITE_BEGIN("change-cached");

TEST_CASE("a shared read-only mapping follows the file") {
    check_column(shared_ro, cached_opens);
}

TEST_CASE("a shared writable mapping follows the file") {
    check_column(shared_rw, cached_opens);
}

TEST_CASE("a private mapping follows the file") {
    check_column(private_clean, cached_opens);
}

TEST_CASE("the private copies of pages stay, all other pages follow the file") {
    check_column(private_cow, cached_opens);
}

TEST_SUITE_END();
