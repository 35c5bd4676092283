// Names: what they lead to, at once, whoever changes that; and names of every kind.
#include <dirent.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mount.h>

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

using Listing = std::unique_ptr<DIR, int (*)(DIR*)>;

Listing listing(const std::string& directory) {
    DIR* const opened = ::opendir(directory.c_str());
    if (opened == nullptr) throw std::system_error(errno, std::generic_category(), "opendir");
    return {opened, &::closedir};
}

// How often each name is listed.
std::map<std::string, int> names_in(const Listing& entries) {
    std::map<std::string, int> names;
    while (const dirent* entry = ::readdir(entries.get())) ++names[entry->d_name];
    return names;
}

std::string listed(const std::string& directory) {
    std::string all;
    for (const auto& [name, times] : names_in(listing(directory))) all += fmt::format("{} {}\n", times, name);
    return all;
}

std::string there(const std::string& path) {
    return answer(::access(path.c_str(), F_OK));
}

// What an ordinary user may do with it.
std::string rights(const std::string& path) {
    return as_user(stranger, [&] { return in_turn({opened(path, O_RDONLY), opened(path, O_WRONLY)}); });
}

void move(const std::string& from, const std::string& to) {
    must(std::rename(from.c_str(), to.c_str()), "rename");
}

std::string words_of(int fd) {
    const Mapping mapping(fd, page);
    const std::string bytes = mapping.bytes();
    return bytes.substr(0, bytes.find('\0'));
}

// Something to compare: a file system of its own and a bind mount, both inside the source and the plain directory.
void mount_inside(const Parity& parity) {
    for (const std::string& top : {parity.mount().source(), parity.mount().plain()}) {
        for (const std::string name : {"/submount", "/bound", "/origin", "/directory"})
            must(::mkdir((top + name).c_str(), 0755), "mkdir");
        mount_tmpfs(top + "/submount");
        must(::mount((top + "/origin").c_str(), (top + "/bound").c_str(), nullptr, MS_BIND, nullptr), "mount");
        make_file(top + "/file", "above");
        make_file(top + "/submount/file", "below");
        make_file(top + "/origin/file", "bound");
        must(::mkdir((top + "/submount/directory").c_str(), 0755), "mkdir");
    }
}

std::string renamed(const std::string& from, const std::string& to, unsigned flags = 0) {
    return answer(::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags));
}

}  // namespace

TEST_SUITE_BEGIN("names");

TEST_CASE("what is changed in the source is what every call through the mount finds, at once") {
    const ViewMount mount({"max_size=1M", "stat=real"});
    const std::string raw = mount.raw("file");
    const std::string view = mount.view("file");
    const UniqueFd directory = open_file(mount.mountpoint(), O_RDONLY | O_DIRECTORY);
    const auto listed_now = [&] { return names_in(listing(mount.mountpoint())).contains("file"); };
    for (int round = 0; round < 10; ++round) {
        CAPTURE(round);
        CHECK(there(view) == "ENOENT");
        CHECK(opened(view, O_RDWR) == "ENOENT");
        CHECK_FALSE(listed_now());
        CHECK(answer(::unlink(view.c_str())) == "ENOENT");

        make_file(raw, "one");
        CHECK(answer(::faccessat(directory.get(), "file", F_OK, 0)) == "0");
        CHECK(listed_now());
        CHECK(opened(view, O_RDWR | O_CREAT | O_EXCL) == "EEXIST");
        CHECK(answer(::mkdir(view.c_str(), 0755)) == "EEXIST");
        CHECK(size_of(view) == 3);

        must(::chmod(raw.c_str(), 0600), "chmod");
        CHECK(rights(view) == "EACCES EACCES");
        must(::chmod(raw.c_str(), 0604), "chmod");
        CHECK(rights(view) == "0 EACCES");
        must(::chown(raw.c_str(), nobody, nobody), "chown");
        CHECK(rights(view) == "0 0");
        CHECK(status(view).st_uid == nobody);

        // Whoever has the old one keeps it; who comes now gets the new one.
        const UniqueFd old = open_file(view, O_RDONLY);
        CHECK(words_of(old.get()) == "one");
        make_file(mount.raw("new"), "another");
        move(mount.raw("new"), raw);
        const UniqueFd fresh = open_file(view, O_RDONLY);
        CHECK(words_of(fresh.get()) == "another");
        CHECK(words_of(old.get()) == "one");
        CHECK(read_all(old.get()) == "one");
        CHECK(status(old.get()).st_nlink == 0);
        CHECK(status(old.get()).st_ino != status(fresh.get()).st_ino);
        CHECK(status(view).st_ino == status(fresh.get()).st_ino);
        CHECK(rights(view) == "0 EACCES");

        must(::link(raw.c_str(), mount.raw("twin").c_str()), "link");
        CHECK(status(view).st_nlink == 2);
        CHECK(status(mount.view("twin")).st_ino == status(view).st_ino);
        must(::unlink(raw.c_str()), "unlink");
        CHECK(there(view) == "ENOENT");
        CHECK(status(mount.view("twin")).st_nlink == 1);
        must(::symlink("twin", raw.c_str()), "symlink");
        CHECK(read_all(view) == "another");
        must(::unlink(raw.c_str()), "unlink");
        must(::unlink(mount.raw("twin").c_str()), "unlink");

        must(::mkdir(raw.c_str(), 0700), "mkdir");
        CHECK(opened(view, O_RDONLY | O_DIRECTORY) == "0");
        CHECK(rights(view + "/.") == "EACCES EACCES");
        must(::rmdir(raw.c_str()), "rmdir");
        must(::mkfifo(raw.c_str(), 0644), "mkfifo");
        CHECK(S_ISFIFO(status(view).st_mode));
        must(::unlink(raw.c_str()), "unlink");
    }
}

TEST_CASE("a name that is replaced again and again leads to one file or the other, and never nowhere") {
    const ViewMount mount({"max_size=64K", "stat=real"});
    make_file(mount.raw("file"), std::string(10, 'a'));
    std::atomic<bool> over = false;
    std::thread replacing([&] {
        for (unsigned i = 0; !over; ++i) {
            make_file(mount.raw("new"), std::string(10 + i % 3 * 5000, static_cast<char>('a' + i % 3)));
            move(mount.raw("new"), mount.raw("file"));
        }
    });
    for (int i = 0; i < 1000; ++i) {
        const UniqueFd file(::open(mount.view("file").c_str(), O_RDONLY | O_CLOEXEC));
        CHECK(file);
        if (!file) break;
        const std::string content = read_all(file.get());
        const std::size_t size = content.empty() ? 0 : 10 + static_cast<std::size_t>(content[0] - 'a') * 5000;
        CHECK(content == std::string(size, content.empty() ? '\0' : content[0]));
        const Mapping mapping(file.get(), 16 * KiB);
        CHECK(difference(mapping.bytes(), padded(content, 16 * KiB)) == "");
        struct stat found {};
        CHECK(::stat(mount.view("file").c_str(), &found) == 0);
    }
    over = true;
    replacing.join();
}

TEST_CASE("a working directory that is renamed, replaced or removed in the source") {
    const ViewMount mount({"max_size=1M"});
    must(::mkdir(mount.raw("here").c_str(), 0755), "mkdir");
    make_file(mount.raw("here/file"), "old");
    const auto inside = [&](const std::function<std::string()>& question) {
        const UniqueFd before = open_file(".", O_PATH | O_DIRECTORY);
        must(::chdir(mount.view("here").c_str()), "chdir");
        std::string said;
        try {
            said = question();
        } catch (const std::exception& failure) {
            said = failure.what();
        }
        must(::fchdir(before.get()), "fchdir");
        return said;
    };
    CHECK(inside([&] {
              move(mount.raw("here"), mount.raw("elsewhere"));
              must(::mkdir(mount.raw("here").c_str(), 0755), "mkdir");
              make_file(mount.raw("here/file"), "new");
              return in_turn({read_all("file"), read_all(mount.view("here/file")), read_all("../here/file"),
                              there(mount.view("elsewhere/file"))});
          }) == "old new new 0");
    CHECK(inside([&] {
              make_file(mount.view("here/second"));
              must(::unlink(mount.raw("here/file").c_str()), "unlink");
              must(::unlink(mount.raw("here/second").c_str()), "unlink");
              must(::rmdir(mount.raw("here").c_str()), "rmdir");
              return in_turn({there("file"), opened("new", O_RDWR | O_CREAT), answer(::mkdir("new", 0755)),
                              there(mount.view("here")), opened(".", O_RDONLY)});
          }) == "ENOENT ENOENT ENOENT ENOENT 0");
    must(::mkdir(mount.raw("here").c_str(), 0755), "mkdir");
    CHECK(there(mount.view("here")) == "0");
    CHECK(opened(mount.view("here/file"), O_RDWR | O_CREAT) == "0");
}

TEST_CASE("names of every length and of every byte") {
    Parity parity(plain_like);
    std::string all;
    for (int byte = 1; byte < 256; ++byte) {
        if (byte != '/') all += static_cast<char>(byte);
    }
    std::vector<std::string> names = {
        all, all + "n", "...", "..n", " ", "\n", "\\", "-rf", std::string(255, 'n'), std::string(254, '\xff')};
    for (const char byte : all) names.push_back(std::string("name ") + byte);
    parity.same("a directory", [](auto& dir) { return answer(::mkdir((dir + "/names").c_str(), 0755)); });
    for (const std::string& name : names) {
        const bool is_long = name.size() > 250;
        parity.same("a file of " + std::to_string(name.size()) + " bytes", [&](auto& dir) {
            const std::string path = dir + "/names/" + name;
            std::string said = in_turn({opened(path, O_RDWR | O_CREAT | O_EXCL), there(path)});
            if (!is_long) said += in_turn({answer(::symlink(name.c_str(), (path + "l").c_str())), there(path + "l")});
            return said;
        });
    }
    const std::string found = parity.same("a listing", [](auto& dir) { return listed(dir + "/names"); });
    CHECK(listed(parity.mount().source() + "/names") == found);
    CHECK(static_cast<std::size_t>(std::count(found.begin(), found.end(), '\n')) > 2 * names.size() - 10);
    parity.same_trees();
    for (const std::string& name : names) {
        parity.same("rename and unlink", [&](auto& dir) {
            const std::string path = dir + "/names/" + name;
            return in_turn({renamed(path, dir + "/names/moved"), renamed(dir + "/names/moved", path),
                            answer(::unlink(path.c_str())), there(path)});
        });
    }
}

TEST_CASE("paths as long as they may be") {
    Parity parity(plain_like);
    parity.same("deeper than PATH_MAX", [](auto& dir) {
        const std::string name(250, 'd');
        UniqueFd at = open_file(dir, O_RDONLY | O_DIRECTORY);
        for (int depth = 0; depth < 30; ++depth) {
            must(::mkdirat(at.get(), name.c_str(), 0755), "mkdirat");
            at = UniqueFd(must(::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), "openat"));
        }
        const UniqueFd file(must(::openat(at.get(), "file", O_RDWR | O_CREAT | O_CLOEXEC, 0644), "openat"));
        write_at(file.get(), 0, "deep");
        std::string path = dir;
        std::string said;
        for (int depth = 0; depth < 30; ++depth) {
            path += "/" + name;
            said += there(path) + " ";
        }
        return said + read_all(file.get());
    });
}

TEST_CASE("hard links in several directories are one inode, one view and one V") {
    const ViewMount mount({"max_size=64K"});
    must(::mkdir(mount.raw("directory").c_str(), 0755), "mkdir");
    make_file(mount.raw("one"), pattern(0, 5000));
    must(::link(mount.raw("one").c_str(), mount.raw("directory/two").c_str()), "link");
    const UniqueFd one = open_file(mount.view("one"), O_RDWR);
    const UniqueFd two = open_file(mount.view("directory/two"), O_RDWR);
    CHECK(status(one.get()).st_ino == status(two.get()).st_ino);
    CHECK(status(one.get()).st_nlink == 2);
    // Made through the mount, by the name and in the source: the same inode.
    must(::link(mount.view("directory/two").c_str(), mount.view("three").c_str()), "link");
    CHECK(status(mount.view("three")).st_ino == status(one.get()).st_ino);
    CHECK(status(mount.view("one")).st_nlink == 3);

    const Mapping through_one(one.get(), 64 * KiB, PROT_READ | PROT_WRITE);
    const Mapping through_two(two.get(), 64 * KiB, PROT_READ | PROT_WRITE);
    CHECK(through_one.store(10, "by one") == 6);
    CHECK(through_two.bytes(10, 6) == "by one");
    CHECK(through_two.store(4990, "by two") == 6);
    CHECK(through_one.bytes(4990, 6) == "by two");
    // Past the end: seen by both, kept by none.
    CHECK(through_one.store(20000, "past") == 4);
    CHECK(through_two.bytes(20000, 4) == "past");
    CHECK(through_two.sync() == 0);
    CHECK(::fsync(one.get()) == 0);
    std::string wanted = pattern(0, 5000);
    wanted.replace(10, 6, "by one").replace(4990, 6, "by two");
    CHECK(difference(read_all(mount.raw("directory/two")), wanted) == "");
    CHECK(difference(through_one.bytes(), padded(wanted, 64 * KiB)) == "");

    // V grows for all of them, and stays.
    must(::truncate(mount.view("three").c_str(), 100 * KiB), "truncate");
    for (const std::string name : {"one", "directory/two", "three"}) CHECK(size_of(mount.view(name)) == 128 * KiB);
    must(::truncate(mount.view("one").c_str(), 0), "truncate");
    for (const std::string name : {"one", "directory/two", "three"}) CHECK(size_of(mount.view(name)) == 128 * KiB);
    must(::unlink(mount.raw("one").c_str()), "unlink");
    must(::unlink(mount.view("three").c_str()), "unlink");
    CHECK(there(mount.view("one")) == "ENOENT");
    CHECK(status(mount.view("directory/two")).st_nlink == 1);
    write_at(two.get(), 0, "still");
    CHECK(through_one.bytes(0, 5) == "still");
}

TEST_CASE("file systems and bind mounts inside the source are entered") {
    Parity parity(plain_like);
    mount_inside(parity);
    const std::vector<std::string> places = {"", "/submount", "/bound", "/origin", "/submount/directory"};
    for (const std::string& place : places)
        parity.same("a listing of " + place, [&](auto& dir) { return listed(dir + place); });
    for (const std::string name : {"/file", "/submount/file", "/bound/file", "/origin/file"})
        parity.same("content of " + name, [&](auto& dir) { return read_all(dir + name); });
    parity.same("what stands at the mount points cannot go", [](auto& dir) {
        std::string said;
        for (const std::string name : {"/submount", "/bound"}) {
            said += in_turn({answer(::rmdir((dir + name).c_str())), renamed(dir + name, dir + "/new"),
                             renamed(dir + "/directory", dir + name), answer(::unlink((dir + name).c_str())), ""});
        }
        return said;
    });
    parity.same("names do not go from one to the other", [&](auto& dir) {
        std::string said;
        for (const std::string& from : places) {
            for (const std::string& to : places) {
                const std::string file = dir + from + "/moving";
                static_cast<void>(opened(file, O_RDWR | O_CREAT));
                said += fmt::format("\n{} to {}: ", from, to) +
                        in_turn({answer(::link(file.c_str(), (dir + to + "/linked").c_str())),
                                 renamed(file, dir + to + "/moved"),
                                 renamed(dir + from + "/moving", dir + to + "/moved", RENAME_NOREPLACE)});
                for (const std::string name : {"/moving", "/linked", "/moved"}) {
                    ::unlink((dir + from + name).c_str());
                    ::unlink((dir + to + name).c_str());
                }
            }
        }
        return said;
    });
    parity.same("files and directories can be made there", [&](auto& dir) {
        std::string said;
        for (const std::string& place : places) {
            said += in_turn({opened(dir + place + "/new", O_RDWR | O_CREAT | O_EXCL),
                             answer(::mkdir((dir + place + "/new directory").c_str(), 0755)),
                             renamed(dir + place + "/new", dir + place + "/new directory/inside"),
                             answer(::unlink((dir + place + "/new directory/inside").c_str())),
                             answer(::rmdir((dir + place + "/new directory").c_str())), ""});
        }
        return said;
    });
    parity.same("a file that is bound at two places is one", [](auto& dir) {
        write_at(open_file(dir + "/origin/file", O_RDWR).get(), 0, "BOUND");
        return in_turn({read_all(dir + "/bound/file"), std::to_string(status(dir + "/bound/file").st_nlink)});
    });
    const ViewMount& mount = parity.mount();
    for (const std::string name : {"file", "submount/file", "bound/file"}) {
        const UniqueFd view = open_file(mount.view(name), O_RDWR);
        const Mapping mapping(view.get(), MiB);
        const UniqueFd raw = open_file(mount.raw(name), O_RDWR);
        resize(raw.get(), 0);
        write_at(raw.get(), 0, "changed");
        CHECK(::fsync(view.get()) == 0);
        CHECK(difference(mapping.bytes(), padded("changed", MiB)) == "");
    }
}

TEST_CASE("files of two file systems never have one number") {
    // Whoever compares st_dev and st_ino (tar, cp, rsync, find) takes two names of the same numbers for one file.
    const Parity parity(plain_like);
    mount_inside(parity);
    const ViewMount& mount = parity.mount();
    std::map<std::pair<dev_t, ino_t>, std::string> raw;
    std::map<std::pair<dev_t, ino_t>, std::string> seen;
    std::set<ino_t> raw_numbers;
    std::vector<std::string> same;
    bool two_have_one_number = false;
    for (int i = 0; i < 60; ++i) {
        for (const std::string place : {"", "submount/", "submount/directory/"}) {
            const std::string name = fmt::format("{}file {}", place, i);
            make_file(mount.raw(name));
            const struct stat below = status(mount.raw(name));
            const struct stat above = status(mount.view(name));
            two_have_one_number = two_have_one_number || !raw_numbers.insert(below.st_ino).second;
            REQUIRE(raw.insert({{below.st_dev, below.st_ino}, name}).second);
            const auto [other, is_new] = seen.insert({{above.st_dev, above.st_ino}, name});
            if (!is_new) same.push_back(fmt::format("{} and {}", other->second, name));
        }
    }
    CHECK_MESSAGE(same.empty(), same.size(),
                  " pairs of files have one device and number: ", same.empty() ? "" : same[0]);
    CHECK(two_have_one_number);  // or this test shows nothing
}

TEST_CASE("a file system that is mounted and unmounted in the source while it is looked at") {
    const ViewMount mount({"max_size=1M"});
    must(::mkdir(mount.raw("place").c_str(), 0755), "mkdir");
    make_file(mount.raw("place/file"), "below");
    for (int round = 0; round < 3; ++round) {
        CHECK(read_all(mount.view("place/file")) == "below");
        mount_tmpfs(mount.raw("place"));
        CHECK(there(mount.view("place/file")) == "ENOENT");
        make_file(mount.raw("place/file"), "above");
        CHECK(read_all(mount.view("place/file")) == "above");
        // The server may hold files of it for those who have looked at them.
        must(::umount2(mount.raw("place").c_str(), MNT_DETACH), "umount");
    }
    CHECK(read_all(mount.view("place/file")) == "below");
}

TEST_CASE("a directory of 100,000 names is listed whole while others come and go") {
    const ViewMount mount({"max_size=1M"});
    constexpr int count = 100'000;
    must(::mkdir(mount.raw("large").c_str(), 0755), "mkdir");
    const UniqueFd large = open_file(mount.raw("large"), O_RDONLY | O_DIRECTORY);
    const auto make = [&](const std::string& name) {
        must(::mknodat(large.get(), name.c_str(), S_IFREG | 0644, 0), "mknodat");
    };
    for (int i = 0; i < count; ++i) make(fmt::format("stays {}", i));
    std::atomic<bool> over = false;
    std::atomic<unsigned> changes = 0;
    std::thread changing([&] {
        for (unsigned i = 0; !over; ++i) {
            const std::string name = fmt::format("comes and goes {}", i % 50);
            make(name);
            must(::renameat(large.get(), name.c_str(), large.get(), "moved"), "renameat");
            must(::unlinkat(large.get(), "moved", 0), "unlinkat");
            ++changes;
        }
    });
    REQUIRE(eventually([&] { return changes > 0; }));
    const unsigned before = changes;
    const auto names = names_in(listing(mount.view("large")));
    const unsigned after = changes;
    over = true;
    changing.join();
    CHECK(after > before + 10);
    int found = 0;
    for (const auto& [name, times] : names) {
        if (!name.starts_with("stays ")) continue;
        ++found;
        if (times != 1) FAIL_CHECK(name, " is listed ", times, " times");
    }
    CHECK(found == count);
    const auto rest = names_in(listing(mount.view("large")));
    CHECK(rest.size() == count + 2);
}

TEST_CASE("telldir, seekdir and rewinddir") {
    Parity parity(plain_like);
    parity.same("some names", [](auto& dir) {
        must(::mkdir((dir + "/names").c_str(), 0755), "mkdir");
        for (int i = 0; i < 700; ++i) make_file(fmt::format("{}/names/{}", dir, i));
        return std::string();
    });
    parity.same("each place leads back to the name that follows it", [](auto& dir) {
        const Listing entries = listing(dir + "/names");
        std::vector<std::pair<long, std::string>> places;
        for (;;) {
            const long place = ::telldir(entries.get());
            const dirent* const entry = ::readdir(entries.get());
            if (entry == nullptr) break;
            places.emplace_back(place, entry->d_name);
        }
        int wrong = 0;
        for (std::size_t i = 0; i < places.size(); ++i) {
            const auto& [place, name] = places[i * 389 % places.size()];  // in some other order
            ::seekdir(entries.get(), place);
            const dirent* const entry = ::readdir(entries.get());
            if (entry == nullptr || name != entry->d_name) ++wrong;
        }
        return fmt::format("{} places, {} wrong", places.size(), wrong);
    });
    parity.same("a place is still good when the names around it have gone", [](auto& dir) {
        const Listing entries = listing(dir + "/names");
        std::set<std::string> before;
        for (int i = 0; i < 300; ++i) before.insert(::readdir(entries.get())->d_name);
        const long place = ::telldir(entries.get());
        for (int i = 0; i < 700; i += 2) must(::unlink(fmt::format("{}/names/{}", dir, i).c_str()), "unlink");
        ::seekdir(entries.get(), place);
        int twice = 0;
        std::set<std::string> after;
        while (const dirent* entry = ::readdir(entries.get())) {
            if (before.contains(entry->d_name)) ++twice;
            after.insert(entry->d_name);
        }
        int missing = 0;
        for (int i = 1; i < 700; i += 2) {
            if (!before.contains(std::to_string(i)) && !after.contains(std::to_string(i))) ++missing;
        }
        return fmt::format("{} twice, {} missing", twice, missing);
    });
    parity.same("rewinddir sees what has come", [](auto& dir) {
        const Listing entries = listing(dir + "/names");
        const std::size_t before = names_in(entries).size();
        for (int i = 0; i < 10; ++i) make_file(fmt::format("{}/names/new {}", dir, i));
        const std::size_t at_the_end = names_in(entries).size();
        ::rewinddir(entries.get());
        return fmt::format("{} {} {}", before, at_the_end, names_in(entries).size());
    });
    parity.same("two descriptors, each with a place of its own", [](auto& dir) {
        const Listing one = listing(dir + "/names");
        const Listing two = listing(dir + "/names");
        for (int i = 0; i < 100; ++i) ::readdir(one.get());
        const std::size_t rest = names_in(one).size();
        return fmt::format("{} {}", rest, names_in(two).size());
    });
}

TEST_SUITE_END();
