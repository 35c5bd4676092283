// stat=real: stat(2) tells the real size, while mappings reach the view size all the same.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>

#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// What the calls of the stat family say.
std::size_t by_stat(const std::string& path) {
    struct stat found {};
    must(::stat(path.c_str(), &found), "stat");
    return static_cast<std::size_t>(found.st_size);
}

std::size_t by_statx(const std::string& path, int flags, unsigned mask) {
    struct statx found {};
    must(::statx(AT_FDCWD, path.c_str(), flags, mask, &found), "statx");
    return found.stx_size;
}

std::size_t by_fstatat(const std::string& path) {
    const UniqueFd directory = open_file(std::filesystem::path(path).parent_path(), O_RDONLY | O_DIRECTORY);
    struct stat found {};
    must(::fstatat(directory.get(), std::filesystem::path(path).filename().c_str(), &found, 0), "fstatat");
    return static_cast<std::size_t>(found.st_size);
}

void check_calls(const std::string& path, std::size_t size) {
    CHECK(by_stat(path) == size);
    CHECK(size_of(path) == size);                             // lstat
    CHECK(size_of(open_file(path, O_RDONLY).get()) == size);  // fstat
    CHECK(size_of(open_file(path, O_RDWR).get()) == size);    // fstat
    CHECK(size_of(open_file(path, O_PATH).get()) == size);    // fstat
    CHECK(by_fstatat(path) == size);
    CHECK(by_statx(path, 0, STATX_BASIC_STATS) == size);
    CHECK(by_statx(path, 0, STATX_SIZE) == size);
    CHECK(by_statx(path, AT_STATX_FORCE_SYNC, STATX_SIZE) == size);
    CHECK(by_statx(path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS) == size);
    CHECK(std::filesystem::file_size(path) == size);
}

// A file of which a view is mapped up to its end, and of which some pages have been loaded.
struct MappedFile {
    explicit MappedFile(const ViewMount& mount, const std::string& name = "file")
        : backing(make_file(mount.raw(name), pattern(0, size))),
          view(open_file(mount.view(name), O_RDONLY)),
          mapping(view.get(), MiB) {
        REQUIRE(mapping.byte(page) != fault);
        REQUIRE(mapping.byte(MiB / 2) == 0);
    }

    // Every page can be loaded, and what is there is the file.
    void check_mapping(const std::string& content) const {
        CHECK(mapping.touch() == MiB / page);
        CHECK(eventually([&] { return mapping.bytes() == padded(content, MiB); }));
        CHECK(difference(mapping.bytes(), padded(content, MiB)) == "");
    }

    static constexpr std::size_t size = 5000;
    UniqueFd backing;
    UniqueFd view;
    Mapping mapping;
};

// The output of a program that must succeed.
std::string output_of(const std::vector<std::string>& command) {
    const Run finished = run(command);
    CHECK_MESSAGE(finished.ending == "exit 0", command[0], ": ", finished.ending, ": ", finished.errors);
    return finished.output;
}

bool is_installed(const std::string& program) {
    return run({"sh", "-c", "command -v " + program}).ending == "exit 0";
}

}  // namespace

TEST_SUITE_BEGIN("stat");

TEST_CASE("stat=view is what a mount does when nothing is said") {
    std::vector<std::string> options = {"max_size=1M"};
    SUBCASE("nothing is said") {}
    SUBCASE("stat=view is") {
        options.emplace_back("stat=view");
    }
    SUBCASE("the last one counts") {
        options.insert(options.end(), {"stat=real", "stat=view"});
    }
    const ViewMount mount(options);
    make_file(mount.raw("file"), "abc");
    check_calls(mount.view("file"), MiB);
}

TEST_CASE("with stat=real every call of the stat family tells the real size") {
    const ViewMount mount({"max_size=1M", "stat=real"});
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, page, std::size_t{5000}, MiB, MiB + 1}) {
        CAPTURE(size);
        const std::string name = std::to_string(size);
        const std::size_t view_size = size > MiB ? 2 * MiB : MiB;
        resize(make_file(mount.raw(name)).get(), size);
        check_calls(mount.view(name), size);
        const UniqueFd view = open_file(mount.view(name), O_RDONLY);
        for (const int flags : {MAP_SHARED, MAP_PRIVATE}) {
            const Mapping mapping(view.get(), view_size, PROT_READ, flags);
            check_calls(mount.view(name), size);
            CHECK(mapping.touch() == view_size / page);
            check_calls(mount.view(name), size);
            CHECK(mapping.touch() == view_size / page);
        }
    }
}

TEST_CASE("with stat=real the size follows the file, and mappings reach the view size before and after") {
    const ViewMount mount({"max_size=1M", "stat=real"});
    const MappedFile file(mount);
    const std::string view_path = mount.view("file");
    std::string changed = mount.raw("file");
    SUBCASE("changed outside") {}
    SUBCASE("changed through the view") {
        changed = view_path;
    }
    std::string content = pattern(0, MappedFile::size);
    for (const std::size_t size :
         {std::size_t{9000}, std::size_t{100}, std::size_t{0}, MiB, std::size_t{1}, 7 * page}) {
        CAPTURE(size);
        content.resize(size, '\0');
        must(::truncate(changed.c_str(), static_cast<off_t>(size)), "truncate");
        CHECK(size_of(file.view.get()) == size);  // no lookup, and no open, which would tell the kernel the view size
        file.check_mapping(content);
        check_calls(view_path, size);
        file.check_mapping(content);
    }
    write_at(open_file(changed, O_WRONLY).get(), content.size(), "more");
    check_calls(view_path, content.size() + 4);
    file.check_mapping(content + "more");
}

TEST_CASE("with stat=real a file that outgrew its view is told at its real size, and reaches its new view size") {
    const ViewMount mount({"max_size=1M", "stat=real"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 100));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), 4 * MiB);
    CHECK(mapping.touch() == MiB / page);
    resize(backing.get(), 3 * MiB + 5);
    CHECK(size_of(view.get()) == 3 * MiB + 5);
    CHECK(mapping.touch() == 4 * MiB / page);  // nobody is told a size that a mapping does not reach
    resize(backing.get(), 7);
    CHECK(size_of(view.get()) == 7);
    CHECK(mapping.touch() == 4 * MiB / page);
}

TEST_CASE("with stat=real a change of mode or times leaves both sizes as they are") {
    const ViewMount mount({"max_size=1M", "stat=real"});
    const MappedFile file(mount);
    const std::string path = mount.view("file");
    must(::chmod(path.c_str(), 0600), "chmod");
    check_calls(path, MappedFile::size);
    must(::utimensat(AT_FDCWD, path.c_str(), nullptr, 0), "utimensat");
    check_calls(path, MappedFile::size);
    must(::link(path.c_str(), mount.view("other").c_str()), "link");
    check_calls(mount.view("other"), MappedFile::size);
    must(::rename(path.c_str(), mount.view("moved").c_str()), "rename");
    check_calls(mount.view("moved"), MappedFile::size);
    file.check_mapping(pattern(0, MappedFile::size));
}

// Not after a SETATTR with stat=real: the size beyond the view that its reply carries stays until the next lookup.
TEST_CASE("SEEK_END goes to the view size, whatever stat tells") {
    const char* mode = "stat=view";
    SUBCASE("stat=view") {}
    SUBCASE("stat=real") {
        mode = "stat=real";
    }
    const ViewMount mount({"max_size=1M", mode});
    make_file(mount.raw("file"), "abc");
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    CHECK(::lseek(view.get(), 0, SEEK_END) == static_cast<off_t>(MiB));
    check_calls(mount.view("file"), std::string(mode) == "stat=real" ? 3 : MiB);
    CHECK(::lseek(view.get(), 0, SEEK_END) == static_cast<off_t>(MiB));
}

TEST_CASE("with stat=real directories, links and fifos are those of the source") {
    const ViewMount mount({"max_size=1M", "stat=real"});
    must(::mkdir(mount.raw("directory").c_str(), 0755), "mkdir");
    for (int i = 0; i < 10; ++i) make_file(mount.raw(fmt::format("directory/{}", i)), "abc");
    must(::symlink("directory/1", mount.raw("link").c_str()), "symlink");
    must(::mkfifo(mount.raw("fifo").c_str(), 0644), "mkfifo");
    for (const char* name : {"", "directory", "link", "fifo"}) {
        CAPTURE(name);
        const struct stat of_view = status(mount.view(name));
        const struct stat of_raw = status(mount.raw(name));
        CHECK(of_view.st_mode == of_raw.st_mode);
        CHECK(of_view.st_nlink == of_raw.st_nlink);
        CHECK(of_view.st_ino == of_raw.st_ino);
        CHECK(of_view.st_size == of_raw.st_size);
    }
    CHECK(by_stat(mount.view("link")) == 3);
    CHECK(output_of({"ls", mount.view("directory")}) == output_of({"ls", mount.raw("directory")}));
}

TEST_CASE("with stat=real programs that trust the size see the file, and nothing behind it") {
    const ViewMount mount({"max_size=1M", "stat=real"});
    const MappedFile file(mount);
    const std::string content = pattern(0, MappedFile::size);
    const std::string path = mount.view("file");
    const std::string copies = mount.plain();
    SUBCASE("ls -l") {
        CHECK(output_of({"ls", "-ln", "--time-style=+%s", "--", mount.mountpoint()}) ==
              output_of({"ls", "-ln", "--time-style=+%s", "--", mount.source()}));
        CHECK(output_of({"ls", "-l", path}).find(" 5000 ") != std::string::npos);
    }
    SUBCASE("stat") {
        CHECK(output_of({"stat", "--format=%s", path}) == "5000\n");
    }
    SUBCASE("wc -c") {
        CHECK(output_of({"wc", "-c", path}) == "5000 " + path + "\n");
    }
    SUBCASE("tail -c") {
        CHECK(output_of({"tail", "-c", "100", path}) == content.substr(content.size() - 100));
    }
    // These read to the end, whatever stat(2) says.
    SUBCASE("cp") {
        if (!reads_end("cp")) return;
        output_of({"cp", path, copies + "/copy"});
        CHECK(difference(read_all(copies + "/copy"), content) == "");
    }
    SUBCASE("cp of sparse files") {
        resize(make_file(mount.raw("sparse")).get(), 40 * KiB);
        output_of({"cp", "--sparse=always", mount.view("sparse"), copies + "/copy"});
        CHECK(size_of(copies + "/copy") == 40 * KiB);
    }
    SUBCASE("tar") {
        output_of({"tar", "-cf", copies + "/archive", "-C", mount.mountpoint(), "file"});
        output_of({"tar", "-xf", copies + "/archive", "-C", copies});
        CHECK(difference(read_all(copies + "/file"), content) == "");
    }
    SUBCASE("cmp and diff") {
        if (!reads_end("cmp and diff")) return;
        output_of({"cmp", path, mount.raw("file")});
        output_of({"diff", "-r", mount.mountpoint(), mount.source()});
    }
    SUBCASE("find -size") {
        CHECK(output_of({"find", mount.mountpoint(), "-size", "5000c"}) == path + "\n");
    }
    SUBCASE("rsync") {
        if (!is_installed("rsync")) {
            MESSAGE("rsync is not installed: left out");
        } else {
            output_of({"rsync", "-a", mount.mountpoint() + "/", copies});
            CHECK(difference(read_all(copies + "/file"), content) == "");
            CHECK(output_of({"rsync", "-an", "--checksum", "--itemize-changes", mount.mountpoint() + "/", copies}) ==
                  "");
        }
    }
    check_calls(path, MappedFile::size);
    file.check_mapping(content);
}

TEST_SUITE_END();
