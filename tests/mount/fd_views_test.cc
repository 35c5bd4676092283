// Views of descriptors: of every kind of file that has no name in the source.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "tests/mount/changes.h"
#include "tests/mount/counters.h"
#include "tests/mount/fd_views.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct PassedFile {
    std::string kind;
    UniqueFd fd;
};

// One file of each kind, with content_before(), none of them in the source.
std::vector<PassedFile> passed_files(const Directories& directories, const Ext4& ext4) {
    const std::string before = content_before();
    std::vector<PassedFile> files;
    files.push_back({"a memfd", memfd(before)});
    files.push_back({"a memfd that can be sealed", memfd(before, MFD_ALLOW_SEALING)});
    files.push_back({"an unlinked file of a tmpfs", unlinked_file(directories.plain(), before)});
    files.push_back({"a tmpfs's file that never had a name", tmpfile(directories.plain(), before)});
    files.push_back({"a file with a name elsewhere", make_file(directories.plain() + "/named", before)});
    files.push_back({"an unlinked file of an ext4", unlinked_file(ext4.path(), before)});
    files.push_back({"an ext4's file that never had a name", tmpfile(ext4.path(), before)});
    return files;
}

// All that a view promises, for one that follows `file`. Leaves the file changed.
void check_contract(const Directories& mount, int file) {
    const std::string before = content_before();
    const UniqueFd reader = fd_view(mount, file, O_RDONLY);
    const UniqueFd writer = fd_view(mount, file, O_RDWR);
    CHECK(difference(read_all(reader.get()), before) == "");
    const Mapping mapping(reader.get(), MiB);
    const Mapping copying(reader.get(), MiB, PROT_READ, MAP_PRIVATE);
    CHECK(difference(mapping.bytes(), padded(before, MiB)) == "");
    CHECK(difference(copying.bytes(), padded(before, MiB)) == "");
    CHECK(sizes_of(reader.get()).real_size == before.size());
    CHECK(sizes_of(reader.get()).view_size == MiB);
    CHECK(size_of(reader.get()) == MiB);

    // Stores that no event tells of show at the barrier, be it of all or of a part.
    const Mapping raw(file, 4 * page, PROT_READ | PROT_WRITE);
    REQUIRE(raw.store(page + 3, "stored") == 6);
    REQUIRE(answer(::fsync(reader.get())) == "0");
    CHECK(mapping.bytes(page + 3, 6) == "stored");
    CHECK(copying.bytes(page + 3, 6) == "stored");
    REQUIRE(raw.store(2 * page - 3, "across") == 6);
    REQUIRE(sync_range(reader.get(), 2 * page - 3, 6) == "0");
    CHECK(mapping.bytes(2 * page - 3, 6) == "across");

    // What goes through the view reaches the file.
    write_at(writer.get(), 10, "written");
    CHECK(read_all(file).substr(10, 7) == "written");
    const Mapping stores(writer.get(), MiB, PROT_READ | PROT_WRITE);
    CHECK(stores.store(20, "by a store") == 10);
    CHECK(stores.sync() == 0);
    CHECK(read_all(file).substr(20, 10) == "by a store");

    // No load faults while the file shrinks and grows, and each size shows.
    for (const std::size_t size : {std::size_t{100}, std::size_t{0}, 9 * page + 5, page, MiB + 5, std::size_t{1}}) {
        CAPTURE(size);
        resize(file, size);
        CHECK(mapping.touch() == MiB / page);
        const std::string now = padded(read_all(file), std::max(size, MiB)).substr(0, MiB);
        CHECK(eventually([&] { return mapping.bytes() == now; }));
        CHECK(eventually([&] { return sizes_of(reader.get()).real_size == size; }));
    }
    CHECK(sizes_of(reader.get()).view_size == 2 * MiB);  // it has grown, and never shrinks
    CHECK(Mapping(reader.get(), 2 * MiB).touch() == 2 * MiB / page);
    CHECK(read_all(reader.get()).size() == 1);
}

}  // namespace

TEST_SUITE_BEGIN("fd-views");

TEST_CASE("a file of every kind has a view by its descriptor, of which all holds that holds of views") {
    const ViewMount mount({"max_size=1M"});
    const Ext4 ext4(mount);
    for (const PassedFile& file : passed_files(mount, ext4)) {
        CAPTURE(file.kind);
        check_contract(mount, file.fd.get());
    }
    CHECK(std::filesystem::is_empty(mount.source()));
}

TEST_CASE("a file of another FUSE mount, too, whoever that lets in") {
    std::string access;
    SUBCASE("all") {
        access = "allow_other";
    }
    SUBCASE("its owner") {
        access = "noallow_other";
    }
    const ViewMount mount({"max_size=1M"});
    const ViewMount other({"max_size=1M", "stat=real", access});
    check_contract(mount, make_file(other.view("file"), content_before()).get());
    check_contract(mount, tmpfile(other.mountpoint(), content_before()).get());
}

TEST_CASE("the descriptor itself is left as it is: its offset, its flags and its locks") {
    const ViewMount mount({"max_size=1M"});
    const ViewMount other({"max_size=1M", "stat=real"});
    std::vector<PassedFile> files;
    files.push_back({"a memfd", memfd(content_before())});
    files.push_back({"a file of a tmpfs", tmpfile(mount.plain(), content_before())});
    files.push_back({"a file of another FUSE", make_file(other.view("file"), content_before())});
    for (const PassedFile& file : files) {
        CAPTURE(file.kind);
        const int fd = file.fd.get();
        must(::fcntl(fd, F_SETFL, O_APPEND), "F_SETFL");
        must(::lseek(fd, 1234, SEEK_SET), "lseek");
        const int flags = must(::fcntl(fd, F_GETFL), "F_GETFL");
        UniqueFd view = fd_view(mount, fd, O_RDWR);
        CHECK(difference(read_all(view.get()), content_before()) == "");
        CHECK(::lseek(view.get(), 10, SEEK_DATA) == 10);
        CHECK(::lseek(view.get(), 10, SEEK_HOLE) >= static_cast<off_t>(content_before().size()));
        CHECK(::lseek(view.get(), 77, SEEK_SET) == 77);
        if (&file == &files.back() && !kernel_writes_in_place()) {
            MESSAGE("without RWF_NOAPPEND nobody can write in place to a file that is served, and open with O_APPEND");
            CHECK(answer(::pwrite(view.get(), "at its place", 12, 100)) == "EOPNOTSUPP");
            continue;
        }
        write_at(view.get(), 100, "at its place");
        CHECK(difference(read_all(view.get()).substr(90, 30), read_all(same_file(fd, O_RDONLY).get()).substr(90, 30)) ==
              "");
        CHECK(read_all(view.get()).substr(100, 12) == "at its place");
        CHECK(read_all(view.get()).size() == content_before().size());
        CHECK(::lseek(fd, 0, SEEK_CUR) == 1234);
        CHECK(must(::fcntl(fd, F_GETFL), "F_GETFL") == flags);
        must(::flock(fd, LOCK_EX), "flock");
        view.reset();
        CHECK(answer(::flock(same_file(fd, O_RDONLY).get(), LOCK_SH | LOCK_NB)) == "EAGAIN");
        must(::flock(fd, LOCK_UN), "flock");
    }
}

TEST_CASE("a file as large as can be has a view") {
    const ViewMount mount;
    const UniqueFd file = memfd("abc");
    for (const std::uint64_t size : {std::uint64_t{1} << 40U, std::uint64_t{1} << 62U, (std::uint64_t{1} << 63U) - 1}) {
        CAPTURE(size);
        must(::ftruncate(file.get(), static_cast<off_t>(size)), "ftruncate");  // more than a size_t of 32 bits
        const UniqueFd view = fd_view(mount, file.get(), O_RDWR);
        CHECK(sizes_of(view.get()).real_size == size);
        std::string start(3, '\0');
        CHECK(::pread(view.get(), start.data(), start.size(), 0) == 3);
        CHECK(start == "abc");
        CHECK(Mapping(view.get(), MiB).bytes() == padded("abc", MiB));
        CHECK(answer(::fsync(view.get())) == "0");
    }
    resize(file.get(), 3);
    CHECK(read_all(fd_name(mount, file.get())) == "abc");
    CHECK(counters(mount).at("restarts") == 0);
}

TEST_CASE("each change that a file can undergo shows at the barrier, and no load faults") {
    const ViewMount mount({"max_size=1M"});
    const Ext4 ext4(mount);
    const std::size_t length = mapped_pages * page;
    for (const Change& change : changes()) {
        if (change.needs_name) continue;
        CAPTURE(change.name);
        const Outcome native = native_outcome(change, mount.plain());
        for (const PassedFile& file : passed_files(mount, ext4)) {
            CAPTURE(file.kind);
            const UniqueFd view = fd_view(mount, file.fd.get());
            const Mapping mapping(view.get(), length);
            const Mapping untouched(view.get(), length);
            CHECK(difference(mapping.bytes(), padded(content_before(), length)) == "");
            change.make({file.fd.get(), ""});
            CHECK(mapping.touch() == mapped_pages);
            REQUIRE(answer(::fsync(view.get())) == "0");
            CHECK(difference(mapping.bytes(), padded(native.content, length)) == "");
            CHECK(difference(untouched.bytes(), padded(native.content, length)) == "");
            CHECK(difference(read_all(view.get()), native.content) == "");
            ::unlink((mount.plain() + "/named").c_str());
        }
    }
}

TEST_CASE("changes through a view of a descriptor show at once, in it and in the file") {
    const ViewMount mount({"max_size=1M"});
    const std::size_t length = mapped_pages * page;
    for (const Change& change : changes()) {
        if (change.needs_name || change.silent) continue;
        CAPTURE(change.name);
        const Outcome native = native_outcome(change, mount.plain());
        const UniqueFd file = memfd(content_before());
        const UniqueFd view = fd_view(mount, file.get(), O_RDWR);
        const Mapping mapping(view.get(), length);
        CHECK(mapping.touch() == mapped_pages);
        // Reopened by /proc/self/fd, the view is what it is: the same file of the mount.
        change.make({view.get(), ""});
        CHECK(difference(mapping.bytes(), padded(native.content, length)) == "");
        CHECK(difference(read_all(file.get()), native.content) == "");
    }
}

TEST_CASE("with stat=real the view of a descriptor has the size of its file") {
    const ViewMount mount({"max_size=1M", "stat=real"});
    const UniqueFd file = memfd(pattern(0, 3 * page + 5));
    CHECK(size_of(fd_name(mount, file.get())) == 3 * page + 5);
    const UniqueFd view = fd_view(mount, file.get());
    CHECK(size_of(view.get()) == 3 * page + 5);
    CHECK(shows(view.get(), pattern(0, 3 * page + 5)));
    resize(file.get(), 10);
    CHECK(size_of(view.get()) == 10);
    CHECK(eventually([&] { return shows(view.get(), pattern(0, 10)); }));
}

TEST_CASE("a seal holds for whoever has a view, too") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd file = memfd(pattern(0, 2 * page), MFD_ALLOW_SEALING);
    must(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), "F_ADD_SEALS");
    const UniqueFd view = fd_view(mount, file.get(), O_RDWR);
    CHECK(shows(view.get(), pattern(0, 2 * page)));
    CHECK(answer(::ftruncate(view.get(), 5)) == "EPERM");
    CHECK(answer(::ftruncate(view.get(), 5 * static_cast<off_t>(page))) == "EPERM");
    must(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_WRITE), "F_ADD_SEALS");
    CHECK(answer(::pwrite(view.get(), "x", 1, 0)) == "EPERM");
    CHECK(read_all(file.get()) == pattern(0, 2 * page));
}

TEST_CASE("a range to synchronise must fit, and may be empty, or lie behind everything") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd file = memfd(pattern(0, 4 * page));
    const UniqueFd view = fd_view(mount, file.get());
    const UniqueFd writing = fd_view(mount, file.get(), O_WRONLY);
    const UniqueFd named = open_file(mount.view("named"), O_RDWR | O_CREAT);
    constexpr std::uint64_t end = std::uint64_t{1} << 63U;
    for (const int each : {view.get(), writing.get(), named.get()}) {
        CHECK(sync_range(each, 0, 0) == "0");
        CHECK(sync_range(each, 5, 1) == "0");
        CHECK(sync_range(each, page, MiB) == "0");
        CHECK(sync_range(each, GiB, 7) == "0");
        CHECK(sync_range(each, end - 1, 0) == "0");
        CHECK(sync_range(each, end, 0) == "EINVAL");
        CHECK(sync_range(each, end - 1, 5) == "EINVAL");
        CHECK(sync_range(each, 5, ~std::uint64_t{0}) == "EINVAL");
        CHECK(sync_range(each, ~std::uint64_t{0}, ~std::uint64_t{0}) == "EINVAL");
    }
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.touch() == MiB / page);
    const Mapping raw(file.get(), 4 * page, PROT_READ | PROT_WRITE);
    for (unsigned round = 1; round <= 50; ++round) {
        CAPTURE(round);
        const std::size_t at = round * 997 % (4 * page - 300);
        const std::string bytes = pattern(at, 300, round);
        REQUIRE(raw.store(at, bytes) == bytes.size());
        REQUIRE(sync_range(view.get(), at, round % 3 == 0 ? 0 : bytes.size()) == "0");
        CHECK(difference(mapping.bytes(at, bytes.size()), bytes) == "");
        punch(file.get(), page, page);
        REQUIRE(sync_range(view.get(), page + 7, 1) == "0");
        CHECK(mapping.bytes(page + 7, 1) == std::string(1, '\0'));
    }
}

TEST_SUITE_END();
