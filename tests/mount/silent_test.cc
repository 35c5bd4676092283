// Changes of which inotify says nothing, and what shows them without a barrier.
#include <doctest/doctest.h>

#include "tests/mount/aio_write.h"
#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

TEST_SUITE_BEGIN("silent");

TEST_CASE("refresh= shows stores through a mapping of the backing file, each time") {
    const ViewMount mount({"max_size=1M", "refresh=20"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 8 * page));
    const Mapping raw(backing.get(), 8 * page, PROT_READ | PROT_WRITE);
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping shared(view.get(), MiB);
    const Mapping copying(view.get(), MiB, PROT_READ, MAP_PRIVATE);
    CHECK(shared.touch() == MiB / page);
    CHECK(copying.touch() == MiB / page);
    for (unsigned round = 1; round <= 20; ++round) {
        CAPTURE(round);
        const std::string bytes = pattern(0, 300, round);
        REQUIRE(raw.store(3 * page - 100, bytes) == bytes.size());
        CHECK(eventually([&] { return shared.bytes(3 * page - 100, 300) == bytes; }));
        CHECK(eventually([&] { return copying.bytes(3 * page - 100, 300) == bytes; }));
    }
}

TEST_CASE("the sweep finds libaio writes, which date the file") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 4 * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.touch() == MiB / page);
    for (unsigned round = 1; round <= 3; ++round) {
        CAPTURE(round);
        const auto events = counters(mount).at("events");
        const std::string bytes = pattern(0, 6 * page, round);
        aio_write(backing.get(), 0, bytes);
        CHECK(eventually([&] { return mapping.bytes() == padded(bytes, MiB); }));
        CHECK(counters(mount).at("events") == events);  // else this would be no test of the sweep
    }
    CHECK(counters(mount).at("sweep_refreshes") > 0);
}

TEST_CASE("a view nobody changes costs nothing to refresh") {
    const ViewMount mount({"max_size=1M", "refresh=10"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 64 * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.touch() == MiB / page);
    const auto before = counters(mount);
    CHECK(eventually([&] { return counters(mount).at("refreshes") > before.at("refreshes") + 10; }));
    const auto after = counters(mount);
    CHECK(after.at("pages_pushed") == before.at("pages_pushed"));
    CHECK(after.at("pages_dropped") == before.at("pages_dropped"));
}

TEST_CASE("one page of many changes, and no other is touched") {
    const ViewMount mount({"max_size=64M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 64 * MiB));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), 64 * MiB);
    CHECK(mapping.touch() == 64 * MiB / page);
    const auto before = counters(mount);
    write_at(backing.get(), 40 * MiB + 5, "changed");
    CHECK(eventually([&] { return mapping.bytes(40 * MiB + 5, 7) == "changed"; }));
    REQUIRE(::fsync(view.get()) == 0);
    const auto after = counters(mount);
    CHECK(after.at("pages_pushed") == before.at("pages_pushed") + 1);
    CHECK(after.at("pages_dropped") == before.at("pages_dropped"));
    CHECK(after.at("whole_drops") == before.at("whole_drops"));
}

TEST_SUITE_END();
