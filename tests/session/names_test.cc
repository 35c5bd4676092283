#include <doctest/doctest.h>
#include <sys/xattr.h>

#include <cerrno>
#include <filesystem>
#include <initializer_list>

#include "tests/session/fake_kernel.h"

using namespace nosigbus;
using namespace nosigbus::test;

TEST_CASE("a name that is none leads nowhere") {
    FakeKernel kernel;
    make_file(kernel.source().file("a"));
    std::filesystem::create_directory(kernel.source().file("d"));
    const std::uint64_t directory = kernel.look_up("d").nodeid;
    for (const char* name : {"..", ".", "", "../a", "/etc/passwd", "d/.."}) {
        CAPTURE(name);
        CHECK(kernel.call(FUSE_LOOKUP, directory, name_of(name)).error == EINVAL);
        CHECK(kernel.call(FUSE_UNLINK, directory, name_of(name)).error == EINVAL);
        CHECK(kernel.call(FUSE_RMDIR, directory, name_of(name)).error == EINVAL);
        const fuse_mkdir_in make{.mode = 0777, .umask = 0};
        CHECK(kernel.call(FUSE_MKDIR, directory, body(make) + name_of(name)).error == EINVAL);
        const fuse_rename_in rename{.newdir = directory};
        CHECK(kernel.call(FUSE_RENAME, 1, body(rename) + name_of("a") + name_of(name)).error == EINVAL);
    }
    CHECK(std::filesystem::exists(kernel.source().file("a")));
}

TEST_CASE("a symbolic link is itself, wherever it leads") {
    FakeKernel kernel;
    std::filesystem::create_symlink("/etc", kernel.source().file("out"));
    const fuse_entry_out entry = kernel.look_up("out");
    CHECK((entry.attr.mode & S_IFMT) == S_IFLNK);
    CHECK(kernel.call(FUSE_READLINK, entry.nodeid, "").bytes == "/etc");
    CHECK(kernel.call(FUSE_LOOKUP, entry.nodeid, name_of("passwd")).error == ENOTDIR);
    CHECK(kernel.call(FUSE_OPENDIR, entry.nodeid, body(fuse_open_in{})).error != 0);
}

TEST_CASE("a node id that is not in use is ESTALE") {
    FakeKernel kernel;
    for (const std::uint64_t node : {std::uint64_t{0}, std::uint64_t{77}, ~std::uint64_t{0}}) {
        CAPTURE(node);
        CHECK(kernel.call(FUSE_GETATTR, node, body(fuse_getattr_in{})).error == ESTALE);
        CHECK(kernel.call(FUSE_LOOKUP, node, name_of("a")).error == ESTALE);
        CHECK(kernel.call(FUSE_OPEN, node, body(fuse_open_in{})).error == ESTALE);
    }
}

TEST_CASE("names and attributes expire at once, so that what changes in the source shows at once") {
    FakeKernel kernel;
    make_file(kernel.source().file("a"));
    const fuse_entry_out entry = kernel.look_up("a");
    CHECK(entry.entry_valid == 0);
    CHECK(entry.entry_valid_nsec == 0);
    CHECK(entry.attr_valid == 0);
    CHECK(entry.attr_valid_nsec == 0);
    REQUIRE(::unlink(kernel.source().file("a").c_str()) == 0);
    CHECK(kernel.call(FUSE_LOOKUP, FUSE_ROOT_ID, name_of("a")).error == ENOENT);
}

TEST_CASE("a file that came up behind the kernel's back is not opened by a create") {
    FakeKernel kernel;
    make_file(kernel.source().file("there"), "precious");
    REQUIRE(::mkfifo(kernel.source().file("fifo").c_str(), 0600) == 0);
    for (const char* name : {"there", "fifo"}) {
        fuse_create_in in{};
        in.mode = S_IFREG | 0644;
        in.flags = O_CREAT | O_TRUNC | O_RDWR;
        CHECK(kernel.call(FUSE_CREATE, FUSE_ROOT_ID, body(in) + name_of(name)).error == ESTALE);
        in.flags |= O_EXCL;
        CHECK(kernel.call(FUSE_CREATE, FUSE_ROOT_ID, body(in) + name_of(name)).error == EEXIST);
    }
    CHECK(std::filesystem::file_size(kernel.source().file("there")) == 8);
}

TEST_CASE("attributes of the source that have our names are not listed") {
    FakeKernel kernel;
    const UniqueFd file = make_file(kernel.source().file("a"));
    REQUIRE(::fsetxattr(file.get(), "user.nosigbus.real_size", "7", 1, 0) == 0);
    REQUIRE(::fsetxattr(file.get(), "user.mine", "x", 1, 0) == 0);
    fuse_getxattr_in in{};
    in.size = 4096;
    const std::uint64_t node = kernel.look_up("a").nodeid;
    CHECK(kernel.call(FUSE_LISTXATTR, node, body(in)).bytes == name_of("user.mine"));
    in.size = 0;
    CHECK(kernel.call(FUSE_LISTXATTR, node, body(in)).as<fuse_getxattr_out>().size == sizeof "user.mine");
    in.size = 1;
    CHECK(kernel.call(FUSE_LISTXATTR, node, body(in)).error == ERANGE);
}
