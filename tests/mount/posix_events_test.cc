// inotify(7): who watches the mount hears of what is done through it as he would on a plain tmpfs.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/xattr.h>

#include <array>
#include <cstdio>

#include "tests/mount/files.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct Action {
    std::string name;
    std::function<void(const std::string& dir)> take;
};

std::string path(const std::string& dir, const char* name) {
    return dir + "/" + name;
}

const std::vector<Action> actions = {
    {"create", [](auto& dir) { open_file(path(dir, "new"), O_RDWR | O_CREAT | O_EXCL); }},
    {"open and close", [](auto& dir) { open_file(path(dir, "file"), O_RDONLY); }},
    {"write", [](auto& dir) { write_at(open_file(path(dir, "file"), O_WRONLY).get(), 0, "abc"); }},
    {"read", [](auto& dir) { read_all(path(dir, "file")); }},
    {"truncate", [](auto& dir) { must(::truncate(path(dir, "file").c_str(), 1), "truncate"); }},
    {"open with O_TRUNC", [](auto& dir) { open_file(path(dir, "file"), O_RDWR | O_TRUNC); }},
    {"fallocate",
     [](auto& dir) { must(::fallocate(open_file(path(dir, "file"), O_RDWR).get(), 0, 0, 9000), "fallocate"); }},
    {"chmod", [](auto& dir) { must(::chmod(path(dir, "file").c_str(), 0600), "chmod"); }},
    {"set the times",
     [](auto& dir) { must(::utimensat(AT_FDCWD, path(dir, "file").c_str(), nullptr, 0), "utimensat"); }},
    {"set an attribute",
     [](auto& dir) { must(::setxattr(path(dir, "file").c_str(), "user.one", "1", 1, 0), "setxattr"); }},
    {"link", [](auto& dir) { must(::link(path(dir, "file").c_str(), path(dir, "twin").c_str()), "link"); }},
    {"unlink", [](auto& dir) { must(::unlink(path(dir, "file").c_str()), "unlink"); }},
    {"rename", [](auto& dir) { must(std::rename(path(dir, "file").c_str(), path(dir, "new").c_str()), "rename"); }},
    {"rename over a file",
     [](auto& dir) { must(std::rename(path(dir, "file").c_str(), path(dir, "other").c_str()), "rename"); }},
    {"rename away",
     [](auto& dir) { must(std::rename(path(dir, "file").c_str(), path(dir, "directory/new").c_str()), "rename"); }},
    {"exchange",
     [](auto& dir) {
         must(::renameat2(AT_FDCWD, path(dir, "file").c_str(), AT_FDCWD, path(dir, "other").c_str(), RENAME_EXCHANGE),
              "renameat2");
     }},
    {"mkdir", [](auto& dir) { must(::mkdir(path(dir, "new").c_str(), 0755), "mkdir"); }},
    {"rmdir", [](auto& dir) { must(::rmdir(path(dir, "directory").c_str()), "rmdir"); }},
    {"symlink", [](auto& dir) { must(::symlink("target", path(dir, "new").c_str()), "symlink"); }},
    {"list", [](auto& dir) { tree(path(dir, "directory")); }},
    {"unlink of a file that is open",
     [](auto& dir) {
         const UniqueFd file = open_file(path(dir, "file"), O_RDWR);
         must(::unlink(path(dir, "file").c_str()), "unlink");
         write_at(file.get(), 0, "abc");
     }},
};

// The events that wait, one in a line.
std::string events(int fd) {
    alignas(inotify_event) std::array<char, 8192> buffer{};
    std::string said;
    for (;;) {
        const ssize_t length = ::read(fd, buffer.data(), buffer.size());
        if (length <= 0) return said;
        for (ssize_t at = 0; at < length;) {
            const auto* const event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
            said += fmt::format("{} {:x} {}\n", event->wd, event->mask, event->len > 0 ? event->name : "");
            at += static_cast<ssize_t>(sizeof *event + event->len);
        }
    }
}

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("inotify tells of what is done through the mount") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const Action& action : actions) {
        trials.push_back({action.name,
                          [](const std::string& dir) {
                              make_file(dir + "/file", "content");
                              make_file(dir + "/other", "other");
                              must(::mkdir((dir + "/directory").c_str(), 0755), "mkdir");
                              for (const std::string name : {"/file", "/other", "/directory"})
                                  must(::chown((dir + name).c_str(), nobody, nobody), "chown");
                          },
                          [&action](const std::string& dir) {
                              const UniqueFd watch(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
                              must(::inotify_add_watch(watch.get(), dir.c_str(), IN_ALL_EVENTS), "inotify_add_watch");
                              must(::inotify_add_watch(watch.get(), (dir + "/file").c_str(), IN_ALL_EVENTS),
                                   "inotify_add_watch");
                              must(::inotify_add_watch(watch.get(), (dir + "/directory").c_str(), IN_ALL_EVENTS),
                                   "inotify_add_watch");
                              action.take(dir);
                              return events(watch.get());
                          }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_SUITE_END();
