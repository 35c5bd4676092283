// What libfuse 3.14 does not know: the kernel sends it, and its callers get their answers.
#include "fs/newer_requests.h"

#include <doctest/doctest.h>
#include <linux/fs.h>
#include <sys/xattr.h>

#include <cerrno>
#include <filesystem>

#include "fs/reply.h"
#include "tests/session/fake_kernel.h"
#include "tests/unit/source.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr auto tmpfile_request = FUSE_TMPFILE;
constexpr auto statx_request = static_cast<fuse_opcode>(statx_opcode);

struct StatxIn {
    std::uint32_t getattr_flags = 0;
    std::uint32_t reserved = 0;
    std::uint64_t fh = 0;
    std::uint32_t sx_flags = 0;
    std::uint32_t sx_mask = STATX_BASIC_STATS | STATX_BTIME;
};

fuse_create_in creating(int flags, mode_t mode, mode_t mask = 0) {
    fuse_create_in in{};
    in.flags = static_cast<std::uint32_t>(flags);
    in.mode = S_IFREG | mode;
    in.umask = mask;
    return in;
}

Offer with(std::uint64_t flag) {
    Offer offer;
    offer.flags |= flag;
    return offer;
}

mode_t mode_of(const FakeKernel& kernel, const std::string& name) {
    struct stat found {};
    REQUIRE(::stat(kernel.source().file(name).c_str(), &found) == 0);
    return found.st_mode & 07777;
}

}  // namespace

TEST_CASE("a file without a name is made, written and given one") {
    FakeKernel kernel;
    const Answer made =
        kernel.call(tmpfile_request, FUSE_ROOT_ID, body(creating(O_TMPFILE | O_RDWR, 0640)) + name_of("/"));
    REQUIRE(made.error == 0);
    REQUIRE(made.bytes.size() == sizeof(fuse_entry_out) + sizeof(fuse_open_out));
    CHECK(std::filesystem::is_empty(kernel.source().path()));
    const auto entry = made.as<fuse_entry_out>();
    CHECK(entry.attr.nlink == 0);
    fuse_open_out opened{};
    std::memcpy(&opened, made.bytes.data() + sizeof entry, sizeof opened);
    fuse_write_in write{};
    write.fh = opened.fh;
    write.size = 5;
    REQUIRE(kernel.call(FUSE_WRITE, entry.nodeid, body(write) + std::string("hello")).error == 0);
    const fuse_link_in link{.oldnodeid = entry.nodeid};
    REQUIRE(kernel.call(FUSE_LINK, FUSE_ROOT_ID, body(link) + name_of("a")).error == 0);
    CHECK(kernel.look_up("a").nodeid == entry.nodeid);
    CHECK(std::filesystem::file_size(kernel.source().file("a")) == 5);
    CHECK(mode_of(kernel, "a") == 0640);
}

TEST_CASE("a file that is to stay without a name does") {
    FakeKernel kernel;
    const Answer made =
        kernel.call(tmpfile_request, FUSE_ROOT_ID, body(creating(O_TMPFILE | O_RDWR | O_EXCL, 0640)) + name_of("/"));
    REQUIRE(made.error == 0);
    const fuse_link_in link{.oldnodeid = made.as<fuse_entry_out>().nodeid};
    CHECK(kernel.call(FUSE_LINK, FUSE_ROOT_ID, body(link) + name_of("a")).error == ENOENT);
}

TEST_CASE("a file without a name is made in directories only") {
    FakeKernel kernel;
    make_file(kernel.source().file("a"));
    const std::uint64_t node = kernel.look_up("a").nodeid;
    CHECK(kernel.call(tmpfile_request, node, body(creating(O_TMPFILE | O_RDWR, 0640)) + name_of("/")).error == ENOTDIR);
    CHECK(kernel.call(tmpfile_request, 77, body(creating(O_TMPFILE | O_RDWR, 0640)) + name_of("/")).error == ESTALE);
}

TEST_CASE("statx tells the time of birth, and the size that stat tells") {
    for (const bool real : {false, true}) {
        CAPTURE(real);
        Options options;
        options.stat = real ? Options::Stat::real : Options::Stat::view;
        FakeKernel kernel(options);
        make_file(kernel.source().file("a"), "hello");
        const std::uint64_t node = kernel.look_up("a").nodeid;
        const Answer answer = kernel.call(statx_request, node, body(StatxIn{}));
        REQUIRE(answer.error == 0);
        REQUIRE(answer.bytes.size() == sizeof(StatxOut));
        const auto out = answer.as<StatxOut>();
        struct statx wanted {};
        REQUIRE(::statx(AT_FDCWD, kernel.source().file("a").c_str(), 0, STATX_BASIC_STATS | STATX_BTIME, &wanted) == 0);
        CHECK(out.stat.stx_mask == wanted.stx_mask);
        CHECK(out.stat.stx_btime.tv_sec == wanted.stx_btime.tv_sec);
        CHECK(out.stat.stx_btime.tv_nsec == wanted.stx_btime.tv_nsec);
        CHECK(out.stat.stx_ino == wanted.stx_ino);
        CHECK(out.stat.stx_mode == wanted.stx_mode);
        CHECK(out.stat.stx_size == (real ? 5 : static_cast<std::uint64_t>(options.max_size)));
        CHECK(out.attr_valid == 0);
        CHECK(out.attr_valid_nsec == 0);
    }
}

TEST_CASE("statx of what is not there") {
    FakeKernel kernel;
    CHECK(kernel.call(statx_request, 77, body(StatxIn{})).error == ESTALE);
}

TEST_CASE("an attribute is set in the longer words that were agreed on, and in the shorter") {
    for (const bool longer : {false, true}) {
        CAPTURE(longer);
        FakeKernel kernel({}, with(longer ? FUSE_SETXATTR_EXT : 0));
        CHECK(((kernel.init_answer().as<fuse_init_out>().flags & FUSE_SETXATTR_EXT) != 0) == longer);
        const UniqueFd file = make_file(kernel.source().file("a"));
        const std::uint64_t node = kernel.look_up("a").nodeid;
        const fuse_setxattr_in in{.size = 5, .flags = 0, .setxattr_flags = 0, .padding = 0};
        const std::string head = body(in).substr(0, longer ? sizeof in : FUSE_COMPAT_SETXATTR_IN_SIZE);
        REQUIRE(kernel.call(FUSE_SETXATTR, node, head + name_of("user.a") + "value").error == 0);
        std::string value(10, ' ');
        REQUIRE(::fgetxattr(file.get(), "user.a", value.data(), value.size()) == 5);
        CHECK(value.starts_with("value"));
    }
}

TEST_CASE("a write takes the set-id bits away where the kernel says so, and nowhere else") {
    FakeKernel kernel;
    const UniqueFd file = make_file(kernel.source().file("a"), "hello");
    const std::uint64_t node = kernel.look_up("a").nodeid;
    const std::uint64_t handle = kernel.open(node, O_RDWR);
    for (const bool kills : {false, true}) {
        CAPTURE(kills);
        REQUIRE(::fchmod(file.get(), 06777) == 0);
        fuse_write_in write{};
        write.fh = handle;
        write.size = 1;
        write.write_flags = kills ? FUSE_WRITE_KILL_SUIDGID : 0;
        REQUIRE(kernel.call(FUSE_WRITE, node, body(write) + std::string("J")).error == 0);
        // As an ordinary user's own write(2) does it anyway.
        CHECK(mode_of(kernel, "a") == (kills || ::geteuid() != 0 ? 0777 : 06777));
    }
}

TEST_CASE("the umask is the caller's, for each creation") {
    FakeKernel kernel({}, with(FUSE_DONT_MASK));
    CHECK((kernel.init_answer().as<fuse_init_out>().flags & FUSE_DONT_MASK) != 0);
    for (const mode_t mask : {mode_t{0}, mode_t{077}, mode_t{022}}) {
        CAPTURE(mask);
        const std::string name = std::to_string(mask);
        REQUIRE(kernel.call(FUSE_CREATE, FUSE_ROOT_ID, body(creating(O_CREAT | O_RDWR, 0666, mask)) + name_of(name))
                    .error == 0);
        CHECK(mode_of(kernel, name) == (0666 & ~mask));
        const fuse_mkdir_in make{.mode = 0777, .umask = mask};
        REQUIRE(kernel.call(FUSE_MKDIR, FUSE_ROOT_ID, body(make) + name_of("d" + name)).error == 0);
        CHECK(mode_of(kernel, "d" + name) == (0777 & ~mask));
        fuse_mknod_in node{};
        node.mode = S_IFIFO | 0666;
        node.umask = mask;
        REQUIRE(kernel.call(FUSE_MKNOD, FUSE_ROOT_ID, body(node) + name_of("p" + name)).error == 0);
        CHECK(mode_of(kernel, "p" + name) == (0666 & ~mask));
    }
}

TEST_CASE("an ioctl that is not chattr's is none") {
    FakeKernel kernel;
    make_file(kernel.source().file("a"));
    const std::uint64_t node = kernel.look_up("a").nodeid;
    fuse_ioctl_in in{};
    in.fh = kernel.open(node, O_RDWR);
    in.in_size = 4;
    in.out_size = 64;
    for (const unsigned long command : {0x1234UL, 0UL, static_cast<unsigned long>(FS_IOC_GETVERSION)}) {
        in.cmd = static_cast<std::uint32_t>(command);
        CHECK(kernel.call(FUSE_IOCTL, node, body(in) + std::string("arg.")).error == ENOTTY);
    }
    in.cmd = static_cast<std::uint32_t>(FS_IOC_GETFLAGS);
    in.in_size = 0;
    in.out_size = 4;
    const Answer flags = kernel.call(FUSE_IOCTL, node, body(in));
    CHECK(flags.error == 0);
    CHECK(flags.bytes.size() == sizeof(fuse_ioctl_out) + 4);
    in.out_size = 1;
    CHECK(kernel.call(FUSE_IOCTL, node, body(in)).error == EINVAL);
}
