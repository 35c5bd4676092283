// fsync on a view: when it returns, the view shows all that happened before.
#include <doctest/doctest.h>

#include "tests/mount/aio_write.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

using Barrier = int (*)(int fd);

// Stores through a mapping of the raw file are seen by nobody; after the barrier the view shows them, each time.
void check_stores_show(const Mapping& view, const Mapping& raw, int fd, Barrier barrier) {
    CHECK(view.touch() == view.size() / page);
    std::string wanted = view.bytes();
    for (unsigned round = 1; round <= 50; ++round) {
        CAPTURE(round);
        const std::size_t at = round * 997 % raw.size();
        const std::string bytes = pattern(at, std::min<std::size_t>(300, raw.size() - at), round);
        REQUIRE(raw.store(at, bytes) == bytes.size());
        REQUIRE(answer(barrier(fd)) == "0");
        wanted.replace(at, bytes.size(), bytes);
        CHECK(difference(view.bytes(), wanted) == "");
    }
}

}  // namespace

TEST_SUITE_BEGIN("barrier");

TEST_CASE("the barrier shows stores through a mapping of the backing file") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 8 * page));
    const Mapping raw(backing.get(), 8 * page, PROT_READ | PROT_WRITE);
    const UniqueFd reader = open_file(mount.view("file"), O_RDONLY);
    const UniqueFd writer = open_file(mount.view("file"), O_RDWR);
    SUBCASE("fsync of an O_RDONLY view") {
        check_stores_show(Mapping(reader.get(), MiB), raw, reader.get(), ::fsync);
    }
    SUBCASE("fdatasync of an O_RDONLY view") {
        check_stores_show(Mapping(reader.get(), MiB), raw, reader.get(), ::fdatasync);
    }
    SUBCASE("in a private mapping") {
        check_stores_show(Mapping(reader.get(), MiB, PROT_READ, MAP_PRIVATE), raw, reader.get(), ::fsync);
    }
    SUBCASE("fsync of another descriptor of the same file") {
        check_stores_show(Mapping(reader.get(), MiB), raw, writer.get(), ::fsync);
    }
    SUBCASE("in a writable mapping") {
        check_stores_show(Mapping(writer.get(), MiB, PROT_READ | PROT_WRITE), raw, writer.get(), ::fsync);
    }
}

TEST_CASE("msync of a writable shared view is a barrier too") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 4 * page));
    const Mapping raw(backing.get(), 4 * page, PROT_READ | PROT_WRITE);
    const UniqueFd view = open_file(mount.view("file"), O_RDWR);
    const Mapping mapping(view.get(), MiB, PROT_READ | PROT_WRITE);
    CHECK(mapping.touch() == MiB / page);
    CHECK(raw.store(page + 3, "new") == 3);
    CHECK(mapping.sync() == 0);
    CHECK(mapping.bytes(page + 3, 3) == "new");
}

TEST_CASE("an open shows stores through a mapping of the backing file") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 4 * page));
    const Mapping raw(backing.get(), 4 * page, PROT_READ | PROT_WRITE);
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.touch() == MiB / page);
    CHECK(raw.store(page + 3, "new") == 3);
    const UniqueFd later = open_file(mount.view("file"), O_RDONLY);
    CHECK(eventually([&] { return mapping.bytes(page + 3, 3) == "new"; }));
}

TEST_CASE("the barrier shows writes that no event tells of") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 4 * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.touch() == MiB / page);
    const std::string bytes = pattern(0, 6 * page, 1);
    aio_write(backing.get(), 0, bytes);
    REQUIRE(::fsync(view.get()) == 0);
    CHECK(difference(mapping.bytes(), padded(bytes, MiB)) == "");
}

TEST_SUITE_END();
