// The matrix where stat(2) tells the view size, and what the table of changes has no place for.
#include <doctest/doctest.h>

#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/matrix.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

TEST_SUITE_BEGIN("change");

TEST_CASE("a shared read-only mapping follows the file") {
    check_column(shared_ro, stat_view);
}

TEST_CASE("a shared writable mapping follows the file") {
    check_column(shared_rw, stat_view);
}

TEST_CASE("a private mapping follows the file") {
    check_column(private_clean, stat_view);
}

TEST_CASE("the private copies of pages stay, all other pages follow the file") {
    check_column(private_cow, stat_view);
}

TEST_CASE("a change through a hard link outside the name that is open shows") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("one"), pattern(0, 4 * page));
    must(::mkdir(mount.raw("elsewhere").c_str(), 0755), "mkdir");
    must(::link(mount.raw("one").c_str(), mount.raw("elsewhere/two").c_str()), "link");
    const UniqueFd view = open_file(mount.view("one"), O_RDONLY);
    const Mapping mapping(view.get(), 8 * page);
    CHECK(mapping.touch() == 8);
    must(::truncate(mount.raw("elsewhere/two").c_str(), 10), "truncate");
    CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, 10), 8 * page); }));
    write_at(open_file(mount.raw("elsewhere/two"), O_WRONLY).get(), 0, pattern(0, 6 * page, 1));
    CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, 6 * page, 1), 8 * page); }));
}

TEST_CASE("the zero tail gives way to data as the file grows, step by step") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.touch() == MiB / page);
    std::string content;
    for (const std::size_t step : {std::size_t{1}, std::size_t{10}, page, page - 11, 3 * page + 1, 64 * page}) {
        CAPTURE(step);
        write_at(backing.get(), content.size(), pattern(content.size(), step));
        content += pattern(content.size(), step);
        CHECK(eventually([&] { return mapping.bytes() == padded(content, MiB); }));
    }
}

TEST_CASE("many files that change at once all show it") {
    // More events than a watcher that looks at one file only would notice.
    const ViewMount mount({"max_size=1M"});
    std::vector<UniqueFd> files;
    std::vector<Mapping> mappings;
    for (int i = 0; i < 200; ++i) {
        files.push_back(make_file(mount.raw(std::to_string(i)), pattern(0, 3 * page)));
        mappings.emplace_back(open_file(mount.view(std::to_string(i)), O_RDONLY).get(), 6 * page);
        REQUIRE(mappings.back().touch() == 6);
    }
    for (int round = 1; round <= 10; ++round) {
        for (const UniqueFd& file : files) {
            resize(file.get(), page);
            write_at(file.get(), 0, pattern(0, 4 * page, static_cast<unsigned>(round)));
            resize(file.get(), 10);
        }
    }
    const std::string wanted = padded(pattern(0, 10, 10), 6 * page);
    for (const Mapping& mapping : mappings) CHECK(eventually([&] { return mapping.bytes() == wanted; }));
}

TEST_SUITE_END();
