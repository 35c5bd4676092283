// What views are for, on the plain tmpfs: each scenario of the other files must fault here, or they would prove
// nothing.
#include <doctest/doctest.h>

#include "tests/mount/directories.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"

using namespace nosigbus;
using namespace nosigbus::test;

TEST_SUITE_BEGIN("raw");

TEST_CASE("a load past the last page of a file raises SIGBUS") {
    const Directories directories;
    const UniqueFd file = make_file(directories.raw("file"), pattern(0, page + 10));
    for (const int flags : {MAP_SHARED, MAP_PRIVATE}) {
        CAPTURE(flags);
        const Mapping mapping(file.get(), 4 * page, PROT_READ, flags);
        CHECK(difference(mapping.bytes(), padded(pattern(0, page + 10), 2 * page)) == "");
        CHECK(mapping.byte(3 * page) == fault);
        CHECK(mapping.touch() == 2);
    }
}

TEST_CASE("a load raises SIGBUS after the file shrank, touched before or not") {
    const Directories directories;
    const UniqueFd file = make_file(directories.raw("file"), pattern(0, 8 * page));
    const Mapping touched(file.get(), 8 * page);
    const Mapping untouched(file.get(), 8 * page);
    CHECK(touched.touch() == 8);
    resize(file.get(), page);
    CHECK(touched.touch() == 1);
    CHECK(untouched.touch() == 1);
}

TEST_CASE("a store past the end raises SIGBUS") {
    const Directories directories;
    const UniqueFd file = make_file(directories.raw("file"), pattern(0, page));
    const Mapping mapping(file.get(), 2 * page, PROT_READ | PROT_WRITE);
    CHECK(mapping.store(page - 1, "xy") == 1);
    CHECK(size_of(file.get()) == page);
}

TEST_CASE("the kernel's own loads fail with EFAULT") {
    const Directories directories;
    const UniqueFd file = make_file(directories.raw("file"), pattern(0, page));
    const UniqueFd sink = make_file(directories.raw("sink"));
    const Mapping mapping(file.get(), 2 * page);
    CHECK(answer(::pwrite(sink.get(), mapping.data() + page, page, 0)) == "EFAULT");
}

TEST_CASE("a program that does not expect it is killed") {
    const Directories directories;
    const UniqueFd file = make_file(directories.raw("file"), pattern(0, page));
    const Mapping mapping(file.get(), 2 * page);
    const std::string how = as_user(
        0, [&] { return std::to_string(*static_cast<volatile char*>(static_cast<void*>(mapping.data() + page))); });
    CHECK(how.starts_with("killed by SIGBUS"));
}

TEST_SUITE_END();
