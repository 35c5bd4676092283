// The matrix where no view has a shadow, as where the kernel cannot do it.
#include <doctest/doctest.h>

#include "tests/mount/matrix.h"

using namespace nosigbus::test;

TEST_SUITE_BEGIN("change-cache");

TEST_CASE("a shared read-only mapping follows the file") {
    check_column(shared_ro, cache_engine);
}

// A view that is opened for writing has no shadow with either engine: see change_test.cc.

TEST_CASE("a private mapping follows the file") {
    check_column(private_clean, cache_engine);
}

TEST_CASE("the private copies of pages stay, all other pages follow the file") {
    check_column(private_cow, cache_engine);
}

TEST_SUITE_END();
