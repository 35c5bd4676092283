#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include "tests/session/fake_kernel.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr off_t M = 1 << 20;

Options told(Options::Stat stat) {
    Options options;
    options.max_size = M;
    options.stat = stat;
    return options;
}

// The size of `name` as READDIRPLUS of the root gives it; 0 where it is not there.
std::uint64_t size_by_readdirplus(FakeKernel& kernel, const std::string& name) {
    const Answer opened = kernel.call(FUSE_OPENDIR, FUSE_ROOT_ID, body(fuse_open_in{}));
    REQUIRE(opened.error == 0);
    fuse_read_in in{};
    in.fh = opened.as<fuse_open_out>().fh;
    in.size = 65536;
    const std::string listing = kernel.call(FUSE_READDIRPLUS, FUSE_ROOT_ID, body(in)).bytes;
    std::uint64_t size = 0;
    for (std::size_t at = 0; at + FUSE_NAME_OFFSET_DIRENTPLUS <= listing.size();) {
        fuse_direntplus entry{};
        std::memcpy(&entry, listing.data() + at, FUSE_NAME_OFFSET_DIRENTPLUS);
        if (std::string_view(listing).substr(at + FUSE_NAME_OFFSET_DIRENTPLUS, entry.dirent.namelen) == name)
            size = entry.entry_out.attr.size;
        at += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + entry.dirent.namelen);
    }
    return size;
}

}  // namespace

TEST_CASE("stat(2) is told the real size, after the kernel was told to keep no size of that reply") {
    FakeKernel kernel(told(Options::Stat::real));
    const UniqueFd file = make_file(kernel.source().file("a"), "hello");
    const std::uint64_t node = kernel.look_up("a").nodeid;
    for (const std::uint64_t size : {5, 0, 4096, 700'000}) {
        CAPTURE(size);
        REQUIRE(::ftruncate(file.get(), static_cast<off_t>(size)) == 0);
        kernel.take_notifications();
        const Answer answer = kernel.call(FUSE_GETATTR, node, body(fuse_getattr_in{}));
        const auto before = kernel.take_earlier_notifications();
        REQUIRE(answer.error == 0);
        CHECK(answer.as<fuse_attr_out>().attr.size == size);
        CHECK(answer.as<fuse_attr_out>().attr_valid == 0);
        REQUIRE(before.size() == 1);
        CHECK(before[0].code == FUSE_NOTIFY_INVAL_INODE);
        const auto expire = before[0].as<fuse_notify_inval_inode_out>();
        CHECK(expire.ino == node);
        CHECK(expire.off == -1);
    }
}

TEST_CASE("a reply that the kernel keeps a size of carries the view's") {
    FakeKernel kernel(told(Options::Stat::real));
    make_file(kernel.source().file("a"), "hello");
    CHECK(kernel.look_up("a").attr.size == M);
    CHECK(size_by_readdirplus(kernel, "a") == M);
    kernel.call(FUSE_GETATTR, kernel.look_up("a").nodeid, body(fuse_getattr_in{}));
    CHECK(kernel.look_up("a").attr.size == M);
    CHECK(size_by_readdirplus(kernel, "a") == M);
    // SETATTR's is beyond any.
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    in.size = 3;
    CHECK(kernel.call(FUSE_SETATTR, kernel.look_up("a").nodeid, body(in)).as<fuse_attr_out>().attr.size >
          static_cast<std::uint64_t>(M));
}

TEST_CASE("a file that has outgrown its view is told as it is, after its view has grown") {
    FakeKernel kernel(told(Options::Stat::real));
    const UniqueFd file = make_file(kernel.source().file("a"), "hello");
    const std::uint64_t node = kernel.look_up("a").nodeid;
    REQUIRE(::ftruncate(file.get(), 2 * M + 1) == 0);
    const Answer answer = kernel.call(FUSE_GETATTR, node, body(fuse_getattr_in{}));
    CHECK(answer.as<fuse_attr_out>().attr.size == 2 * M + 1);
    const auto before = kernel.take_earlier_notifications();
    REQUIRE(before.size() == 3);
    CHECK(before[1].code == FUSE_NOTIFY_STORE);
    CHECK(before[1].as<fuse_notify_store_out>().offset == 3 * M);
    CHECK(before[2].as<fuse_notify_inval_inode_out>().off == -1);
    CHECK(kernel.look_up("a").attr.size == 3 * M);
}

TEST_CASE("without the option, and for directories, nothing is notified for a GETATTR") {
    for (const auto stat : {Options::Stat::view, Options::Stat::real}) {
        FakeKernel kernel(told(stat));
        make_file(kernel.source().file("a"), "hello");
        const std::uint64_t node = kernel.look_up("a").nodeid;
        CHECK(kernel.call(FUSE_GETATTR, FUSE_ROOT_ID, body(fuse_getattr_in{})).error == 0);
        CHECK(kernel.take_notifications().empty());
        if (stat == Options::Stat::real) continue;
        const Answer answer = kernel.call(FUSE_GETATTR, node, body(fuse_getattr_in{}));
        CHECK(answer.as<fuse_attr_out>().attr.size == M);
        CHECK(kernel.take_notifications().empty());
    }
}
