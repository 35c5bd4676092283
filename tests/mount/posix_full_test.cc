// A file system without room: what fails, and how much of a write is done.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include "tests/mount/eventually.h"
#include "tests/mount/files.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// A small file system at the trial's own directory in the source and the plain directory: both mount it by themselves,
// since a mount inside the view is not one in the source.
void mount_small(const Parity& parity, const char* options) {
    for (const std::string& top : {parity.mount().source(), parity.mount().plain()}) {
        must(::mkdir((top + "/small").c_str(), 0755), "mkdir");
        must(::mount("tmpfs", (top + "/small").c_str(), "tmpfs", MS_NOSUID, options), "mount");
        must(::chmod((top + "/small").c_str(), 0777), "chmod");
    }
}

std::string made(const std::string& path) {
    return opened(path, O_RDWR | O_CREAT | O_EXCL);
}

// Where something has been removed. The kernel may tell the server of that after later requests (fuse_dev_do_read).
std::string made_in_its_room(const std::string& path) {
    std::string said;
    static_cast<void>(eventually([&] { return (said = made(path)) != "ENOSPC"; }));
    return said;
}

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("no room for data") {
    for (const User& user : {root, stranger}) {
        Parity parity(plain_like);
        mount_small(parity, "huge=never,size=1M");
        const auto same = [&](const std::string& name, const Step& step) {
            const auto asked = [&](const std::string& top) {
                return as_user(user, [&] { return step(top + "/small"); });
            };
            const std::string wanted = asked(parity.mount().plain());
            const std::string got = asked(parity.mount().mountpoint());
            CHECK_MESSAGE(got == wanted, name, ", by ", user.name, ": the mount says ", got, ", a plain directory ",
                          wanted);
            return wanted;
        };
        const std::string bytes = pattern(0, 5 * MiB);
        const std::string said = same("a large write", [&](auto& dir) {
            const UniqueFd file = open_file(dir + "/file", O_RDWR | O_CREAT);
            return in_turn(
                {answer(::pwrite(file.get(), bytes.data(), 700 * KiB, 0)),
                 answer(::pwrite(file.get(), bytes.data(), 700 * KiB, 700 * KiB)), std::to_string(size_of(file.get())),
                 answer(::pwrite(file.get(), bytes.data(), 100, static_cast<off_t>(2 * MiB))),
                 answer(::pwrite(file.get(), bytes.data(), 100, 5000)), std::to_string(size_of(file.get()))});
        });
        CHECK(said.find("ENOSPC") != std::string::npos);
        same("what still can be done", [](auto& dir) {
            const std::string path = dir + "/file";
            return in_turn({made(dir + "/empty"), answer(::mkdir((dir + "/directory").c_str(), 0755)),
                            answer(::symlink("short", (dir + "/link").c_str())),
                            answer(::symlink(std::string(3000, 't').c_str(), (dir + "/long").c_str())),
                            answer(::link(path.c_str(), (dir + "/twin").c_str())), answer(::chmod(path.c_str(), 0666)),
                            answer(::fallocate(open_file(path, O_RDWR).get(), 0, static_cast<off_t>(2 * MiB), 4096)),
                            answer(::truncate(path.c_str(), 3 * MiB)), answer(::truncate(path.c_str(), 300 * KiB))});
        });
        same("an append", [&](auto& dir) {
            const UniqueFd file = open_file(dir + "/file", O_WRONLY | O_APPEND);
            return in_turn({answer(::write(file.get(), bytes.data(), 5 * MiB)),
                            answer(::write(file.get(), bytes.data(), 1)),
                            std::to_string(status(dir + "/file").st_size)});
        });
        same("the content",
             [](auto& dir) { return fmt::format("{:x}", std::hash<std::string>()(read_all(dir + "/file"))); });
        same("room again", [&](auto& dir) {
            return in_turn({answer(::truncate((dir + "/file").c_str(), 0)),
                            std::to_string(status(dir + "/file").st_blocks),
                            answer(::write(open_file(dir + "/empty", O_WRONLY).get(), bytes.data(), 900 * KiB))});
        });
    }
}

TEST_CASE("no room for names") {
    for (const User& user : {root, stranger}) {
        Parity parity(plain_like);
        mount_small(parity, "huge=never,size=1M,nr_inodes=10");
        const auto step = [](const std::string& top) {
            const std::string dir = top + "/small";
            std::string said;
            for (int i = 0; i < 12; ++i) said += made(fmt::format("{}/file {}", dir, i)) + " ";
            const std::string path = dir + "/file 0";
            return said + in_turn({answer(::mkdir((dir + "/directory").c_str(), 0755)),
                                   answer(::mkfifo((dir + "/fifo").c_str(), 0644)),
                                   answer(::symlink("target", (dir + "/link").c_str())),
                                   answer(::link(path.c_str(), (dir + "/twin").c_str())),
                                   answer(::rename(path.c_str(), (dir + "/renamed").c_str())),
                                   answer(::setxattr((dir + "/file 1").c_str(), "user.one", "1", 1, 0)),
                                   opened(dir, O_RDWR | O_TMPFILE), answer(::unlink((dir + "/file 2").c_str())),
                                   made_in_its_room(dir + "/again"), made(dir + "/more")});
        };
        const auto asked = [&](const std::string& top) { return as_user(user, [&] { return step(top); }); };
        const std::string wanted = asked(parity.mount().plain());
        CHECK(asked(parity.mount().mountpoint()) == wanted);
        CHECK(wanted.find("ENOSPC") != std::string::npos);
        parity.same_trees();
    }
}

TEST_SUITE_END();
