// What a memfd tells of its changes, and what shows the others: of its descriptor inotify hears truncations only.
#include <doctest/doctest.h>
#include <sys/mman.h>

#include <functional>

#include "tests/mount/changes.h"
#include "tests/mount/counters.h"
#include "tests/mount/fd_views.h"
#include "tests/mount/loading.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// A memfd with a view that is mapped, and loaded already.
struct Viewed {
    explicit Viewed(const ViewMount& mount)
        : file(memfd(pattern(0, 8 * page))), view(fd_view(mount, file.get())), mapping(view.get(), MiB) {
        CHECK(mapping.bytes() == padded(pattern(0, 8 * page), MiB));
    }

    UniqueFd file;
    UniqueFd view;
    Mapping mapping;
};

}  // namespace

TEST_SUITE_BEGIN("fd-views");

TEST_CASE("a truncation of a memfd makes an event, and shows unasked") {
    const ViewMount mount({"max_size=1M"});
    const Viewed viewed(mount);
    const Loading loading(viewed.mapping);
    for (const std::size_t size : {7 * page, 7 * page - 5, 3 * page + 1, page, std::size_t{0}, 9 * page}) {
        CAPTURE(size);
        const auto events = counters(mount).at("events");
        resize(viewed.file.get(), size);
        CHECK(eventually([&] { return counters(mount).at("events") > events; }));
        const std::string now = padded(read_all(viewed.file.get()), MiB);
        CHECK(eventually([&] { return viewed.mapping.bytes() == now; }));
        write_at(viewed.file.get(), 0, pattern(0, 8 * page));
        REQUIRE(::fsync(viewed.view.get()) == 0);
    }
    CHECK(loading.goes_round());
    CHECK(loading.faults() == 0);
}

TEST_CASE("a truncation by another descriptor of the memfd, or by a process that has it, shows as well") {
    const ViewMount mount({"max_size=1M"});
    const Viewed viewed(mount);
    resize(same_file(viewed.file.get(), O_RDWR).get(), 5 * page);
    CHECK(eventually([&] { return viewed.mapping.bytes() == padded(pattern(0, 5 * page), MiB); }));
    same_file(viewed.file.get(), O_RDWR | O_TRUNC);
    CHECK(eventually([&] { return viewed.mapping.bytes() == std::string(MiB, '\0'); }));
    CHECK(as_user(nobody, [&] { return answer(::ftruncate(viewed.file.get(), static_cast<off_t>(2 * page))); }) == "0");
    write_at(viewed.file.get(), page, "grown");
    REQUIRE(::fsync(viewed.view.get()) == 0);
    CHECK(viewed.mapping.bytes(page, 5) == "grown");
}

TEST_CASE("the sweep shows what has been written to a memfd, which dates it") {
    const ViewMount mount({"max_size=1M"});
    const Viewed viewed(mount);
    const auto events = counters(mount).at("events");
    const std::string bytes = pattern(0, 9 * page, 1);  // within its end, and past it
    write_at(viewed.file.get(), page - 7, bytes);
    CHECK(eventually([&] { return viewed.mapping.bytes(page - 7, bytes.size()) == bytes; }));
    // Linux 6.1 tells of them, too.
    if (counters(mount).at("events") != events) MESSAGE("no test of the sweep, where a write to a memfd is an event");
}

TEST_CASE("with refresh= punches, writes and stores of a memfd show unasked") {
    const ViewMount mount({"max_size=1M", "refresh=20"});
    const Viewed viewed(mount);
    const Mapping raw(viewed.file.get(), 8 * page, PROT_READ | PROT_WRITE);
    const std::function<void()> changes[] = {
        [&] { punch(viewed.file.get(), page, 2 * page); },
        [&] { CHECK(raw.store(2 * page - 5, "stored") == 6); },
        [&] { write_at(viewed.file.get(), 5 * page - 3, pattern(0, page, 9)); },
        [&] { must(::madvise(raw.data() + 6 * page, page, MADV_REMOVE), "madvise"); },
    };
    for (const auto& change : changes) {
        change();
        const std::string now = padded(read_all(viewed.file.get()), MiB);
        CHECK(eventually([&] { return viewed.mapping.bytes() == now; }));
    }
}

TEST_CASE("of a file of a tmpfs or an ext4 each change shows unasked, although it has no name") {
    const ViewMount mount({"max_size=1M"});
    const Ext4 ext4(mount);
    const std::size_t length = mapped_pages * page;
    for (const Change& change : changes()) {
        if (change.needs_name || change.silent) continue;
        CAPTURE(change.name);
        const Outcome native = native_outcome(change, mount.plain());
        for (const std::string& directory : {mount.plain(), ext4.path()}) {
            CAPTURE(directory);
            const UniqueFd file = unlinked_file(directory, content_before());
            const UniqueFd view = fd_view(mount, file.get());
            const Mapping mapping(view.get(), length);
            CHECK(mapping.touch() == mapped_pages);
            change.make({file.get(), ""});
            CHECK(eventually([&] { return mapping.bytes() == padded(native.content, length); }));
        }
    }
}

TEST_SUITE_END();
