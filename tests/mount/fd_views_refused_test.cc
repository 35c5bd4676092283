// What has no view by a descriptor, and hears why.
#include <doctest/doctest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <vector>

#include "tests/mount/fd_views.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

TEST_SUITE_BEGIN("fd-views");

TEST_CASE("what is no file that can be truncated has no view, and hears why") {
    const ViewMount mount({"max_size=1M"});
    struct Other {
        const char* kind;
        UniqueFd fd;
    };
    std::vector<Other> others;
    int ends[2] = {};
    must(::pipe2(ends, O_CLOEXEC), "pipe2");
    others.push_back({"a pipe's end to read from", UniqueFd(ends[0])});
    others.push_back({"a pipe's end to write to", UniqueFd(ends[1])});
    others.push_back({"a socket", UniqueFd(must(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"))});
    others.push_back({"an eventfd", UniqueFd(must(::eventfd(0, EFD_CLOEXEC), "eventfd"))});
    others.push_back({"a directory", open_file(mount.plain(), O_RDONLY | O_DIRECTORY)});
    others.push_back({"a directory of the mount", open_file(mount.mountpoint(), O_RDONLY | O_DIRECTORY)});
    others.push_back({"a device", open_file("/dev/zero", O_RDWR)});
    others.push_back({"a terminal", open_file("/dev/ptmx", O_RDWR | O_NOCTTY)});
    // No huge page is needed to make one.
    others.push_back({"a file of huge pages", memfd({}, MFD_HUGETLB)});
#ifndef SYS_memfd_secret
    constexpr long SYS_memfd_secret = 447;
#endif
    if (const auto secret = ::syscall(SYS_memfd_secret, O_CLOEXEC); secret >= 0) {
        others.push_back({"a secret memory", UniqueFd(static_cast<int>(secret))});
    } else {
        MESSAGE("not tried: memfd_secret(2): ", answer(-1));
    }
    must(::symlink("nowhere", (mount.plain() + "/link").c_str()), "symlink");
    others.push_back({"a symbolic link", open_file(mount.plain() + "/link", O_PATH | O_NOFOLLOW)});
    for (const Other& other : others) {
        CAPTURE(other.kind);
        for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR}) {
            CHECK(opened(fd_name(mount, other.fd.get()), flags) == "EOPNOTSUPP");
        }
        // A terminal or a fifo must not be opened to find out.
        CHECK(opened(fd_name(mount, other.fd.get()), O_RDONLY | O_NONBLOCK) == "EOPNOTSUPP");
    }
}

TEST_CASE("there is no view of a file of the mount itself, nor of a view") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd file = memfd("abc");
    const UniqueFd view = fd_view(mount, file.get());
    const UniqueFd named = open_file(mount.view("named"), O_RDWR | O_CREAT);
    CHECK(opened(fd_name(mount, view.get()), O_RDONLY) == "ELOOP");
    CHECK(opened(fd_name(mount, named.get()), O_RDONLY) == "ELOOP");
    CHECK(opened(fd_name(mount, named.get()), O_RDWR) == "ELOOP");
    // A file of the source is a file like others.
    const UniqueFd behind = open_file(mount.raw("named"), O_RDWR);
    write_at(behind.get(), 0, "content");
    CHECK(shows(fd_view(mount, behind.get()).get(), "content"));
    // A mount of the same source is another one.
    const ViewMount other({"max_size=1M"});
    CHECK(Mapping(fd_view(other, view.get()).get(), MiB).bytes() == padded("abc", MiB));
    CHECK(shows(fd_view(other, file.get()).get(), "abc"));
}

TEST_CASE("only numbers of open descriptors are names, in plain decimal") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd file = memfd("abc");
    const Numbered numbered(file.get(), 57);
    CHECK(opened(fd_name(mount, 57), O_RDONLY) == "0");
    for (const std::string name : {"057",         "+57",        "-57",
                                   "57 ",         " 57",        "0x39",
                                   "57.",         "57a",        "x",
                                   "58",          "-1",         "+1",
                                   "07",          "4294967353", "18446744073709551673",
                                   "99999999999", "2147483648", "99999999999999999999999999",
                                   "00",          "..57",       "self"}) {
        CAPTURE(name);
        CHECK(opened(fd_name(mount, name), O_RDONLY) == "ENOENT");
        CHECK(answer(::access(fd_name(mount, name).c_str(), F_OK)) == "ENOENT");
    }
    CHECK(opened(fd_name(mount, "57/"), O_RDONLY) == "ENOTDIR");
    CHECK(opened(fd_name(mount, "57/x"), O_RDONLY) == "ENOTDIR");
    CHECK(opened(fd_name(mount, std::string(255, '5')), O_RDONLY) == "ENOENT");
    CHECK(opened(mount.view(".nosigbus/57"), O_RDONLY) == "ENOENT");
    CHECK(opened(mount.view(".nosigbus/other"), O_RDONLY) == "ENOENT");
}

TEST_SUITE_END();
