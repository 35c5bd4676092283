#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/session/fake_kernel.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::uint64_t flags_of(const fuse_init_out& out) {
    return out.flags | std::uint64_t{out.flags2} << 32;
}

}  // namespace

TEST_CASE("what would make mapped readers fault is never accepted, however much the kernel offers") {
    Offer everything;
    everything.flags = ~std::uint64_t{0};
    const FakeKernel kernel({}, everything);
    REQUIRE(kernel.init_answer().error == 0);
    const std::uint64_t flags = flags_of(kernel.init_answer().as<fuse_init_out>());
    CHECK((flags & FUSE_ATOMIC_O_TRUNC) == 0);
    CHECK((flags & FUSE_AUTO_INVAL_DATA) == 0);
    CHECK((flags & FUSE_WRITEBACK_CACHE) == 0);
    CHECK((flags & FUSE_HANDLE_KILLPRIV) == 0);
    CHECK((flags & (FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS)) == 0);
    CHECK((flags & FUSE_EXPLICIT_INVAL_DATA) != 0);
    CHECK((flags & nosigbus::kernel::direct_io_allow_mmap) != 0);
}

TEST_CASE("direct files are mapped where the kernel offers it, else files are opened cached") {
    for (const bool offered : {true, false}) {
        CAPTURE(offered);
        Offer offer;
        if (!offered) offer.flags &= ~nosigbus::kernel::direct_io_allow_mmap;
        FakeKernel kernel({}, offer);
        REQUIRE(kernel.init_answer().error == 0);
        CHECK(((flags_of(kernel.init_answer().as<fuse_init_out>()) & nosigbus::kernel::direct_io_allow_mmap) != 0) ==
              offered);
        make_file(kernel.source().file("a"), "hello");
        const fuse_open_in in{};
        const Answer answer = kernel.call(FUSE_OPEN, kernel.look_up("a").nodeid, body(in));
        REQUIRE(answer.error == 0);
        CHECK(((answer.as<fuse_open_out>().open_flags & FOPEN_DIRECT_IO) != 0) == offered);
        CHECK((answer.as<fuse_open_out>().open_flags & FOPEN_KEEP_CACHE) == 0);
    }
}

TEST_CASE("a kernel that cannot leave invalidation to us is refused") {
    Offer offer;
    offer.flags &= ~static_cast<std::uint64_t>(FUSE_EXPLICIT_INVAL_DATA);
    FakeKernel kernel({}, offer);
    CHECK(kernel.fs().init() == FileSystem::Init::refused);
}

TEST_CASE("files are opened cached where the user wants it, whatever the kernel offers") {
    Options options;
    options.cached_opens = true;
    Offer everything;
    everything.flags = ~std::uint64_t{0};
    FakeKernel kernel(options, everything);
    REQUIRE(kernel.init_answer().error == 0);
    CHECK((flags_of(kernel.init_answer().as<fuse_init_out>()) & nosigbus::kernel::direct_io_allow_mmap) == 0);
    CHECK(kernel.fs().init() == FileSystem::Init::done);
    make_file(kernel.source().file("a"), "hello");
    const Answer opened = kernel.call(FUSE_OPEN, kernel.look_up("a").nodeid, body(fuse_open_in{}));
    REQUIRE(opened.error == 0);
    CHECK((opened.as<fuse_open_out>().open_flags & (FOPEN_DIRECT_IO | FOPEN_KEEP_CACHE)) == 0);
    fuse_create_in in{};
    in.mode = S_IFREG | 0644;
    in.flags = O_CREAT | O_RDWR;
    const Answer created = kernel.call(FUSE_CREATE, FUSE_ROOT_ID, body(in) + name_of("b"));
    REQUIRE(created.error == 0);
    fuse_open_out out{};
    std::memcpy(&out, created.bytes.data() + sizeof(fuse_entry_out), sizeof out);
    CHECK((out.open_flags & (FOPEN_DIRECT_IO | FOPEN_KEEP_CACHE)) == 0);
}

TEST_CASE(
    "what a kernel lacks is one line, by what it offers: each feature, since when there is one, and what it means") {
    fuse_init_in newest{};
    newest.minor = 45;
    newest.flags = FUSE_INIT_EXT;
    newest.flags2 =
        static_cast<std::uint32_t>((kernel::direct_io_allow_mmap | kernel::has_resend | kernel::passthrough) >> 32);
    CHECK(missing_features(newest) == "");
    fuse_init_in old{};
    old.minor = 38;
    const std::string line = missing_features(old);
    CHECK(line.find('\n') == std::string::npos);
    for (const KernelFeature& feature : kernel_features())
        CHECK(line.find(fmt::format("{} (Linux {}): {}", feature.name, feature.since, feature.without)) !=
              std::string::npos);
    newest.flags2 = static_cast<std::uint32_t>(kernel::direct_io_allow_mmap >> 32);
    CHECK(missing_features(newest).starts_with("HAS_RESEND (Linux 6.9): requests are kept here"));
}
