#include <doctest/doctest.h>

#include "tests/session/fake_kernel.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::uint32_t write(FakeKernel& kernel, std::uint64_t node, std::uint64_t handle, std::uint64_t offset,
                    const std::string& bytes, int flags, bool from_page_cache) {
    fuse_write_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = static_cast<std::uint32_t>(bytes.size());
    in.flags = static_cast<std::uint32_t>(flags);
    in.write_flags = from_page_cache ? FUSE_WRITE_CACHE : 0;
    const Answer answer = kernel.call(FUSE_WRITE, node, body(in) + bytes);
    REQUIRE(answer.error == 0);
    return answer.as<fuse_write_out>().size;
}

struct House {
    FakeKernel kernel;
    UniqueFd file = make_file(kernel.source().file("a"), "hello");
    std::uint64_t node = kernel.look_up("a").nodeid;
    std::uint64_t handle = kernel.open(node, O_RDWR);
};

}  // namespace

TEST_CASE("a page written back is clipped at the file's end and taken as a whole") {
    House house;
    CHECK(write(house.kernel, house.node, house.handle, 0, "HELLO" + std::string(4091, 'x'), O_RDWR, true) == 4096);
    CHECK(content_of(house.file.get()) == "HELLO");
    CHECK(write(house.kernel, house.node, house.handle, 4096, std::string(4096, 'x'), O_RDWR, true) == 4096);
    CHECK(content_of(house.file.get()) == "HELLO");
    // Also where the handle that the kernel picked for it appends.
    CHECK(write(house.kernel, house.node, house.handle, 0, "Jello", O_RDWR | O_APPEND, true) == 5);
    CHECK(content_of(house.file.get()) == "Jello");
}

TEST_CASE("write(2) grows the file, and appends at its end, not at the view's") {
    House house;
    CHECK(write(house.kernel, house.node, house.handle, 5, " world", O_RDWR, false) == 6);
    CHECK(write(house.kernel, house.node, house.handle, 1 << 30, "!", O_WRONLY | O_APPEND, false) == 1);
    CHECK(content_of(house.file.get()) == "hello world!");
}

TEST_CASE("fsync is answered when the view's pages have been dropped") {
    House house;
    house.kernel.take_notifications();
    const std::uint64_t read_only = house.kernel.open(house.node, O_RDONLY);
    fuse_fsync_in in{};
    in.fh = read_only;
    CHECK(house.kernel.call(FUSE_FSYNC, house.node, body(in)).error == 0);
    const auto sent = house.kernel.take_notifications();
    REQUIRE(sent.size() == 1);
    CHECK(sent[0].code == FUSE_NOTIFY_INVAL_INODE);
    fuse_notify_inval_inode_out drop{};
    std::memcpy(&drop, sent[0].bytes.data(), sizeof drop);
    CHECK(drop.ino == house.node);
    CHECK(drop.off == 0);
    CHECK(drop.len == 0);
}

TEST_CASE("a change behind our back drops the view's pages unasked") {
    House house;
    house.kernel.take_notifications();
    REQUIRE(::ftruncate(house.file.get(), 1) == 0);
    std::deque<Notification> sent;
    for (int tries = 0; sent.empty() && tries < 1000; ++tries) {
        house.kernel.call(FUSE_GETATTR, house.node, body(fuse_getattr_in{}));
        sent = house.kernel.take_notifications();
    }
    REQUIRE_FALSE(sent.empty());
    CHECK(sent[0].code == FUSE_NOTIFY_INVAL_INODE);
}
