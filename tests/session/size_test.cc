#include <doctest/doctest.h>

#include <set>

#include "tests/session/fake_kernel.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr off_t M = 1 << 20;

Options small() {
    Options options;
    options.max_size = M;
    return options;
}

std::uint64_t size_by_getattr(FakeKernel& kernel, std::uint64_t node) {
    return kernel.call(FUSE_GETATTR, node, body(fuse_getattr_in{})).as<fuse_attr_out>().attr.size;
}

// The notifications that grow a view: attributes first made to expire, then one byte stored behind the view.
void check_grown(const std::deque<Notification>& sent, std::uint64_t node, off_t size) {
    REQUIRE(sent.size() >= 2);
    fuse_notify_inval_inode_out expire{};
    fuse_notify_store_out store{};
    CHECK(sent[0].code == FUSE_NOTIFY_INVAL_INODE);
    std::memcpy(&expire, sent[0].bytes.data(), sizeof expire);
    CHECK(expire.ino == node);
    CHECK(expire.off == -1);
    CHECK(sent[1].code == FUSE_NOTIFY_STORE);
    std::memcpy(&store, sent[1].bytes.data(), sizeof store);
    CHECK(store.nodeid == node);
    CHECK(store.offset == static_cast<std::uint64_t>(size));
    CHECK(store.size == 1);
}

}  // namespace

TEST_CASE("a file that outgrew its view is told to every mapping before anybody sees the new size") {
    FakeKernel kernel(small());
    const UniqueFd file = make_file(kernel.source().file("a"), "hello");
    const fuse_entry_out entry = kernel.look_up("a");
    CHECK(entry.attr.size == M);
    REQUIRE(::ftruncate(file.get(), 2 * M + 1) == 0);
    CHECK(size_by_getattr(kernel, entry.nodeid) == 3 * M);
    check_grown(kernel.take_notifications(), entry.nodeid, 3 * M);
    // Told again at each open: answers of before may still be on their way.
    kernel.open(entry.nodeid, O_RDONLY);
    check_grown(kernel.take_notifications(), entry.nodeid, 3 * M);
}

TEST_CASE("a view that fits costs no notification, and never shrinks") {
    FakeKernel kernel(small());
    const UniqueFd file = make_file(kernel.source().file("a"));
    REQUIRE(::ftruncate(file.get(), 5 * M) == 0);
    const fuse_entry_out entry = kernel.look_up("a");
    CHECK(entry.attr.size == 5 * M);
    REQUIRE(::ftruncate(file.get(), 1) == 0);
    CHECK(kernel.look_up("a").attr.size == 5 * M);
    CHECK(size_by_getattr(kernel, entry.nodeid) == 5 * M);
    kernel.open(entry.nodeid, O_RDONLY);
    CHECK(kernel.take_notifications().empty());
}

TEST_CASE("replies whose size the kernel does not order are beyond the view and never twice the same") {
    FakeKernel kernel(small());
    make_file(kernel.source().file("a"), "hello");
    const std::uint64_t node = kernel.look_up("a").nodeid;
    std::set<std::uint64_t> sizes = {static_cast<std::uint64_t>(M)};
    for (int i = 0; i < 10; ++i) {
        fuse_setattr_in in{};
        in.valid = FATTR_SIZE;
        in.size = 3;
        const Answer answer = kernel.call(FUSE_SETATTR, node, body(in));
        REQUIRE(answer.error == 0);
        const auto out = answer.as<fuse_attr_out>();
        CHECK(out.attr.size > static_cast<std::uint64_t>(M));
        CHECK(out.attr_valid == 0);
        CHECK(sizes.insert(out.attr.size).second);
        CHECK(size_by_getattr(kernel, node) == M);
    }
    fuse_link_in link{};
    link.oldnodeid = node;
    const auto linked = kernel.call(FUSE_LINK, FUSE_ROOT_ID, body(link) + name_of("b")).as<fuse_entry_out>();
    CHECK(linked.nodeid == node);
    CHECK(sizes.insert(linked.attr.size).second);
}
