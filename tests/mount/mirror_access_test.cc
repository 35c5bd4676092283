// The mirror: who may do what, and whose the new files are. The daemon is root, its callers are not.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdio>

#include "tests/mount/files.h"
#include "tests/mount/parity.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::string opened(const std::string& path, int flags, mode_t mode = 0644) {
    const UniqueFd file(::open(path.c_str(), flags | O_CLOEXEC, mode));
    return file ? "0" : answer(-1);
}

std::string mode_of(const std::string& path) {
    return fmt::format("{:o}", status(path).st_mode);
}

// A place where everybody may write, some files of root's and some of nobody's.
std::string prepared(const std::string& dir) {
    ::umask(022);
    for (const std::string name : {"/open", "/closed", "/sticky", "/secret", "/group"})
        must(::mkdir((dir + name).c_str(), 0755), "mkdir");
    must(::chmod((dir + "/open").c_str(), 0777), "chmod");
    must(::chmod((dir + "/sticky").c_str(), 01777), "chmod");
    must(::chmod((dir + "/secret").c_str(), 0700), "chmod");
    must(::chown((dir + "/group").c_str(), 0, 55), "chown");
    must(::chmod((dir + "/group").c_str(), 02777), "chmod");
    for (const std::string name : {"/open/roots", "/closed/roots", "/sticky/roots", "/secret/roots"})
        make_file(dir + name, "root's");
    make_file(dir + "/open/private", "root's");
    must(::chmod((dir + "/open/private").c_str(), 0600), "chmod");
    make_file(dir + "/open/shared", "root's");
    must(::chmod((dir + "/open/shared").c_str(), 0666), "chmod");
    make_file(dir + "/closed/nobodys", "nobody's");
    must(::chown((dir + "/closed/nobodys").c_str(), nobody, nobody), "chown");
    return {};
}

struct Named {
    std::string name;
    Step step;
};

const Named attempts[] = {
    {"read what all may read", [](auto& dir) { return read_all(dir + "/open/roots"); }},
    {"read what root alone may read", [](auto& dir) { return opened(dir + "/open/private", O_RDONLY); }},
    {"write what root alone may write", [](auto& dir) { return opened(dir + "/open/roots", O_WRONLY); }},
    {"write what all may write",
     [](auto& dir) { return answer(::write(open_file(dir + "/open/shared", O_WRONLY).get(), "abc", 3)); }},
    {"write one's own",
     [](auto& dir) { return answer(::write(open_file(dir + "/closed/nobodys", O_WRONLY).get(), "abc", 3)); }},
    {"truncate what root alone may write",
     [](auto& dir) { return answer(::truncate((dir + "/open/roots").c_str(), 1)); }},
    {"truncate what all may write", [](auto& dir) { return answer(::truncate((dir + "/open/shared").c_str(), 1)); }},
    {"create", [](auto& dir) { return opened(dir + "/open/mine", O_RDWR | O_CREAT | O_EXCL, 0640); }},
    {"create without any permission, and write",
     [](auto& dir) {
         return answer(::write(open_file(dir + "/open/blind", O_RDWR | O_CREAT | O_EXCL, 0).get(), "abc", 3));
     }},
    {"open that again", [](auto& dir) { return opened(dir + "/open/blind", O_RDONLY); }},
    {"create where only root may", [](auto& dir) { return opened(dir + "/closed/mine", O_RDWR | O_CREAT | O_EXCL); }},
    {"create in a set-group-id directory",
     [](auto& dir) { return opened(dir + "/group/mine", O_RDWR | O_CREAT | O_EXCL); }},
    {"mkdir", [](auto& dir) { return answer(::mkdir((dir + "/open/directory").c_str(), 0755)); }},
    {"mkdir in a set-group-id directory",
     [](auto& dir) { return answer(::mkdir((dir + "/group/directory").c_str(), 0755)); }},
    {"mkdir where only root may", [](auto& dir) { return answer(::mkdir((dir + "/closed/directory").c_str(), 0755)); }},
    {"symlink", [](auto& dir) { return answer(::symlink("target", (dir + "/open/link").c_str())); }},
    {"symlink where only root may",
     [](auto& dir) { return answer(::symlink("target", (dir + "/closed/link").c_str())); }},
    {"link one's own",
     [](auto& dir) { return answer(::link((dir + "/open/mine").c_str(), (dir + "/open/twin").c_str())); }},
    {"unlink where only root may", [](auto& dir) { return answer(::unlink((dir + "/closed/nobodys").c_str())); }},
    {"unlink root's in an open directory", [](auto& dir) { return answer(::unlink((dir + "/open/private").c_str())); }},
    {"unlink root's in a sticky directory",
     [](auto& dir) { return answer(::unlink((dir + "/sticky/roots").c_str())); }},
    {"rename root's in a sticky directory",
     [](auto& dir) { return answer(std::rename((dir + "/sticky/roots").c_str(), (dir + "/sticky/new").c_str())); }},
    {"enter what root alone may enter",
     [](auto& dir) { return answer(::access((dir + "/secret/roots").c_str(), F_OK)); }},
    {"list what root alone may list", [](auto& dir) { return opened(dir + "/secret", O_RDONLY | O_DIRECTORY); }},
    {"chmod one's own", [](auto& dir) { return answer(::chmod((dir + "/open/mine").c_str(), 0600)); }},
    {"chmod root's", [](auto& dir) { return answer(::chmod((dir + "/open/shared").c_str(), 0600)); }},
    {"chmod of one's own to a foreign group loses the set-group-id bit",
     [](auto& dir) { return answer(::chmod((dir + "/group/mine").c_str(), 02755)); }},
    {"give one's own away", [](auto& dir) { return answer(::chown((dir + "/open/mine").c_str(), 0, 0)); }},
    {"take root's", [](auto& dir) { return answer(::chown((dir + "/open/shared").c_str(), nobody, nobody)); }},
    {"set the times of one's own",
     [](auto& dir) {
         const timespec set[] = {{1, 2}, {3, 4}};
         return answer(::utimensat(AT_FDCWD, (dir + "/open/mine").c_str(), set, 0));
     }},
    {"set the times of root's to some time",
     [](auto& dir) {
         const timespec set[] = {{1, 2}, {3, 4}};
         return answer(::utimensat(AT_FDCWD, (dir + "/open/shared").c_str(), set, 0));
     }},
    {"set the times of root's to now",
     [](auto& dir) { return answer(::utimensat(AT_FDCWD, (dir + "/open/shared").c_str(), nullptr, 0)); }},
    {"access by access(2)",
     [](auto& dir) {
         std::string all;
         for (const std::string name : {"/open/roots", "/open/shared", "/closed/nobodys", "/closed", "/secret"}) {
             for (const int mode : {R_OK, W_OK, X_OK}) all += answer(::access((dir + name).c_str(), mode)) + " ";
         }
         return all;
     }},
};

}  // namespace

TEST_SUITE_BEGIN("access");

TEST_CASE("another user may do what the modes allow, and owns what it creates") {
    Parity parity;
    parity.same("the place", prepared);
    for (const Named& attempt : attempts) parity.same_for(nobody, attempt.name, attempt.step);
    parity.same_trees();
    CHECK(status(parity.mount().raw("open/mine")).st_uid == nobody);
    CHECK(status(parity.mount().raw("open/mine")).st_gid == nobody);
    CHECK(status(parity.mount().raw("group/mine")).st_gid == 55);
}

TEST_CASE("the same attempts by root") {
    Parity parity;
    parity.same("the place", prepared);
    for (const Named& attempt : attempts) parity.same(attempt.name, attempt.step);
    parity.same_trees();
}

TEST_CASE("a write by another user strips the set-user-id bit") {
    Parity parity;
    parity.same("a program", [](auto& dir) {
        make_file(dir + "/program", "abc");
        must(::chmod((dir + "/program").c_str(), 06777), "chmod");
        return mode_of(dir + "/program");
    });
    parity.same_for(nobody, "write",
                    [](auto& dir) { return answer(::write(open_file(dir + "/program", O_WRONLY).get(), "x", 1)); });
    parity.same("its mode", [](auto& dir) { return mode_of(dir + "/program"); });
    parity.same("set again", [](auto& dir) { return answer(::chmod((dir + "/program").c_str(), 06777)); });
    parity.same_for(nobody, "truncate", [](auto& dir) { return answer(::truncate((dir + "/program").c_str(), 1)); });
    parity.same("its mode", [](auto& dir) { return mode_of(dir + "/program"); });
}

TEST_CASE("an open descriptor keeps its rights when the mode changes") {
    Parity parity;
    parity.same("a file", [](auto& dir) {
        make_file(dir + "/file", "abc");
        must(::chmod((dir + "/file").c_str(), 0666), "chmod");
        must(::chmod(dir.c_str(), 0777), "chmod");
        return std::string();
    });
    parity.same_for(nobody, "write after chmod", [](auto& dir) {
        const UniqueFd file = make_file(dir + "/mine", "abc");
        must(::fchmod(file.get(), 0), "fchmod");
        std::string all = answer(::pwrite(file.get(), "def", 3, 3));
        std::string content(6, ' ');
        all += answer(::pread(file.get(), content.data(), content.size(), 0)) + content;
        all += answer(::ftruncate(file.get(), 1));
        return all;
    });
    parity.same_trees();
}

TEST_SUITE_END();
