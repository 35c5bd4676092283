// The mirror: directories, renames, listings, and what others do behind our back.
#include <dirent.h>
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <set>

#include "tests/mount/files.h"
#include "tests/mount/parity.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

using Listing = std::unique_ptr<DIR, int (*)(DIR*)>;

Listing listing(const std::string& directory) {
    return {::opendir(directory.c_str()), &::closedir};
}

// The names from where the listing stands, with their types; an error where a name comes twice.
std::string rest_of(const Listing& entries) {
    std::set<std::string> lines;
    while (const dirent* entry = ::readdir(entries.get())) {
        if (!lines.insert(fmt::format("{} {}\n", entry->d_name, entry->d_type)).second)
            return "twice: " + std::string(entry->d_name);
    }
    std::string all;
    for (const std::string& line : lines) all += line;
    return all;
}

std::string listed(const std::string& directory) {
    return rest_of(listing(directory));
}

Step made(const std::string& name) {
    return [=](auto& dir) { return answer(::mkdir((dir + "/" + name).c_str(), 0755)); };
}

Step removed(const std::string& name) {
    return [=](auto& dir) { return answer(::rmdir((dir + "/" + name).c_str())); };
}

Step filled(const std::string& name, const std::string& content) {
    return [=](auto& dir) {
        make_file(dir + "/" + name, content);
        return std::string();
    };
}

Step renamed(const std::string& from, const std::string& to, unsigned flags = 0) {
    return [=](auto& dir) {
        return answer(::renameat2(AT_FDCWD, (dir + "/" + from).c_str(), AT_FDCWD, (dir + "/" + to).c_str(), flags));
    };
}

}  // namespace

TEST_SUITE_BEGIN("mirror");

TEST_CASE("making and removing directories") {
    Parity parity;
    parity.same("mkdir", made("one"));
    parity.same("mkdir again", made("one"));
    parity.same("mkdir inside", made("one/two"));
    parity.same("mkdir in nothing", made("no/two"));
    parity.same("a file", filled("file", "abc"));
    parity.same("mkdir over a file", made("file"));
    parity.same("mkdir in a file", made("file/one"));
    parity.same("mkdir with a long name", made(std::string(256, 'n')));
    parity.same("rmdir of a full one", removed("one"));
    parity.same("rmdir of nothing", removed("no"));
    parity.same("rmdir of a file", removed("file"));
    parity.same("rmdir of .", removed("one/."));
    parity.same("rmdir of ..", removed("one/two/.."));
    parity.same("unlink of a directory", [](auto& dir) { return answer(::unlink((dir + "/one").c_str())); });
    parity.same("unlink of nothing", [](auto& dir) { return answer(::unlink((dir + "/no").c_str())); });
    parity.same("a set-group-id directory", [](auto& dir) {
        must(::chown((dir + "/one").c_str(), 0, 55), "chown");
        must(::chmod((dir + "/one").c_str(), 02775), "chmod");
        must(::mkdir((dir + "/one/three").c_str(), 0755), "mkdir");
        make_file(dir + "/one/file");
        return std::string();
    });
    parity.same_trees();
    parity.same("rmdir", removed("one/two"));
    parity.same_trees();
}

TEST_CASE("renames") {
    Parity parity;
    for (const std::string directory : {"empty", "full", "other", "other/inner"}) parity.same("mkdir", made(directory));
    for (const std::string file : {"file", "second", "full/file", "other/file"})
        parity.same("a file", filled(file, file));
    parity.same("a file", renamed("file", "renamed"));
    parity.same("a file that is not there", renamed("file", "renamed"));
    parity.same("into a directory", renamed("renamed", "full/renamed"));
    parity.same("over a file", renamed("second", "full/file"));
    parity.same("to itself", renamed("full/file", "full/file"));
    parity.same("a file over a directory", renamed("full/file", "empty"));
    parity.same("a directory over a file", renamed("empty", "full/file"));
    parity.same("a directory over a full one", renamed("empty", "full"));
    parity.same("a directory over an empty one", renamed("full", "empty"));
    parity.same("a directory into itself", renamed("other", "other/inner/other"));
    parity.same("a directory elsewhere", renamed("empty", "other/inner/moved"));
    parity.same("into nothing", renamed("other", "no/other"));
    parity.same("to a long name", renamed("other", std::string(256, 'n')));
    parity.same_trees();
    parity.same("a file", filled("third", "third"));
    parity.same("without replacing, over a file", renamed("third", "other/file", RENAME_NOREPLACE));
    parity.same("without replacing, to a new name", renamed("third", "fourth", RENAME_NOREPLACE));
    parity.same("an exchange", renamed("fourth", "other", RENAME_EXCHANGE));
    parity.same("an exchange with nothing", renamed("fourth", "no", RENAME_EXCHANGE));
    parity.same("one hard link over the other", [](auto& dir) {
        must(::link((dir + "/other").c_str(), (dir + "/twin").c_str()), "link");
        return answer(::rename((dir + "/other").c_str(), (dir + "/twin").c_str()));
    });
    parity.same_trees();
}

TEST_CASE("an open file and a working directory follow a rename") {
    Parity parity;
    parity.same("rename of an open file and its directory", [](auto& dir) {
        must(::mkdir((dir + "/one").c_str(), 0755), "mkdir");
        const UniqueFd file = make_file(dir + "/one/file", "abc");
        const UniqueFd inside = open_file(dir + "/one", O_RDONLY | O_DIRECTORY);
        must(std::rename((dir + "/one/file").c_str(), (dir + "/one/moved").c_str()), "rename");
        must(std::rename((dir + "/one").c_str(), (dir + "/two").c_str()), "rename");
        write_at(file.get(), 3, "def");
        return read_all(file.get()) + " " + answer(::faccessat(inside.get(), "moved", F_OK, 0)) + " " +
               read_all(dir + "/two/moved");
    });
    parity.same_trees();
}

TEST_CASE("a large directory is listed whole, each name once") {
    Parity parity;
    parity.same("5000 files and some others", [](auto& dir) {
        must(::mkdir((dir + "/large").c_str(), 0755), "mkdir");
        for (int i = 0; i < 5000; ++i) open_file(fmt::format("{}/large/file {}", dir, i), O_WRONLY | O_CREAT | O_EXCL);
        for (int i = 0; i < 50; ++i) {
            must(::mkdir(fmt::format("{}/large/directory {}", dir, i).c_str(), 0755), "mkdir");
            must(::symlink("target", fmt::format("{}/large/{}{}", dir, std::string(250, 'l'), i).c_str()), "symlink");
        }
        return std::string();
    });
    const std::string all = parity.same("the listing", [](auto& dir) { return listed(dir + "/large"); });
    CHECK(std::count(all.begin(), all.end(), '\n') == 5102);  // with . and ..
    CHECK(listed(parity.mount().source() + "/large") == all);
    parity.same("half of it, then the rest, then again from the middle", [](auto& dir) {
        const Listing entries = listing(dir + "/large");
        for (int i = 0; i < 2500; ++i) ::readdir(entries.get());
        const long middle = ::telldir(entries.get());
        const std::string rest = rest_of(entries);
        ::seekdir(entries.get(), middle);
        const bool again = rest_of(entries) == rest;
        ::rewinddir(entries.get());
        const std::string whole = rest_of(entries);
        return fmt::format("{} {} {}", std::count(rest.begin(), rest.end(), '\n'), again,
                           whole == listed(dir + "/large"));
    });
    parity.same("removing while listing", [](auto& dir) {
        const Listing entries = listing(dir + "/large");
        int removed = 0;
        while (const dirent* entry = ::readdir(entries.get())) {
            if (entry->d_type == DT_REG && ::unlink((dir + "/large/" + entry->d_name).c_str()) == 0) ++removed;
        }
        return fmt::format("{} {}", removed, listed(dir + "/large"));
    });
    parity.same("an empty directory", [](auto& dir) {
        must(::mkdir((dir + "/empty").c_str(), 0755), "mkdir");
        return listed(dir + "/empty");
    });
    parity.same("a file", filled("file", ""));
    parity.same("a file as a directory", [](auto& dir) { return listing(dir + "/file") ? "0" : answer(-1); });
    parity.same_trees();
}

TEST_CASE("what is made, removed and renamed behind our back is seen at once") {
    const ViewMount mount({"max_size=1M"});
    const auto seen = [&](const std::string& name) { return answer(::access(mount.view(name).c_str(), F_OK)); };
    for (int round = 0; round < 20; ++round) {
        CAPTURE(round);
        CHECK(seen("file") == "ENOENT");
        make_file(mount.raw("file"), "abc");
        CHECK(seen("file") == "0");
        CHECK(read_all(mount.view("file")) == "abc");
        must(::chmod(mount.raw("file").c_str(), 0600), "chmod");
        CHECK((status(mount.view("file")).st_mode & 07777U) == 0600);
        must(::chown(mount.raw("file").c_str(), 7, 8), "chown");
        CHECK(status(mount.view("file")).st_uid == 7);
        must(std::rename(mount.raw("file").c_str(), mount.raw("other").c_str()), "rename");
        CHECK(seen("file") == "ENOENT");
        CHECK(seen("other") == "0");
        make_file(mount.raw("file"), "another file");
        CHECK(read_all(mount.view("file")) == "another file");
        must(std::rename(mount.raw("other").c_str(), mount.raw("file").c_str()), "rename");
        CHECK(read_all(mount.view("file")) == "abc");
        must(::unlink(mount.raw("file").c_str()), "unlink");
        CHECK(seen("file") == "ENOENT");
        must(::mkdir(mount.raw("file").c_str(), 0755), "mkdir");  // another type under the same name
        CHECK(S_ISDIR(status(mount.view("file")).st_mode));
        CHECK(listed(mount.view("file")) == listed(mount.raw("file")));
        make_file(mount.raw("file/inside"));
        CHECK(seen("file/inside") == "0");
        CHECK(listed(mount.view("file")) == listed(mount.raw("file")));
        must(::unlink(mount.raw("file/inside").c_str()), "unlink");
        must(::rmdir(mount.raw("file").c_str()), "rmdir");
    }
}

TEST_CASE("a link in the source leads nowhere else for the server") {
    // The kernel follows links on the client's side; the server itself must never be led out of the source.
    const ViewMount mount({"max_size=1M"});
    must(::mkdir(mount.raw("inside").c_str(), 0755), "mkdir");
    make_file(mount.raw("inside/file"), "inside");
    make_file(mount.plain() + "/file", "outside");
    const UniqueFd inside = open_file(mount.view("inside"), O_RDONLY | O_DIRECTORY);
    must(std::rename(mount.raw("inside").c_str(), mount.raw("moved").c_str()), "rename");
    must(::symlink(mount.plain().c_str(), mount.raw("inside").c_str()), "symlink");
    const UniqueFd file(::openat(inside.get(), "file", O_RDONLY | O_CLOEXEC));
    REQUIRE(file);
    CHECK(read_all(file.get()) == "inside");
}

TEST_SUITE_END();
