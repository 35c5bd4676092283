// Another worker goes on where one has died.
#include <doctest/doctest.h>

#include <cerrno>
#include <filesystem>
#include <initializer_list>
#include <string>

#include "tests/session/workers.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::uint64_t lookups(Workers& workers, std::uint64_t node) {
    for (const NodeSlot& slot : workers.state().nodes().taken()) {
        if (slot.id == node) return slot.lookups;
    }
    return 0;
}

Offer everything() {
    Offer offer;
    offer.flags = ~std::uint64_t{0};
    return offer;
}

// A truncation that a worker has answered and not made.
void note_truncation(Workers& workers, std::uint64_t node, off_t size) {
    TruncationSlot& slot = workers.state().truncations().take();
    slot.node = node;
    slot.handle = 0;
    slot.size = size;
    slot.which = FATTR_SIZE;
    workers.state().truncations().publish(slot);
}

}  // namespace

TEST_CASE("a worker that takes over has the kernel ask again before it reads, and says nothing of INIT") {
    Workers workers({}, everything());
    const std::uint64_t accepted = workers.state().accepted_flags();
    CHECK((accepted & FUSE_INIT_EXT) != 0);
    workers.kill();
    // What the kernel has for whoever comes is read after that.
    const Sent waiting = workers.ask(FUSE_GETATTR, FUSE_ROOT_ID, body(fuse_getattr_in{}));
    workers.start();
    CHECK(workers.wait_for(waiting.unique).error == 0);
    CHECK(workers.state().accepted_flags() == accepted);
    // Nothing but answers to what was asked, each once.
    workers.ask_something_new();
    CHECK(workers.take_notifications().size() == 1);
}

TEST_CASE("what the kernel was promised at INIT holds for all workers") {
    for (const bool maps_direct_files : {true, false}) {
        CAPTURE(maps_direct_files);
        Offer offer;
        if (!maps_direct_files) offer.flags &= ~(std::uint64_t{1} << 36);
        Workers workers({}, offer);
        make_file(workers.file("a"), "hello");
        const std::uint64_t node = workers.look_up("a").nodeid;
        for (int turn = 0; turn < 3; ++turn) {
            const Answer opened = workers.call(FUSE_OPEN, node, body(fuse_open_in{}));
            REQUIRE(opened.error == 0);
            CHECK(((opened.as<fuse_open_out>().open_flags & FOPEN_DIRECT_IO) != 0) == maps_direct_files);
            CHECK(workers.read(node, opened.as<fuse_open_out>().fh, 1 << 16).bytes.size() == 1 << 16);
            workers.replace();
        }
    }
}

TEST_CASE("a kernel whose INIT is shorter, as before Linux 5.17, is served by later workers as well") {
    struct ShortInit {
        std::uint32_t major = FUSE_KERNEL_VERSION;
        std::uint32_t minor = 31;
        std::uint32_t max_readahead = 128 << 10;
        std::uint32_t flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_EXPLICIT_INVAL_DATA | FUSE_MAX_PAGES;
    };
    Workers workers(body(ShortInit{}));
    CHECK(workers.get_attributes(FUSE_ROOT_ID) == 0);
    workers.replace();
    CHECK(workers.get_attributes(FUSE_ROOT_ID) == 0);
}

TEST_CASE("node ids and handles mean the same to every worker") {
    Workers workers;
    make_file(workers.file("a"), "hello");
    std::filesystem::create_directory(workers.file("d"));
    const std::uint64_t file = workers.look_up("a").nodeid;
    const std::uint64_t directory = workers.look_up("d").nodeid;
    const std::uint64_t reader = workers.open(file, O_RDONLY);
    const std::uint64_t writer = workers.open(file, O_RDWR);
    const Answer opened = workers.call(FUSE_OPENDIR, directory, body(fuse_open_in{}));
    REQUIRE(opened.error == 0);
    std::filesystem::rename(workers.file("a"), workers.file("b"));
    for (int turn = 0; turn < 3; ++turn) {
        workers.replace();
        CHECK(workers.get_attributes(file) == 0);
        CHECK(workers.get_attributes(directory) == 0);
        CHECK(workers.look_up("b").nodeid == file);
        CHECK(workers.read(file, reader, 4096).bytes.starts_with(turn == 0 ? "hello" : "Jello"));
        CHECK(workers.write(file, writer, "J", O_RDWR).error == 0);
        CHECK(workers.write(file, reader, "x", O_RDWR).error == EBADF);
        fuse_read_in in{};
        in.fh = opened.as<fuse_open_out>().fh;
        in.size = 4096;
        CHECK(workers.call(FUSE_READDIR, directory, body(in)).bytes.size() > 0);
        CHECK(soon([&] { return in_use(workers.state().open_files()) == 3; }));
    }
    for (const std::uint64_t handle : {reader, writer}) {
        fuse_release_in in{};
        in.fh = handle;
        CHECK(workers.call(FUSE_RELEASE, file, body(in)).error == 0);
    }
    // A thread may be done with a file a moment after it has answered.
    CHECK(soon([&] { return in_use(workers.state().open_files()) == 1; }));
    workers.forget(file, 4);
    CHECK(soon([&] { return workers.get_attributes(file) == ESTALE; }));
    workers.replace();
    CHECK(workers.get_attributes(file) == ESTALE);
    CHECK(workers.look_up("b").nodeid != file);
}

TEST_CASE("a change that no worker was there to see shows after the next has taken over") {
    Workers workers;
    const UniqueFd file = make_file(workers.file("a"), "hello");
    const std::uint64_t node = workers.look_up("a").nodeid;
    const std::uint64_t handle = workers.open(node, O_RDONLY);
    REQUIRE(workers.read(node, handle, 4096).error == 0);
    workers.kill();
    REQUIRE(::pwrite(file.get(), "J", 1, 0) == 1);
    workers.start();
    // It does not know what the kernel was given, so it drops all.
    CHECK(soon([&] { return any_drops(workers.take_notifications(), node, 0); }));
    REQUIRE(workers.read(node, handle, 4096).bytes.starts_with("Jello"));
    REQUIRE(::pwrite(file.get(), "Y", 1, 0) == 1);
    // From then on it knows, and pushes.
    CHECK(soon([&] {
        for (const Notification& sent : workers.take_notifications()) {
            if (sent.code == FUSE_NOTIFY_STORE && sent.as<fuse_notify_store_out>().nodeid == node) return true;
        }
        return false;
    }));
}

TEST_CASE("a lookup that was not answered is not counted, and one that was is") {
    Workers workers;
    make_file(workers.file("a"), "hello");
    const std::uint64_t node = workers.look_up("a").nodeid;
    workers.replace();
    CHECK(lookups(workers, node) == 1);
    workers.look_up("a");
    workers.replace();
    CHECK(lookups(workers, node) == 2);
    workers.forget(node, 1);
    workers.forget(node, 1);
    CHECK(soon([&] { return workers.get_attributes(node) == ESTALE; }));
}

TEST_CASE("a truncation that was answered and has not happened is made by the next worker") {
    Workers workers;
    const UniqueFd file = make_file(workers.file("a"), "hello");
    const std::uint64_t node = workers.look_up("a").nodeid;
    workers.kill();
    note_truncation(workers, node, 2);
    workers.start();
    CHECK(soon([&] { return content_of(file.get()) == "he"; }));
    CHECK(soon([&] { return in_use(workers.state().truncations()) == 0; }));
}

TEST_CASE("a truncation that was answered is made also where the kernel has forgotten the file since") {
    Workers workers;
    const UniqueFd file = make_file(workers.file("a"), "hello");
    const std::uint64_t node = workers.look_up("a").nodeid;
    workers.kill();
    note_truncation(workers, node, 2);
    // FORGET has come; it was the thread that truncates that kept the node.
    for (NodeSlot& known : workers.state().nodes().taken()) {
        if (known.id == node) known.lookups = 0;
    }
    workers.start();
    CHECK(soon([&] { return in_use(workers.state().truncations()) == 0; }));
    CHECK(content_of(file.get()) == "he");
}
