// .nosigbus/fd as the kernel asks for it. Who asks here is this very process.
#include "fs/fd_views.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <filesystem>
#include <string>

#include "lib/client/protocol.h"
#include "lib/syscalls.h"
#include "tests/session/fake_kernel.h"
#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;
using namespace std::string_literals;

namespace {

constexpr off_t view_of_default_size = off_t{1} << 30;

UniqueFd memory(const std::string& content) {
    UniqueFd file(sys::check(::memfd_create("test", MFD_CLOEXEC), "memfd_create"));
    sys::write_at(file.get(), std::as_bytes(std::span(content)), 0);
    return file;
}

Answer look_up_in(FakeKernel& kernel, std::uint64_t directory, const std::string& name) {
    return kernel.call(FUSE_LOOKUP, directory, name_of(name));
}

std::uint64_t directory_of(FakeKernel& kernel) {
    const auto top = look_up_in(kernel, FUSE_ROOT_ID, ".nosigbus").as<fuse_entry_out>();
    return look_up_in(kernel, top.nodeid, "fd").as<fuse_entry_out>().nodeid;
}

Answer look_up_fd(FakeKernel& kernel, int fd) {
    return look_up_in(kernel, directory_of(kernel), std::to_string(fd));
}

int open_error(FakeKernel& kernel, std::uint64_t node, int flags) {
    return kernel.call(FUSE_OPEN, node, body(fuse_open_in{static_cast<std::uint32_t>(flags), 0})).error;
}

std::string names_in(FakeKernel& kernel, std::uint64_t directory, fuse_opcode opcode) {
    const auto opened = kernel.call(FUSE_OPENDIR, directory, body(fuse_open_in{O_DIRECTORY, 0})).as<fuse_open_out>();
    fuse_read_in read{};
    read.fh = opened.fh;
    read.size = 4096;
    const std::string bytes = kernel.call(opcode, directory, body(read)).bytes;
    std::string names;
    for (std::size_t at = 0; at < bytes.size();) {
        if (opcode == FUSE_READDIRPLUS) at += offsetof(fuse_direntplus, dirent);
        fuse_dirent entry{};
        std::memcpy(&entry, bytes.data() + at, sizeof entry);
        names += std::string(bytes, at + FUSE_NAME_OFFSET, entry.namelen) + ' ';
        at += FUSE_DIRENT_SIZE(&entry);
    }
    return names;
}

}  // namespace

TEST_CASE("a lookup of a number leads to the view of the caller's descriptor") {
    FakeKernel kernel;
    const UniqueFd file = memory("hello");
    const Answer found = look_up_fd(kernel, file.get());
    REQUIRE(found.error == 0);
    const auto entry = found.as<fuse_entry_out>();
    CHECK(entry.attr.mode == (S_IFREG | 0666));
    CHECK(static_cast<off_t>(entry.attr.size) == view_of_default_size);
    CHECK(entry.entry_valid == 0);  // the next one who asks has another descriptor of that number
    CHECK(entry.entry_valid_nsec == 0);
    const std::uint64_t handle = kernel.open(entry.nodeid, O_RDWR);
    CHECK(kernel.read_page(entry.nodeid, handle, 0, 4096).bytes == "hello" + std::string(4091, '\0'));
    // Another descriptor with the same rights is the same node, one with others is not.
    const UniqueFd same = sys::duplicate(file.get());
    CHECK(look_up_fd(kernel, same.get()).as<fuse_entry_out>().nodeid == entry.nodeid);
    const UniqueFd reader = sys::reopen(file.get(), O_RDONLY);
    const auto other = look_up_fd(kernel, reader.get()).as<fuse_entry_out>();
    CHECK(other.nodeid != entry.nodeid);
    CHECK(other.attr.ino != entry.attr.ino);
    CHECK(other.attr.mode == (S_IFREG | 0444));
}

TEST_CASE("the kernel passes root: what a descriptor does not allow is refused here") {
    FakeKernel kernel;
    const UniqueFd file = memory("hello");
    struct Case {
        int flags;
        std::uint32_t mode;
        int reading;
        int writing;
        int both;
    };
    for (const Case& each : {Case{O_RDONLY, 0444, 0, EACCES, EACCES}, Case{O_WRONLY, 0222, EACCES, 0, EACCES},
                             Case{O_PATH, 0, EACCES, EACCES, EACCES}, Case{O_RDWR, 0666, 0, 0, 0}}) {
        CAPTURE(each.flags);
        const UniqueFd descriptor = sys::reopen(file.get(), each.flags);
        const auto entry = look_up_fd(kernel, descriptor.get()).as<fuse_entry_out>();
        CHECK(entry.attr.mode == (S_IFREG | each.mode));
        CHECK(open_error(kernel, entry.nodeid, O_RDONLY) == each.reading);
        CHECK(open_error(kernel, entry.nodeid, O_WRONLY) == each.writing);
        CHECK(open_error(kernel, entry.nodeid, O_RDWR) == each.both);
        fuse_setattr_in truncation{};
        truncation.valid = FATTR_SIZE;
        truncation.size = 5;
        CHECK(kernel.call(FUSE_SETATTR, entry.nodeid, body(truncation)).error == each.writing);
    }
    CHECK(content_of(file.get()) == "hello");
}

TEST_CASE("what the inode alone has is not to be had by a view of a descriptor, and it gets no name") {
    FakeKernel kernel;
    const UniqueFd file = make_file(kernel.source().file("a"), "hello");
    const auto entry = look_up_fd(kernel, file.get()).as<fuse_entry_out>();
    fuse_getxattr_in get{};
    get.size = 100;
    CHECK(kernel.call(FUSE_GETXATTR, entry.nodeid, body(get) + name_of("user.a")).error == ENODATA);
    CHECK(kernel.call(FUSE_GETXATTR, entry.nodeid, body(get) + name_of("user.nosigbus.real_size")).bytes == "5");
    CHECK(kernel.call(FUSE_LISTXATTR, entry.nodeid, body(get)).bytes.empty());
    CHECK(kernel.call(FUSE_REMOVEXATTR, entry.nodeid, name_of("user.a")).error == EPERM);
    const fuse_link_in link{.oldnodeid = entry.nodeid};
    CHECK(kernel.call(FUSE_LINK, FUSE_ROOT_ID, body(link) + name_of("b")).error == EXDEV);
    CHECK(kernel.look_up("a").nodeid != entry.nodeid);
}

TEST_CASE("only a plain number is the name of a descriptor") {
    FakeKernel kernel;
    const UniqueFd file = memory("hello");
    const std::string number = std::to_string(file.get());
    for (const std::string& name :
         {'0' + number, '+' + number, number + ' ', "-1"s, "x"s, "99999999999"s, "4294967296"s}) {
        CAPTURE(name);
        CHECK(look_up_in(kernel, directory_of(kernel), name).error == ENOENT);
    }
    CHECK(look_up_in(kernel, directory_of(kernel), std::string(300, '1')).error == ENAMETOOLONG);
    CHECK(look_up_in(kernel, fd_views::top, "else").error == ENOENT);
    const UniqueFd directory = sys::open_at(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY);
    CHECK(look_up_fd(kernel, directory.get()).error == EOPNOTSUPP);
}

TEST_CASE("files that are no storage have no view") {
    FakeKernel kernel;
    const UniqueFd status = sys::open_at(AT_FDCWD, "/proc/self/status", O_RDONLY);
    const auto entry = look_up_fd(kernel, status.get()).as<fuse_entry_out>();
    CHECK(open_error(kernel, entry.nodeid, O_RDONLY) == EOPNOTSUPP);
    fuse_setattr_in change{};
    change.valid = FATTR_MODE;
    CHECK(kernel.call(FUSE_SETATTR, entry.nodeid, body(change)).error == EOPNOTSUPP);
}

TEST_CASE("nothing can be made or removed where views of descriptors are, nor their directory itself") {
    FakeKernel kernel;
    make_file(kernel.source().file("a"));
    const fuse_mkdir_in make{.mode = 0777, .umask = 0};
    for (const std::uint64_t directory : {fd_views::top, fd_views::descriptors}) {
        CAPTURE(directory);
        CHECK(kernel.call(FUSE_MKDIR, directory, body(make) + name_of("a")).error == EPERM);
        CHECK(kernel.call(FUSE_UNLINK, directory, name_of("1")).error == EPERM);
        CHECK(kernel.call(FUSE_SETATTR, directory, body(fuse_setattr_in{})).error == EPERM);
        const fuse_rename_in away{.newdir = FUSE_ROOT_ID};
        CHECK(kernel.call(FUSE_RENAME, directory, body(away) + name_of("1") + name_of("b")).error == EPERM);
        const fuse_rename_in into{.newdir = directory};
        CHECK(kernel.call(FUSE_RENAME, FUSE_ROOT_ID, body(into) + name_of("a") + name_of("1")).error == EPERM);
        CHECK(kernel.call(FUSE_STATFS, directory, "").error == 0);
        fuse_forget_in forget{1000};
        kernel.send(FUSE_FORGET, directory, body(forget));
    }
    CHECK(kernel.call(FUSE_MKDIR, FUSE_ROOT_ID, body(make) + name_of(".nosigbus")).error == EPERM);
    CHECK(kernel.call(FUSE_RMDIR, FUSE_ROOT_ID, name_of(".nosigbus")).error == EPERM);
    const fuse_rename_in rename{.newdir = FUSE_ROOT_ID};
    CHECK(kernel.call(FUSE_RENAME, FUSE_ROOT_ID, body(rename) + name_of("a") + name_of(".nosigbus")).error == EPERM);
    CHECK(std::filesystem::exists(kernel.source().file("a")));
}

TEST_CASE("a directory of that name in the source is hidden, and the one that hides it is not listed") {
    for (const bool fd_views : {true, false}) {
        CAPTURE(fd_views);
        Options options;
        options.fd_views = fd_views;
        FakeKernel kernel(options);
        std::filesystem::create_directories(kernel.source().file(".nosigbus/real"));
        for (const fuse_opcode opcode : {FUSE_READDIR, FUSE_READDIRPLUS}) {
            const bool is_listed = names_in(kernel, FUSE_ROOT_ID, opcode).find(".nosigbus") != std::string::npos;
            CHECK(is_listed != fd_views);
        }
        const auto top = look_up_in(kernel, FUSE_ROOT_ID, ".nosigbus").as<fuse_entry_out>();
        CHECK((look_up_in(kernel, top.nodeid, "real").error == 0) != fd_views);
        CHECK((look_up_in(kernel, top.nodeid, "fd").error == 0) == fd_views);
        if (!fd_views) continue;
        CHECK(names_in(kernel, fd_views::top, FUSE_READDIRPLUS) == ". .. fd ");
        CHECK(names_in(kernel, fd_views::descriptors, FUSE_READDIR) == ". .. ");
    }
}

TEST_CASE("the sizes and the barrier for a part, by ioctl") {
    FakeKernel kernel;
    const UniqueFd file = memory(std::string(8192, 'a'));
    const auto entry = look_up_fd(kernel, file.get()).as<fuse_entry_out>();
    const std::uint64_t handle = kernel.open(entry.nodeid, O_RDONLY);
    const auto ask = [&](unsigned command, const std::string& in, std::uint32_t out_size) {
        fuse_ioctl_in request{};
        request.fh = handle;
        request.cmd = command;
        request.in_size = static_cast<std::uint32_t>(in.size());
        request.out_size = out_size;
        return kernel.call(FUSE_IOCTL, entry.nodeid, body(request) + in);
    };
    const Answer sizes = ask(NOSIGBUS_IOC_SIZES, "", sizeof(nosigbus_sizes));
    REQUIRE(sizes.error == 0);
    const auto told = Answer{0, sizes.bytes.substr(sizeof(fuse_ioctl_out))}.as<nosigbus_sizes>();
    CHECK(told.real_size == 8192);
    CHECK(static_cast<off_t>(told.view_size) == view_of_default_size);
    CHECK(ask(NOSIGBUS_IOC_SIZES, "", 8).error == EINVAL);

    kernel.read_page(entry.nodeid, handle, 0, 8192);
    kernel.take_notifications();
    const UniqueFd writer = sys::duplicate(file.get());
    // A store through a mapping: nobody is told of it.
    auto* const memory = static_cast<char*>(::mmap(nullptr, 8192, PROT_WRITE | PROT_READ, MAP_SHARED, writer.get(), 0));
    REQUIRE(memory != MAP_FAILED);
    memory[0] = memory[4096] = 'b';
    ::munmap(memory, 8192);
    REQUIRE(ask(NOSIGBUS_IOC_SYNC, body(nosigbus_range{4096, 1}), 0).error == 0);
    const auto second = kernel.take_earlier_notifications();
    REQUIRE(second.size() == 1);
    CHECK(second[0].code == FUSE_NOTIFY_STORE);
    CHECK(second[0].as<fuse_notify_store_out>().offset == 4096);
    REQUIRE(ask(NOSIGBUS_IOC_SYNC, body(nosigbus_range{0, 0}), 0).error == 0);
    const auto first = kernel.take_earlier_notifications();
    REQUIRE(first.size() == 1);
    CHECK(first[0].as<fuse_notify_store_out>().offset == 0);

    constexpr std::uint64_t most = std::uint64_t{1} << 63;
    for (const nosigbus_range& bad :
         {nosigbus_range{most, 1}, nosigbus_range{1, most - 1}, nosigbus_range{~0ULL, ~0ULL}})
        CHECK(ask(NOSIGBUS_IOC_SYNC, body(bad), 0).error == EINVAL);
    CHECK(ask(NOSIGBUS_IOC_SYNC, "", 0).error == EINVAL);
}
