#include <doctest/doctest.h>

#include "tests/session/fake_kernel.h"
#include "tests/unit/source.h"

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

TEST_CASE("a write goes where the call said, where the kernel lets that be told") {
    House house;
    // RWF_NOAPPEND: no append has an offset inside the view.
    CHECK(write(house.kernel, house.node, house.handle, 0, "J", O_WRONLY | O_APPEND, false) == 1);
    CHECK(content_of(house.file.get()) == "Jello");
    // RWF_APPEND, after a reply that carried a size beyond any view.
    const std::uint64_t beyond = (std::uint64_t{1} << 62) + 4096;
    CHECK(write(house.kernel, house.node, house.handle, beyond, "!", O_WRONLY, false) == 1);
    CHECK(content_of(house.file.get()) == "Jello!");
}

TEST_CASE("fsync is answered when the view's pages that have changed have been dropped") {
    House house;
    REQUIRE(house.kernel.read_page(house.node, house.handle, 0, 4096).error == 0);
    house.kernel.take_notifications();
    const std::uint64_t read_only = house.kernel.open(house.node, O_RDONLY);
    REQUIRE(::pwrite(house.file.get(), "J", 1, 0) == 1);
    CHECK(house.kernel.fsync(house.node, read_only) == 0);
    CHECK(any_drops(house.kernel.take_earlier_notifications(), house.node, 0));
}

TEST_CASE("a change behind our back drops the view's pages unasked") {
    House house;
    REQUIRE(house.kernel.read_page(house.node, house.handle, 0, 4096).error == 0);
    house.kernel.take_notifications();
    REQUIRE(::ftruncate(house.file.get(), 1) == 0);
    CHECK(comes_true([&] { return any_drops(house.kernel.take_notifications(), house.node, 0); }));
}

TEST_CASE("a change behind our back reaches a view that nobody writes to, bytes and all") {
    FakeKernel kernel;
    const UniqueFd file = make_file(kernel.source().file("a"), "hello");
    const std::uint64_t node = kernel.look_up("a").nodeid;
    const std::uint64_t handle = kernel.open(node, O_RDONLY);
    REQUIRE(kernel.read_page(node, handle, 0, 8192).error == 0);
    REQUIRE(::pwrite(file.get(), "J", 1, 0) == 1);
    CHECK(kernel.fsync(node, handle) == 0);
    const auto sent = kernel.take_earlier_notifications();
    REQUIRE(sent.size() == 1);
    CHECK(sent[0].code == FUSE_NOTIFY_STORE);
    const auto store = sent[0].as<fuse_notify_store_out>();
    CHECK(store.nodeid == node);
    CHECK(store.offset == 0);
    CHECK(store.size == 4096);
    CHECK(sent[0].bytes.substr(sizeof store) == "Jello" + std::string(4091, '\0'));
}

TEST_CASE("after a write-back it is known what the kernel has") {
    House house;
    REQUIRE(::ftruncate(house.file.get(), 3 * 4096 + 100) == 0);
    house.kernel.fsync(house.node, house.handle);
    house.kernel.take_notifications();
    write(house.kernel, house.node, house.handle, 0, std::string(2 * 4096, 'x'), O_RDWR, true);
    write(house.kernel, house.node, house.handle, 3 * 4096, std::string(4096, 'y'), O_RDWR, true);
    CHECK(house.kernel.fsync(house.node, house.handle) == 0);
    auto sent = house.kernel.take_earlier_notifications();
    // Whole pages inside the file stay; of the clipped one the kernel has more than the file.
    CHECK_FALSE(any_drops(sent, house.node, 0));
    CHECK_FALSE(any_drops(sent, house.node, 4096));
    CHECK(any_drops(sent, house.node, 3 * 4096));
    // Until somebody changes the file.
    REQUIRE(::pwrite(house.file.get(), "z", 1, 4096) == 1);
    CHECK(house.kernel.fsync(house.node, house.handle) == 0);
    sent = house.kernel.take_earlier_notifications();
    CHECK_FALSE(any_drops(sent, house.node, 0));
    CHECK(any_drops(sent, house.node, 4096));
}

TEST_CASE("a page written back past the file's end is dropped") {
    House house;
    write(house.kernel, house.node, house.handle, 8 * 4096, std::string(4096, 'x'), O_RDWR, true);
    CHECK(house.kernel.fsync(house.node, house.handle) == 0);
    CHECK(any_drops(house.kernel.take_earlier_notifications(), house.node, 8 * 4096));
}

TEST_CASE("what is written to a file that was opened cached stays in pages of which nothing is known") {
    Options options;
    options.cached_opens = true;
    FakeKernel kernel(options);
    const UniqueFd file = make_file(kernel.source().file("a"), std::string(8192, 'x'));
    const std::uint64_t node = kernel.look_up("a").nodeid;
    const std::uint64_t handle = kernel.open(node, O_RDWR);
    CHECK(write(kernel, node, handle, 4000, std::string(1000, 'y'), O_RDWR, false) == 1000);
    CHECK(kernel.fsync(node, handle) == 0);
    // What the write itself made known may have led to that already.
    const auto sent = kernel.take_earlier_notifications();
    CHECK(any_drops(sent, node, 0));
    CHECK(any_drops(sent, node, 4096));
}
