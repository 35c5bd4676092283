#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>

#include "tests/session/fake_kernel.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// A READ as a fault or readahead sends it, or, with a lock owner, as read(2) does.
Answer read(FakeKernel& kernel, std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::uint32_t size,
            bool from_read_call) {
    fuse_read_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = size;
    in.read_flags = from_read_call ? FUSE_READ_LOCKOWNER : 0;
    in.lock_owner = from_read_call ? 0x1234 : 0;
    return kernel.call(FUSE_READ, node, body(in));
}

bool all_zeros(const std::string& bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](char c) { return c == 0; });
}

}  // namespace

TEST_CASE("a page is answered in full, zeros past the end; read(2) ends where the file does") {
    FakeKernel kernel;
    make_file(kernel.source().file("a"), "hello");
    const std::uint64_t node = kernel.look_up("a").nodeid;
    const std::uint64_t handle = kernel.open(node, O_RDONLY);

    Answer page = read(kernel, node, handle, 0, 8192, false);
    CHECK(page.error == 0);
    CHECK(page.bytes.size() == 8192);
    CHECK(page.bytes.starts_with("hello"));
    CHECK(all_zeros(page.bytes.substr(5)));
    page = read(kernel, node, handle, 1 << 29, 128 << 10, false);
    CHECK(page.error == 0);
    CHECK(page.bytes.size() == 128 << 10);
    CHECK(all_zeros(page.bytes));

    CHECK(read(kernel, node, handle, 0, 8192, true).bytes == "hello");
    CHECK(read(kernel, node, handle, 4, 8192, true).bytes == "o");
    CHECK(read(kernel, node, handle, 5, 8192, true).bytes.empty());
}

TEST_CASE("a page that cannot be read is zeros, never an error") {
    FakeKernel kernel;
    make_file(kernel.source().file("a"), "hello");
    const std::uint64_t node = kernel.look_up("a").nodeid;
    const std::uint64_t handle = kernel.open(node, O_RDONLY);
    for (const std::uint64_t bad : {std::uint64_t{0}, handle + 1, ~std::uint64_t{0}}) {
        const Answer page = read(kernel, node, bad, 0, 4096, false);
        CHECK(page.error == 0);
        CHECK(page.bytes.size() == 4096);
        CHECK(all_zeros(page.bytes));
        CHECK(read(kernel, node, bad, 0, 4096, true).error == EBADF);
    }
    // No file reaches there: pread(2) says EINVAL.
    const Answer page = read(kernel, node, handle, std::uint64_t{1} << 63, 4096, false);
    CHECK(page.error == 0);
    CHECK(page.bytes.size() == 4096);
    CHECK(read(kernel, node, handle, std::uint64_t{1} << 63, 4096, true).error == EINVAL);
    CHECK(kernel.fs().counters().views.read_errors == 4);
}

TEST_CASE("where the user wants it a page that cannot be read is an error, and one that can is not") {
    Options options;
    options.on_error = Options::OnError::fail;
    FakeKernel kernel(options);
    make_file(kernel.source().file("a"), "hello");
    const std::uint64_t node = kernel.look_up("a").nodeid;
    const std::uint64_t handle = kernel.open(node, O_RDONLY);
    CHECK(read(kernel, node, handle + 1, 0, 4096, false).error == EBADF);
    CHECK(read(kernel, node, handle, std::uint64_t{1} << 63, 4096, false).error == EINVAL);
    CHECK(kernel.fs().counters().views.read_errors == 2);
    // Past the end there is nothing that could fail.
    const Answer page = read(kernel, node, handle, 0, 8192, false);
    CHECK(page.error == 0);
    CHECK(page.bytes.size() == 8192);
    CHECK(page.bytes.starts_with("hello"));
    CHECK(read(kernel, node, handle, 1 << 29, 4096, false).error == 0);
    CHECK(kernel.fs().counters().views.read_errors == 2);
}

TEST_CASE("a page keeps coming after the handle's file was shrunk and unlinked") {
    FakeKernel kernel;
    make_file(kernel.source().file("a"), std::string(8192, 'x'));
    const std::uint64_t node = kernel.look_up("a").nodeid;
    const std::uint64_t handle = kernel.open(node, O_RDONLY);
    REQUIRE(::truncate(kernel.source().file("a").c_str(), 1) == 0);
    REQUIRE(::unlink(kernel.source().file("a").c_str()) == 0);
    const Answer page = read(kernel, node, handle, 0, 8192, false);
    CHECK(page.bytes.size() == 8192);
    CHECK(page.bytes[0] == 'x');
    CHECK(all_zeros(page.bytes.substr(1)));
}
