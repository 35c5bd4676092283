#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <limits>
#include <span>

#include "fs/request_check.h"
#include "tests/session/examples.h"
#include "tests/session/fake_kernel.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::uint64_t largest = std::numeric_limits<std::int64_t>::max();
constexpr std::uint64_t smallest = largest + 1;  // as a negative number
constexpr std::uint64_t minus_one = ~std::uint64_t{0};
constexpr auto strange_numbers = {std::uint64_t{1}, std::uint64_t{4095}, largest - 1,      largest,
                                  smallest,         smallest + 4095,     minus_one - 4095, minus_one};

// A source with one of everything, opened.
struct House {
    explicit House(const Options& options = {}) : kernel(options) {
        std::filesystem::create_directory(kernel.source().file("directory"));
        std::filesystem::create_symlink("file", kernel.source().file("link"));
        make_file(kernel.source().file("file"), "hello");
        make_file(kernel.source().file("other"), "other");
        make_file(kernel.source().file("gone"));
        subjects.directory = kernel.look_up("directory").nodeid;
        subjects.link = kernel.look_up("link").nodeid;
        subjects.file = kernel.look_up("file").nodeid;
        subjects.opened_file = kernel.open(subjects.file, O_RDWR);
        subjects.opened_directory = open_directory(FUSE_ROOT_ID);
        other_file = kernel.open(kernel.look_up("other").nodeid, O_RDWR);
        released = kernel.open(subjects.file, O_RDWR);
        CHECK(kernel.call(FUSE_RELEASE, subjects.file, body(release_of(released))).error == 0);
        forgotten = kernel.look_up("gone").nodeid;
        kernel.send(FUSE_FORGET, forgotten, body(fuse_forget_in{.nlookup = 1}));
    }
    ~House() { check_serves(); }
    House(const House&) = delete;
    House& operator=(const House&) = delete;

    static fuse_release_in release_of(std::uint64_t handle) {
        fuse_release_in release{};
        release.fh = handle;
        return release;
    }

    std::uint64_t open_directory(std::uint64_t node) {
        const Answer answer = kernel.call(FUSE_OPENDIR, node, body(fuse_open_in{}));
        REQUIRE(answer.error == 0);
        return answer.as<fuse_open_out>().fh;
    }

    // The errno of any request.
    int ask(fuse_opcode opcode, std::uint64_t node, const std::string& body) {
        const int error = kernel.call(opcode, node, body).error;
        CHECK(error >= 0);
        CHECK(error < 512);  // the kernel takes no others (fuse_dev_do_write)
        return error;
    }

    // Also that nothing was answered twice, since all answers so far are read.
    void check_serves() {
        CHECK(kernel.call(FUSE_GETATTR, FUSE_ROOT_ID, body(fuse_getattr_in{})).error == 0);
        CHECK(kernel.read_page(subjects.file, subjects.opened_file, 0, 4096).bytes.size() == 4096);
        kernel.take_notifications();
    }

    // Handles that are none, or not the file's.
    [[nodiscard]] std::vector<std::uint64_t> bad_handles() const {
        return {0, 77, released, subjects.opened_file | std::uint64_t{1} << 24, largest, minus_one};
    }

    FakeKernel kernel;
    Subjects subjects{};
    std::uint64_t other_file;
    std::uint64_t released;
    std::uint64_t forgotten;
};

fuse_setattr_in truncation(std::uint64_t size) {
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    in.size = size;
    return in;
}

fuse_read_in read_of(std::uint64_t handle, std::uint64_t offset, std::uint32_t size) {
    fuse_read_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = size;
    return in;
}

// As read(2) sends it.
fuse_read_in read_call(std::uint64_t handle, std::uint64_t offset, std::uint32_t size) {
    fuse_read_in in = read_of(handle, offset, size);
    in.read_flags = FUSE_READ_LOCKOWNER;
    in.lock_owner = 7;
    return in;
}

std::string write_of(std::uint64_t handle, std::uint64_t offset, const std::string& bytes, std::uint32_t flags = 0,
                     std::uint32_t open_flags = O_RDWR) {
    fuse_write_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = static_cast<std::uint32_t>(bytes.size());
    in.write_flags = flags;
    in.flags = open_flags;
    return body(in) + bytes;
}

fuse_fallocate_in fallocation(std::uint64_t handle, std::uint64_t offset, std::uint64_t length, std::uint32_t mode) {
    fuse_fallocate_in in{};
    in.fh = handle;
    in.offset = offset;
    in.length = length;
    in.mode = mode;
    return in;
}

fuse_lseek_in seek(std::uint64_t handle, std::uint64_t offset, std::uint32_t whence) {
    fuse_lseek_in in{};
    in.fh = handle;
    in.offset = offset;
    in.whence = whence;
    return in;
}

fuse_copy_file_range_in copy(std::uint64_t from, std::uint64_t from_offset, std::uint64_t to, std::uint64_t to_offset,
                             std::uint64_t length, std::uint64_t flags = 0) {
    fuse_copy_file_range_in in{};
    in.fh_in = from;
    in.off_in = from_offset;
    in.nodeid_out = FUSE_ROOT_ID;
    in.fh_out = to;
    in.off_out = to_offset;
    in.len = length;
    in.flags = flags;
    return in;
}

// A request's body around a name of its own.
struct Named {
    fuse_opcode opcode;
    std::string before;
    std::string after;

    [[nodiscard]] std::string with(const std::string& name) const { return before + name + after; }
};

std::vector<Named> all_named(const House& house) {
    fuse_mknod_in mknod{};
    mknod.mode = S_IFREG | 0644;
    fuse_mkdir_in mkdir{};
    mkdir.mode = 0755;
    fuse_create_in create{};
    create.flags = O_RDWR | O_CREAT;
    create.mode = S_IFREG | 0644;
    fuse_rename2_in rename2{};
    rename2.newdir = FUSE_ROOT_ID;
    rename2.flags = RENAME_NOREPLACE;
    const auto rename = body(fuse_rename_in{FUSE_ROOT_ID});
    return {{FUSE_LOOKUP, "", ""},
            {FUSE_MKNOD, body(mknod), ""},
            {FUSE_MKDIR, body(mkdir), ""},
            {FUSE_SYMLINK, "", name_of("target")},
            {FUSE_LINK, body(fuse_link_in{house.subjects.file}), ""},
            {FUSE_CREATE, body(create), ""},
            {FUSE_UNLINK, "", ""},
            {FUSE_RMDIR, "", ""},
            {FUSE_RENAME, rename, name_of("new")},
            {FUSE_RENAME, rename + name_of("other"), ""},
            {FUSE_RENAME2, body(rename2), name_of("new")},
            {FUSE_RENAME2, body(rename2) + name_of("other"), ""}};
}

bool is_well_formed(const fuse_in_header& header, const std::string& rest) {
    const std::string request = body(header) + rest;
    return nosigbus::is_well_formed(std::as_bytes(std::span(request)));
}

}  // namespace

TEST_CASE("bad input: a name that is none, or too long, or ends nowhere") {
    House house;
    for (const Named& each : all_named(house)) {
        CAPTURE(each.opcode);
        for (const char* name : {"", ".", "..", "/", "a/b", "/etc/passwd", "../x", "file/"}) {
            CAPTURE(name);
            CHECK(house.ask(each.opcode, FUSE_ROOT_ID, each.with(name_of(name))) == EINVAL);
        }
        CHECK(house.ask(each.opcode, FUSE_ROOT_ID, each.with(name_of(std::string(256, 'n')))) == ENAMETOOLONG);
        CHECK(house.ask(each.opcode, FUSE_ROOT_ID, each.with(name_of(std::string(100'000, 'n')))) == ENAMETOOLONG);
        CHECK(house.ask(each.opcode, FUSE_ROOT_ID, each.with(name_of(std::string("fi\0le", 5)))) == EINVAL);
        if (each.after.empty()) CHECK(house.ask(each.opcode, FUSE_ROOT_ID, each.with("file")) == EINVAL);
        CHECK(house.ask(each.opcode, FUSE_ROOT_ID, each.with(name_of("file")) + "more") == EINVAL);
        house.check_serves();
    }
    CHECK(std::filesystem::exists(house.kernel.source().file("file")));
    CHECK(house.ask(FUSE_SYMLINK, FUSE_ROOT_ID, name_of("empty") + name_of("")) == ENOENT);
    CHECK(house.ask(FUSE_SYMLINK, FUSE_ROOT_ID, name_of("long") + name_of(std::string(100'000, 't'))) == ENAMETOOLONG);
}

TEST_CASE("bad input: names and values of extended attributes") {
    House house;
    const std::uint64_t node = house.subjects.file;
    const auto set = [&](const std::string& name, const std::string& value, std::uint32_t size,
                         std::uint32_t flags = 0) {
        return house.ask(FUSE_SETXATTR, node, body(size, flags) + name + value);
    };
    fuse_getxattr_in get{};
    get.size = 100;
    for (const std::string& name : {std::string(), std::string("user."), std::string("nonsense"), std::string(256, 'n'),
                                    "user." + std::string(251, 'n'), std::string(100'000, 'n'),
                                    std::string("user.nosigbus.nonsense"), std::string("user.nosigbus.")}) {
        CAPTURE(name);
        CHECK(set(name_of(name), "value", 5) != 0);
        CHECK(house.ask(FUSE_GETXATTR, node, body(get) + name_of(name)) != 0);
        CHECK(house.ask(FUSE_REMOVEXATTR, node, name_of(name)) != 0);
    }
    // Sizes that are not those of the value.
    for (const std::uint32_t size : {0U, 4U, 6U, 5U + (1U << 31), ~0U})
        CHECK(set(name_of("user.a"), "value", size) == EINVAL);
    CHECK(set("user.a", "", 0) == EINVAL);
    CHECK(set(name_of("user.a"), "value", 5, ~0U) == EINVAL);
    CHECK(set(name_of("user.a"), "value", 5, 3) != 0);  // XATTR_CREATE and XATTR_REPLACE
    CHECK(set(name_of("user.a"), std::string(100'000, 'v'), 100'000) != 0);
    // A room larger than any value.
    CHECK(set(name_of("user.a"), "value", 5) == 0);
    get.size = ~0U;
    CHECK(house.kernel.call(FUSE_GETXATTR, node, body(get) + name_of("user.a")).bytes == "value");
    CHECK(house.kernel.call(FUSE_GETXATTR, node, body(get) + name_of("user.nosigbus.real_size")).bytes == "5");
    CHECK(house.kernel.call(FUSE_LISTXATTR, node, body(get)).bytes == name_of("user.a"));
}

TEST_CASE("bad input: a node that is not in use is ESTALE, whatever is asked of it") {
    House house;
    std::vector<Example> all = examples(house.subjects);
    // By handle, these do not care, or nobody answers them, or nobody serves them.
    std::erase_if(all, [](const Example& each) {
        switch (each.opcode) {
            case FUSE_LOOKUP:
            case FUSE_GETATTR:
            case FUSE_SETATTR:
            case FUSE_READLINK:
            case FUSE_SYMLINK:
            case FUSE_MKNOD:
            case FUSE_MKDIR:
            case FUSE_UNLINK:
            case FUSE_RMDIR:
            case FUSE_RENAME:
            case FUSE_RENAME2:
            case FUSE_LINK:
            case FUSE_CREATE:
            case FUSE_OPEN:
            case FUSE_OPENDIR:
            case FUSE_STATFS:
            case FUSE_SETXATTR:
            case FUSE_GETXATTR:
            case FUSE_LISTXATTR:
            case FUSE_REMOVEXATTR:
                return false;
            default:
                return true;
        }
    });
    CHECK(all.size() == 20);
    const std::uint64_t other_turn = house.subjects.file | std::uint64_t{1} << 24;
    for (const std::uint64_t node : {std::uint64_t{0}, std::uint64_t{77}, house.forgotten, other_turn, minus_one}) {
        CAPTURE(node);
        for (const Example& each : all) {
            CAPTURE(each.opcode);
            CHECK(house.ask(each.opcode, node, each.body) == ESTALE);
        }
        // The other node that is named.
        CHECK(house.ask(FUSE_LINK, FUSE_ROOT_ID, body(fuse_link_in{node}) + name_of("new")) == ESTALE);
        CHECK(house.ask(FUSE_RENAME, FUSE_ROOT_ID, body(fuse_rename_in{node}) + name_of("other") + name_of("new")) ==
              ESTALE);
        // Whoever has a handle needs no node.
        CHECK(house.kernel.read_page(node, house.subjects.opened_file, 0, 4096).bytes.starts_with("hello"));
        CHECK(house.ask(FUSE_FSYNC, node, body(fuse_fsync_in{house.subjects.opened_file, 0, 0})) == 0);
    }
}

TEST_CASE("bad input: a node of the wrong kind") {
    House house;
    for (const std::uint64_t node : {house.subjects.file, house.subjects.link}) {
        CHECK(house.ask(FUSE_LOOKUP, node, name_of("a")) == ENOTDIR);
        CHECK(house.ask(FUSE_UNLINK, node, name_of("a")) == ENOTDIR);
        CHECK(house.ask(FUSE_OPENDIR, node, body(fuse_open_in{})) != 0);
        CHECK(house.ask(FUSE_SYMLINK, node, name_of("a") + name_of("b")) == ENOTDIR);
    }
    CHECK(house.ask(FUSE_READLINK, house.subjects.file, "") != 0);
    CHECK(house.ask(FUSE_READLINK, house.subjects.directory, "") != 0);
    for (const std::uint64_t node : {house.subjects.directory, house.subjects.link}) {
        CHECK(house.ask(FUSE_OPEN, node, body(fuse_open_in{})) == EINVAL);
        CHECK(house.ask(FUSE_SETATTR, node, body(truncation(0))) != 0);
    }
    CHECK(house.ask(FUSE_LINK, FUSE_ROOT_ID, body(fuse_link_in{house.subjects.directory}) + name_of("new")) == EPERM);
    CHECK(house.ask(FUSE_RENAME, FUSE_ROOT_ID,
                    body(fuse_rename_in{house.subjects.directory}) + name_of("directory") + name_of("inside")) ==
          EINVAL);
}

TEST_CASE("bad input: a handle that is none is EBADF, to all but the load of a page") {
    House house;
    const std::uint64_t node = house.subjects.file;
    const std::uint64_t good = house.subjects.opened_file;
    for (const std::uint64_t handle : house.bad_handles()) {
        CAPTURE(handle);
        CHECK(house.ask(FUSE_READ, node, body(read_call(handle, 0, 4096))) == EBADF);
        CHECK(house.ask(FUSE_WRITE, node, write_of(handle, 0, "x")) == EBADF);
        CHECK(house.ask(FUSE_WRITE, node, write_of(handle, 0, "x", 0, O_WRONLY | O_APPEND)) == EBADF);
        CHECK(house.ask(FUSE_WRITE, node, write_of(handle, 0, "x", FUSE_WRITE_CACHE)) == EBADF);
        CHECK(house.kernel.fsync(node, handle) == EBADF);
        CHECK(house.ask(FUSE_FALLOCATE, node, body(fallocation(handle, 0, 4096, 0))) == EBADF);
        CHECK(house.ask(FUSE_LSEEK, node, body(seek(handle, 0, SEEK_DATA))) == EBADF);
        CHECK(house.ask(FUSE_COPY_FILE_RANGE, node, body(copy(handle, 0, good, 0, 10))) == EBADF);
        CHECK(house.ask(FUSE_COPY_FILE_RANGE, node, body(copy(good, 0, handle, 0, 10))) == EBADF);
        CHECK(house.ask(FUSE_READDIR, FUSE_ROOT_ID, body(read_of(handle, 0, 4096))) == EBADF);
        CHECK(house.ask(FUSE_READDIRPLUS, FUSE_ROOT_ID, body(read_of(handle, 0, 4096))) == EBADF);
        CHECK(house.ask(FUSE_FSYNCDIR, FUSE_ROOT_ID, body(fuse_fsync_in{handle, 0, 0})) == EBADF);
        // Nothing to close.
        CHECK(house.ask(FUSE_RELEASE, node, body(House::release_of(handle))) == 0);
        CHECK(house.ask(FUSE_RELEASEDIR, node, body(House::release_of(handle))) == 0);
        if (handle == 0) continue;  // no handle
        fuse_setattr_in in = truncation(0);
        in.valid |= FATTR_FH;
        in.fh = handle;
        CHECK(house.ask(FUSE_SETATTR, node, body(in)) == EBADF);
    }
    CHECK(house.kernel.read_page(node, good, 0, 4096).bytes.starts_with("hello"));
}

TEST_CASE("bad input: a directory's handle used as a file's, and a file's as a directory's") {
    House house;
    const std::uint64_t directory = house.subjects.opened_directory;
    const std::uint64_t file = house.subjects.opened_file;
    const std::uint64_t node = house.subjects.file;
    CHECK(house.ask(FUSE_READ, node, body(read_call(directory, 0, 4096))) == EISDIR);
    CHECK(house.ask(FUSE_WRITE, node, write_of(directory, 0, "x")) == EBADF);
    CHECK(house.ask(FUSE_WRITE, node, write_of(directory, 0, "x", 0, O_WRONLY | O_APPEND)) == EBADF);
    CHECK(house.ask(FUSE_WRITE, node, write_of(directory, 0, "x", FUSE_WRITE_CACHE)) != 0);
    CHECK(house.ask(FUSE_FALLOCATE, node, body(fallocation(directory, 0, 4096, 0))) == EBADF);
    house.ask(FUSE_LSEEK, node, body(seek(directory, 0, SEEK_SET)));
    CHECK(house.ask(FUSE_COPY_FILE_RANGE, node, body(copy(directory, 0, file, 0, 10))) != 0);
    CHECK(house.ask(FUSE_COPY_FILE_RANGE, node, body(copy(file, 0, directory, 0, 10))) != 0);
    house.ask(FUSE_FSYNC, node, body(fuse_fsync_in{directory, 0, 0}));
    fuse_setattr_in in = truncation(5);
    in.valid |= FATTR_FH;
    in.fh = directory;
    house.ask(FUSE_SETATTR, node, body(in));
    CHECK(house.ask(FUSE_READDIR, FUSE_ROOT_ID, body(read_of(file, 0, 4096))) == ENOTDIR);
    CHECK(house.ask(FUSE_READDIRPLUS, FUSE_ROOT_ID, body(read_of(file, 0, 4096))) == ENOTDIR);
    house.ask(FUSE_FSYNCDIR, FUSE_ROOT_ID, body(fuse_fsync_in{file, 0, 0}));
    CHECK(house.kernel.read_page(node, file, 0, 4096).bytes.starts_with("hello"));
    CHECK(house.ask(FUSE_RELEASEDIR, node, body(House::release_of(house.other_file))) == 0);
    CHECK(house.ask(FUSE_READ, node, body(read_call(house.other_file, 0, 10))) == EBADF);
}

TEST_CASE("bad input: the load of a page is answered in full, whatever its handle, node, offset and size") {
    House house;
    std::vector<std::uint64_t> handles = house.bad_handles();
    handles.push_back(house.subjects.opened_file);
    handles.push_back(house.subjects.opened_directory);
    handles.push_back(house.other_file);
    const std::size_t most = std::min(max_read, house.kernel.largest_answer());
    for (const std::uint64_t handle : handles) {
        for (const std::uint64_t node : {house.subjects.file, std::uint64_t{0}, house.forgotten, minus_one}) {
            for (const std::uint64_t offset : strange_numbers) {
                for (const std::uint32_t size : {0U, 1U, 4095U, 8192U}) {
                    const Answer page = house.kernel.read_page(node, handle, offset, size);
                    CHECK(page.error == 0);
                    CHECK(page.bytes.size() == size);
                    if (offset >= 5) CHECK(std::ranges::all_of(page.bytes, [](char c) { return c == 0; }));
                }
            }
        }
        if (most < max_read) continue;  // an ordinary user's socket is too small
        // More than INIT's answer allows comes from no kernel. It gets that much.
        for (const std::size_t size : {max_read, max_read + 1, std::size_t{0xffff'ffff}}) {
            const Answer page =
                house.kernel.read_page(house.subjects.file, handle, 1 << 20, static_cast<std::uint32_t>(size));
            CHECK(page.error == 0);
            CHECK(page.bytes.size() == max_read);
        }
    }
}

TEST_CASE("bad input: read(2) and write(2) at offsets that no file has") {
    House house;
    const std::uint64_t node = house.subjects.file;
    const std::uint64_t handle = house.subjects.opened_file;
    for (const std::uint64_t offset : strange_numbers) {
        CAPTURE(offset);
        const Answer read = house.kernel.call(FUSE_READ, node, body(read_call(handle, offset, 8192)));
        CHECK((read.error != 0 || read.bytes.size() <= 5));
        CHECK(house.ask(FUSE_READ, node, body(read_call(handle, offset, 0))) <= EOVERFLOW);
        // Pages that are written back, past the end: taken, and gone.
        CHECK(house.ask(FUSE_WRITE, node, write_of(handle, offset, std::string(8192, 'b'), FUSE_WRITE_CACHE)) == 0);
        if (offset >= largest - 1) CHECK(house.ask(FUSE_WRITE, node, write_of(handle, offset, "12")) != 0);
        CHECK(house.ask(FUSE_WRITE, node, write_of(handle, offset, "")) <= EOVERFLOW);
        house.check_serves();
    }
    CHECK(std::filesystem::file_size(house.kernel.source().file("file")) == 5);
    // Flags that nobody knows.
    CHECK(house.ask(FUSE_WRITE, node, write_of(handle, 0, "hello", ~0U & ~FUSE_WRITE_CACHE, ~0U & ~O_APPEND)) == 0);
    CHECK(house.ask(FUSE_WRITE, node, write_of(handle, 0, "hello", ~0U, ~0U)) == 0);
    fuse_read_in read = read_call(handle, 0, 4096);
    read.read_flags = read.flags = ~0U;
    CHECK(house.kernel.call(FUSE_READ, node, body(read)).bytes == "hello");
}

TEST_CASE("bad input: a WRITE whose size is not that of its bytes") {
    House house;
    for (const std::uint32_t flags : {0U, static_cast<std::uint32_t>(FUSE_WRITE_CACHE)}) {
        for (const std::uint32_t size : {0U, 3U, 5U, 4096U, 1U << 31, ~0U}) {
            fuse_write_in in{};
            in.fh = house.subjects.opened_file;
            in.size = size;
            in.write_flags = flags;
            CHECK(house.ask(FUSE_WRITE, house.subjects.file, body(in) + "1234") == EINVAL);
        }
    }
    CHECK(house.kernel.read_page(house.subjects.file, house.subjects.opened_file, 0, 4096).bytes.starts_with("hello"));
}

TEST_CASE("bad input: SETATTR of what nobody knows, and of sizes that no file has") {
    House house;
    const std::uint64_t node = house.subjects.file;
    fuse_setattr_in in{};
    in.valid = ~std::uint32_t{FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME | FATTR_FH |
                              FATTR_ATIME_NOW | FATTR_MTIME_NOW | FATTR_LOCKOWNER | FATTR_CTIME};
    CHECK(house.ask(FUSE_SETATTR, node, body(in)) == 0);
    for (const std::uint64_t size : {smallest, smallest + 4095, minus_one}) {
        CHECK(house.ask(FUSE_SETATTR, node, body(truncation(size))) == EINVAL);
        fuse_setattr_in by_handle = truncation(size);
        by_handle.valid |= FATTR_FH;
        by_handle.fh = house.subjects.opened_file;
        CHECK(house.ask(FUSE_SETATTR, node, body(by_handle)) == EINVAL);
    }
    CHECK(std::filesystem::file_size(house.kernel.source().file("file")) == 5);
    // Some file systems have files as large as that. A view is a little smaller at most.
    for (const std::uint64_t size : {largest, largest - 1, largest - 4095}) {
        const int error = house.ask(FUSE_SETATTR, node, body(truncation(size)));
        CHECK((error == 0 || error == EFBIG || error == EINVAL));
        const Answer answer = house.kernel.call(FUSE_GETATTR, node, body(fuse_getattr_in{}));
        CHECK(answer.error == 0);
        CHECK(answer.as<fuse_attr_out>().attr.size <= largest);
        CHECK(house.kernel.fsync(node, house.subjects.opened_file) == 0);
        CHECK(house.ask(FUSE_OPEN, node, body(fuse_open_in{})) == 0);
        CHECK(house.ask(FUSE_WRITE, node, write_of(house.subjects.opened_file, 0, "x", 0, O_RDWR | O_APPEND)) <= EFBIG);
    }
    in = {};
    in.valid = FATTR_MODE;
    in.mode = ~0U;
    CHECK(house.ask(FUSE_SETATTR, node, body(in)) == 0);
    in.valid = FATTR_ATIME | FATTR_MTIME;
    in.atime = smallest;
    in.mtime = largest;
    in.atimensec = in.mtimensec = ~0U;
    CHECK(house.ask(FUSE_SETATTR, node, body(in)) == EINVAL);
    in.atimensec = in.mtimensec = 0;
    CHECK(house.ask(FUSE_SETATTR, node, body(in)) == 0);
}

TEST_CASE("bad input: fallocate, lseek and copy_file_range with modes, flags and offsets of nobody") {
    House house;
    const std::uint64_t node = house.subjects.file;
    const std::uint64_t handle = house.subjects.opened_file;
    for (const std::uint32_t mode : {0x8000'0000U, 0x80U, ~0U, 0x2U, 0x40U})
        CHECK(house.ask(FUSE_FALLOCATE, node, body(fallocation(handle, 0, 4096, mode))) != 0);
    for (const std::uint64_t number : {largest, smallest, minus_one}) {
        CAPTURE(number);
        CHECK(house.ask(FUSE_FALLOCATE, node, body(fallocation(handle, number, 1, 0))) != 0);
        CHECK(house.ask(FUSE_FALLOCATE, node, body(fallocation(handle, 1, number, 0))) != 0);
        CHECK(house.ask(FUSE_LSEEK, node, body(seek(handle, number, SEEK_DATA))) == ENXIO);
        CHECK(house.ask(FUSE_LSEEK, node, body(seek(handle, number, SEEK_HOLE))) == ENXIO);
        house.ask(FUSE_COPY_FILE_RANGE, node, body(copy(handle, number, house.other_file, 0, 1)));
        CHECK(house.ask(FUSE_COPY_FILE_RANGE, node, body(copy(handle, 0, house.other_file, number, 1))) != 0);
        house.ask(FUSE_COPY_FILE_RANGE, node, body(copy(handle, 0, house.other_file, 0, number)));
    }
    CHECK(house.ask(FUSE_FALLOCATE, node, body(fallocation(handle, 0, 0, 0))) == EINVAL);
    for (const std::uint32_t whence : {5U, 77U, ~0U})
        CHECK(house.ask(FUSE_LSEEK, node, body(seek(handle, 0, whence))) != 0);
    for (const std::uint64_t flags : {std::uint64_t{1}, minus_one})
        CHECK(house.ask(FUSE_COPY_FILE_RANGE, node, body(copy(handle, 0, house.other_file, 0, 1, flags))) == EINVAL);
    CHECK(house.ask(FUSE_COPY_FILE_RANGE, node, body(copy(handle, 0, handle, 1, 4))) == EINVAL);  // onto itself
}

TEST_CASE("bad input: flags that nobody knows") {
    House house;
    const std::uint64_t node = house.subjects.file;
    for (const std::uint32_t flags : {0x10U, 0x8000'0000U, ~0U, std::uint32_t{RENAME_NOREPLACE | RENAME_EXCHANGE}}) {
        fuse_rename2_in rename{};
        rename.newdir = FUSE_ROOT_ID;
        rename.flags = flags;
        CHECK(house.ask(FUSE_RENAME2, FUSE_ROOT_ID, body(rename) + name_of("other") + name_of("new")) == EINVAL);
    }
    const Answer opened = house.kernel.call(FUSE_OPEN, node, body(fuse_open_in{~0U, ~0U}));
    CHECK(opened.error == 0);
    CHECK(house.ask(FUSE_OPENDIR, FUSE_ROOT_ID, body(fuse_open_in{~0U, ~0U})) == 0);
    fuse_create_in create{};
    create.flags = create.open_flags = ~0U;
    create.mode = ~0U;
    house.ask(FUSE_CREATE, FUSE_ROOT_ID, body(create) + name_of("created"));
    fuse_mknod_in mknod{};
    mknod.mode = mknod.rdev = ~0U;
    CHECK(house.ask(FUSE_MKNOD, FUSE_ROOT_ID, body(mknod) + name_of("made")) == EINVAL);
    house.ask(FUSE_MKDIR, FUSE_ROOT_ID, body(fuse_mkdir_in{~0U, ~0U}) + name_of("odd"));
    CHECK(house.ask(FUSE_FSYNC, node, body(fuse_fsync_in{house.subjects.opened_file, ~0U, ~0U})) == 0);
    CHECK(house.ask(FUSE_GETATTR, node, body(fuse_getattr_in{~0U, ~0U, minus_one})) == 0);
    fuse_release_in release = House::release_of(opened.as<fuse_open_out>().fh);
    release.flags = release.release_flags = ~0U;
    CHECK(house.ask(FUSE_RELEASE, node, body(release)) == 0);
    fuse_ioctl_in ioctl{};
    ioctl.fh = house.subjects.opened_file;
    ioctl.flags = ioctl.cmd = ioctl.out_size = ~0U;
    CHECK(house.ask(FUSE_IOCTL, node, body(ioctl)) != 0);
    ioctl.flags = 0;
    ioctl.in_size = 8;
    CHECK(house.ask(FUSE_IOCTL, node, body(ioctl) + "8 bytes.") != 0);
    for (const std::uint32_t size : {0U, 7U, 9U, ~0U}) {
        ioctl.in_size = size;
        CHECK(house.ask(FUSE_IOCTL, node, body(ioctl) + "8 bytes.") == EINVAL);
    }
}

TEST_CASE("bad input: places in a directory that are none, and room for nothing or for all there is") {
    House house;
    const std::uint64_t handle = house.subjects.opened_directory;
    for (const fuse_opcode opcode : {FUSE_READDIR, FUSE_READDIRPLUS}) {
        for (const std::uint64_t offset : strange_numbers)
            house.ask(opcode, FUSE_ROOT_ID, body(read_of(handle, offset, 4096)));
        for (const std::uint32_t size : {0U, 1U, 23U, 100U, static_cast<std::uint32_t>(max_read), ~0U}) {
            const Answer answer = house.kernel.call(opcode, FUSE_ROOT_ID, body(read_of(handle, 0, size)));
            CHECK(answer.error == 0);
            CHECK(answer.bytes.size() <= std::min<std::size_t>(size, max_read));
            CHECK(answer.bytes.size() % 8 == 0);
        }
    }
}

TEST_CASE("bad input: forgets of more than was looked up, of nobody and of the root") {
    House house;
    const std::uint64_t node = house.subjects.file;
    const auto forget = [&](std::uint64_t of, std::uint64_t lookups) {
        house.kernel.send(FUSE_FORGET, of, body(fuse_forget_in{lookups}));
    };
    forget(FUSE_ROOT_ID, minus_one);
    forget(0, 1);
    forget(minus_one, minus_one);
    house.kernel.send(FUSE_BATCH_FORGET, 0,
                      body(fuse_batch_forget_in{3, ~0U}, fuse_forget_one{FUSE_ROOT_ID, minus_one},
                           fuse_forget_one{0, minus_one}, fuse_forget_one{node, minus_one}));
    // More, and fewer, than there are.
    for (const std::uint32_t count : {0U, 2U, 1U << 31, ~0U}) {
        house.kernel.send(FUSE_BATCH_FORGET, 0,
                          body(fuse_batch_forget_in{count, 0}, fuse_forget_one{house.subjects.directory, 1}));
    }
    while (house.ask(FUSE_GETATTR, node, body(fuse_getattr_in{})) != ESTALE) continue;
    // Who has it open keeps it.
    CHECK(house.kernel.read_page(node, house.subjects.opened_file, 0, 4096).bytes.starts_with("hello"));
    CHECK(house.kernel.look_up("file").nodeid != node);
    CHECK(house.ask(FUSE_GETATTR, house.subjects.directory, body(fuse_getattr_in{})) == 0);
    house.check_serves();
}

TEST_CASE("bad input: interrupts of nobody, and operations that there are not") {
    House house;
    std::vector<std::uint64_t> interrupts;
    for (const std::uint64_t of : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{12345}, minus_one})
        interrupts.push_back(house.kernel.send(FUSE_INTERRUPT, 0, body(fuse_interrupt_in{of})));
    for (const std::uint32_t opcode : {0U, 7U, 19U, 48U, 49U, 50U, 53U, 54U, 99U, 4095U, 4097U, 1U << 31, ~0U})
        CHECK(house.ask(static_cast<fuse_opcode>(opcode), FUSE_ROOT_ID, std::string(64, '\1')) == ENOSYS);
    CHECK(house.ask(static_cast<fuse_opcode>(CUSE_INIT), 0, std::string(64, '\1')) == EIO);
    const std::uint64_t reply = house.kernel.send(FUSE_NOTIFY_REPLY, FUSE_ROOT_ID, std::string(64, '\1'));
    house.check_serves();
    CHECK_FALSE(house.kernel.is_answered(reply));
    // libfuse says that it knows no such request yet, one with each request that comes.
    for (const std::uint64_t each : interrupts) {
        if (house.kernel.is_answered(each)) CHECK(house.kernel.wait_for(each).error == EAGAIN);
    }
}

TEST_CASE("bad input: INIT once more changes nothing") {
    House house;
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = 12;
    CHECK(house.ask(FUSE_INIT, 0, body(init)) == EIO);
    CHECK(house.ask(FUSE_INIT, 0, "") == EINVAL);
    CHECK(house.kernel.fs().channel().maps_direct_files());
    CHECK(house.kernel.fs().state().init().size() == sizeof(fuse_in_header) + sizeof init);
    const auto kept = house.kernel.fs().state().init();
    std::memcpy(&init, kept.data() + sizeof(fuse_in_header), sizeof init);
    CHECK(init.minor == FUSE_KERNEL_MINOR_VERSION);
}

TEST_CASE("bad input: a request cut short anywhere is answered EINVAL, and a whole one is not") {
    House house;
    for (const Example& each : examples(house.subjects)) {
        CAPTURE(each.opcode);
        const fuse_in_header whole = house.kernel.make_header(each.opcode, each.node, each.body.size());
        CHECK(is_well_formed(whole, each.body));
        const std::size_t step = each.body.size() > 200 ? 97 : 1;
        for (std::size_t size = 0; size < each.body.size(); size += step) {
            const std::string part = each.body.substr(0, size);
            const fuse_in_header header = house.kernel.make_header(each.opcode, each.node, size);
            CHECK_FALSE(is_well_formed(header, part));
            house.kernel.send_raw(header, part);
            if (each.is_answered) CHECK(house.kernel.wait_for(header.unique).error == EINVAL);
        }
    }
}

TEST_CASE("bad input: a request that is not as long as it says") {
    House house;
    for (const Example& each : examples(house.subjects)) {
        CAPTURE(each.opcode);
        const auto real = static_cast<std::uint32_t>(sizeof(fuse_in_header) + each.body.size());
        for (const std::uint32_t length : {0U, 1U, real - 1, real + 1, real + 4096, ~0U}) {
            fuse_in_header header = house.kernel.make_header(each.opcode, each.node, each.body.size());
            header.len = length;
            house.kernel.send_raw(header, each.body);
            if (each.is_answered) CHECK(house.kernel.wait_for(header.unique).error == EINVAL);
        }
        // Extensions that are not there.
        fuse_in_header header = house.kernel.make_header(each.opcode, each.node, each.body.size());
        set_extension_words(header, 0xffff);
        house.kernel.send_raw(header, each.body);
        if (each.is_answered) CHECK(house.kernel.wait_for(header.unique).error == EINVAL);
        // An answer to number 0 would be a notification: there is none.
        set_extension_words(header, 0);
        header.unique = 0;
        house.kernel.send_raw(header, each.body);
    }
    house.check_serves();
    for (const Notification& each : house.kernel.take_earlier_notifications()) CHECK(each.code > 0);
}

TEST_CASE("bad input: what kernels send, old ones and newer ones than ours, is well formed") {
    Wire wire;
    const auto is_fine = [&wire](fuse_opcode opcode, const std::string& rest, std::uint16_t words = 0) {
        fuse_in_header header = wire.make_header(opcode, FUSE_ROOT_ID, rest.size());
        set_extension_words(header, words);
        return is_well_formed(header, rest);
    };
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    const std::string whole = body(init);
    CHECK(is_fine(FUSE_INIT, whole));
    CHECK(is_fine(FUSE_INIT, whole.substr(0, 16)));  // before Linux 5.17
    CHECK_FALSE(is_fine(FUSE_INIT, whole.substr(0, 15)));
    init.flags = FUSE_INIT_EXT;
    CHECK(is_fine(FUSE_INIT, body(init)));
    CHECK_FALSE(is_fine(FUSE_INIT, body(init).substr(0, 16)));
    // Structures grow at their end.
    CHECK(is_fine(FUSE_GETATTR, body(fuse_getattr_in{}, fuse_getattr_in{})));
    CHECK(is_fine(FUSE_STATFS, "more"));
    // Extensions stand behind the name: FUSE_CREATE_SUPP_GROUP, FUSE_SECURITY_CTX.
    CHECK(is_fine(FUSE_MKDIR, body(fuse_mkdir_in{}) + name_of("a") + std::string(16, '\1'), 2));
    CHECK_FALSE(is_fine(FUSE_MKDIR, body(fuse_mkdir_in{}) + name_of("a") + std::string(16, '\1'), 1));
    CHECK_FALSE(is_fine(FUSE_MKDIR, body(fuse_mkdir_in{}) + name_of("a") + std::string(16, '\1'), 3));
    // SETXATTR in the form of before FUSE_SETXATTR_EXT.
    CHECK(is_fine(FUSE_SETXATTR, body(std::uint32_t{3}, std::uint32_t{0}) + name_of("user.a") + "123"));
}
