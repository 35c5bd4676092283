// A source file system without room: what cannot be stored is an error for who stores it, and nothing for who loads.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <libaio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>

#include "tests/mount/files.h"
#include "tests/mount/loads.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

namespace nosigbus::test {

namespace {

// From now on the source holds no more than it does.
void fill_up(const ViewMount& mount) {
    must(::mount("none", mount.source().c_str(), nullptr, MS_REMOUNT, "size=1m"), "mount");
    const UniqueFd filler = make_file(mount.raw("filler"));
    const std::string block(64 * KiB, 'x');
    while (::write(filler.get(), block.data(), block.size()) > 0) {
    }
    REQUIRE(errno == ENOSPC);
}

// What an asynchronous direct write of one page at `offset` gives: bytes written, or minus errno.
long write_by_aio(int fd, std::size_t offset) {
    void* buffer = nullptr;
    REQUIRE(::posix_memalign(&buffer, page, page) == 0);
    io_context_t context = nullptr;
    REQUIRE(::io_setup(1, &context) == 0);
    iocb request{};
    ::io_prep_pwrite(&request, fd, buffer, page, static_cast<long long>(offset));
    iocb* requests[] = {&request};
    io_event event{};
    REQUIRE(::io_submit(context, 1, requests) == 1);
    REQUIRE(::io_getevents(context, 1, 1, &event, nullptr) == 1);
    ::io_destroy(context);
    std::free(buffer);
    return static_cast<long>(event.res);
}

}  // namespace

TEST_SUITE_BEGIN("full");

TEST_CASE("an asynchronous direct write past the view that fails leaves the file as it was") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd raw = make_file(mount.raw("a"), pattern(0, 5000));
    const UniqueFd view = open_file(mount.view("a"), O_RDWR | O_DIRECT);
    fill_up(mount);
    CHECK(write_by_aio(view.get(), 2 * MiB) == -ENOSPC);
    CHECK(size_of(raw.get()) == 5000);
    // A truncation to that size that somebody asks for is done.
    CHECK(::ftruncate(view.get(), static_cast<off_t>(MiB)) == 0);
    CHECK(size_of(raw.get()) == MiB);
}

TEST_CASE("a store into a hole that cannot be filled is ENOSPC at fsync, and no load faults") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd raw = make_file(mount.raw("a"));
    resize(raw.get(), MiB);
    fill_up(mount);
    const UniqueFd view = open_file(mount.view("a"), O_RDWR);
    const Mapping mapping(view.get(), MiB, PROT_READ | PROT_WRITE, MAP_SHARED);
    CHECK(touch_pages(mapping.data(), MiB) == MiB / page);
    CHECK(store(mapping.data() + 5 * page, "x") == 1);
    CHECK(::fsync(view.get()) == -1);
    CHECK(errno == ENOSPC);
    CHECK(touch_pages(mapping.data(), MiB) == MiB / page);
}

TEST_SUITE_END();

}  // namespace nosigbus::test
