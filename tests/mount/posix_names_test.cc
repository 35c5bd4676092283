// Making, linking, renaming and removing names: every type of object, and who may.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <set>

#include "tests/mount/files.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

const User owner_of_directory{.name = "the directory's owner", .uid = 1000, .gid = 1000};
const User owner_of_file{.name = "the file's owner", .uid = 1001, .gid = 1001};
const User third{.name = "a third user", .uid = 1002, .gid = 1002};

void own(const std::string& path, const User& user) {
    must(::lchown(path.c_str(), user.uid, user.gid), "lchown");
}

std::string renamed(const std::string& from, const std::string& to, unsigned flags = 0) {
    return answer(::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags));
}

std::string number_of(const std::string& path) {
    struct stat found {};
    return ::lstat(path.c_str(), &found) == 0 ? std::to_string(found.st_ino) : answer(-1);
}

void make_full(const std::string& path) {
    must(::mkdir(path.c_str(), 0755), "mkdir");
    make_file(path + "/inside", "inside");
}

// What a name may stand for when something is renamed to it.
void make_either(const std::string& type, const std::string& path) {
    if (type == "full directory") return make_full(path);
    if (type != "nothing") make_object(type, path);
}

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("hard links to every type of object") {
    const Parity parity(plain_like);
    for (const User& user : {root, stranger, member, owner_of_file}) {
        std::vector<Trial> trials;
        for (const std::string& type : object_types) {
            for (const mode_t mode : {0644U, 0666U, 04777U}) {
                for (const User& owner : {root, owner_of_file}) {
                    trials.push_back({fmt::format("link to a {} {:o} of {}", type, mode, owner.name),
                                      [=](const std::string& dir) {
                                          make_object(type, dir + "/object");
                                          if (type != "link") must(::chmod((dir + "/object").c_str(), mode), "chmod");
                                          own(dir + "/object", owner);
                                          if (type != "link") must(::chmod((dir + "/object").c_str(), mode), "chmod");
                                      },
                                      [](const std::string& dir) {
                                          const std::string one = dir + "/object";
                                          const std::string two = dir + "/second";
                                          std::string said = answer(::link(one.c_str(), two.c_str()));
                                          said += " " + answer(::link(one.c_str(), two.c_str())) + " ";
                                          said += number_of(one) == number_of(two) ? "one object" : "no link";
                                          said += " " + answer(::unlink(one.c_str()));
                                          return said;
                                      }});
                }
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("linkat by descriptors") {
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const std::string& type : object_types) {
            trials.push_back(
                {"linkat of a " + type,
                 [=](const std::string& dir) {
                     make_object(type, dir + "/object");
                     must(::lchown((dir + "/object").c_str(), nobody, nobody), "lchown");
                 },
                 [](const std::string& dir) {
                     const UniqueFd found = open_file(dir + "/object", O_PATH | O_NOFOLLOW);
                     const std::string number = number_of(dir + "/object");
                     const std::string by_proc = fmt::format("/proc/self/fd/{}", found.get());
                     const auto to = [&](const std::string& name) { return dir + "/" + name; };
                     std::string said = answer(::linkat(found.get(), "", AT_FDCWD, to("1").c_str(), AT_EMPTY_PATH));
                     said += " " + answer(::linkat(found.get(), "", AT_FDCWD, to("2").c_str(), 0));
                     said += " " +
                             answer(::linkat(AT_FDCWD, by_proc.c_str(), AT_FDCWD, to("3").c_str(), AT_SYMLINK_FOLLOW));
                     said += " " + answer(::linkat(AT_FDCWD, by_proc.c_str(), AT_FDCWD, to("4").c_str(), 0));
                     said += " " + answer(::linkat(AT_FDCWD, by_proc.c_str(), AT_FDCWD, to("5").c_str(), 0x4000));
                     said += number_of(to("3")) == number ? " one object" : " no link";
                     said += " " + answer(::unlink(to("object").c_str()));
                     // What has no name any more cannot get one again.
                     for (const std::string name : {"1", "2", "3"}) ::unlink(to(name).c_str());
                     said += " " +
                             answer(::linkat(AT_FDCWD, by_proc.c_str(), AT_FDCWD, to("6").c_str(), AT_SYMLINK_FOLLOW));
                     return said;
                 }});
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("making every type of object, with modes and umasks") {
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const mode_t mask : {0U, 022U, 027U, 0777U}) {
            trials.push_back(
                {fmt::format("with umask {:o}", mask), nullptr, [mask](const std::string& dir) {
                     ::umask(mask);
                     std::string said;
                     for (const mode_t mode : {0U, 0644U, 0777U, 01777U, 02777U, 04777U, 07777U}) {
                         const std::string name = fmt::format("{}/{:o}", dir, mode);
                         said += opened(name + " file", O_WRONLY | O_CREAT | O_EXCL, mode) + " ";
                         said += answer(::mkdir((name + " directory").c_str(), mode)) + " ";
                         for (const mode_t type :
                              {0U, unsigned{S_IFREG}, unsigned{S_IFIFO}, unsigned{S_IFSOCK}, unsigned{S_IFCHR},
                               unsigned{S_IFBLK}, unsigned{S_IFDIR}, unsigned{S_IFLNK}, 0170000U, 0030000U}) {
                             const std::string node = fmt::format("{} type {:o}", name, type);
                             said += answer(::mknod(node.c_str(), type | mode, makedev(240, 3))) + " ";
                         }
                         said += "\n";
                     }
                     said += answer(::mknod((dir + "/zero").c_str(), S_IFCHR | 0600, makedev(0, 0))) + " ";
                     said += answer(::mknod((dir + "/large").c_str(), S_IFCHR | 0600, makedev(0xfff, 0xfffff)));
                     return said;
                 }});
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("making something where something is") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const std::string& type : object_types) {
        trials.push_back({"over a " + type,
                          [=](const std::string& dir) {
                              make_object(type, dir + "/object");
                              make_file(dir + "/file");
                          },
                          [](const std::string& dir) {
                              const std::string path = dir + "/object";
                              std::string said = answer(::mkdir(path.c_str(), 0755));
                              for (const mode_t mode : {S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK})
                                  said += " " + answer(::mknod(path.c_str(), mode | 0644, makedev(1, 3)));
                              said += " " + answer(::symlink("new target", path.c_str()));
                              said += " " + answer(::link((dir + "/file").c_str(), path.c_str()));
                              said += " " + opened(path, O_RDWR | O_CREAT | O_EXCL);
                              return said;
                          }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("sockets and fifos made through the mount can be used") {
    const Parity parity(plain_like);
    const std::vector<Trial> trials = {
        {"a socket", nullptr,
         [](const std::string& dir) {
             sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
             const std::string path = dir + "/socket";
             if (path.size() >= sizeof address.sun_path) return std::string("a path too long for a socket");
             path.copy(address.sun_path, path.size());
             const auto* const where = reinterpret_cast<const sockaddr*>(&address);
             const UniqueFd listening(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
             std::string said = answer(::bind(listening.get(), where, sizeof address)) + " ";
             said += answer(::listen(listening.get(), 1)) + " ";
             const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
             said += answer(::connect(client.get(), where, sizeof address)) + " ";
             const UniqueFd server(::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
             std::array<char, 3> bytes{};
             said += in_turn({answer(::write(client.get(), "abc", 3)), answer(::read(server.get(), bytes.data(), 3))});
             const UniqueFd again(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
             said += " " + answer(::bind(again.get(), where, sizeof address));
             said += " " + in_turn({opened(path, O_RDWR), answer(::unlink(path.c_str()))});
             said += " " + answer(::connect(again.get(), where, sizeof address));
             return said;
         }},
        {"a fifo", nullptr,
         [](const std::string& dir) {
             const std::string path = dir + "/fifo";
             std::string said = answer(::mkfifo(path.c_str(), 0600)) + " ";
             said += opened(path, O_WRONLY | O_NONBLOCK) + " ";
             const UniqueFd reader = open_file(path, O_RDONLY | O_NONBLOCK);
             const UniqueFd writer = open_file(path, O_WRONLY | O_NONBLOCK);
             std::array<char, 3> bytes{};
             said += in_turn({answer(::write(writer.get(), "abc", 3)), answer(::read(reader.get(), bytes.data(), 3))});
             return said + " " + answer(::read(reader.get(), bytes.data(), 3));
         }},
    };
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("symbolic links of every length") {
    const Parity parity(plain_like);
    const Trial trial = {
        "symlink", nullptr, [](const std::string& dir) {
            std::string said;
            for (const std::size_t length : {0UL, 1UL, 59UL, 60UL, 255UL, 256UL, 4094UL, 4095UL, 4096UL}) {
                const std::string path = fmt::format("{}/{}", dir, length);
                said += answer(::symlink(std::string(length, 't').c_str(), path.c_str())) + " ";
                std::string target(5000, '\0');
                said += answer(::readlink(path.c_str(), target.data(), target.size())) + " ";
                said += answer(::readlink(path.c_str(), target.data(), 3)) + " ";
                said += answer(::readlink(path.c_str(), target.data(), 0)) + "\n";
            }
            return said;
        }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

TEST_CASE("following links that are too many, or not one's own in a sticky directory") {
    const Parity parity(plain_like);
    const Trial trial = {
        "links",
        [](const std::string& dir) {
            make_file(dir + "/0", "the end");
            for (int i = 1; i <= 45; ++i)
                must(::symlink(std::to_string(i - 1).c_str(), fmt::format("{}/{}", dir, i).c_str()), "symlink");
            must(::mkdir((dir + "/sticky").c_str(), 0755), "mkdir");
            must(::chmod((dir + "/sticky").c_str(), 01777), "chmod");
            must(::symlink("../0", (dir + "/sticky/theirs").c_str()), "symlink");
            own(dir + "/sticky/theirs", third);
            make_file(dir + "/sticky/file", "theirs");
            must(::chmod((dir + "/sticky/file").c_str(), 0666), "chmod");
            own(dir + "/sticky/file", third);
            make_object("fifo", dir + "/sticky/fifo");
            must(::chmod((dir + "/sticky/fifo").c_str(), 0666), "chmod");
            own(dir + "/sticky/fifo", third);
        },
        [](const std::string& dir) {
            std::string said;
            for (const int i : {1, 2, 39, 40, 41, 45}) said += opened(fmt::format("{}/{}", dir, i), O_RDONLY) + " ";
            said += opened(dir + "/sticky/theirs", O_RDONLY);
            said +=
                " " + in_turn({opened(dir + "/sticky/file", O_RDWR), opened(dir + "/sticky/file", O_RDWR | O_CREAT)});
            said += " " + opened(dir + "/sticky/fifo", O_RDWR | O_NONBLOCK);
            said += " " + opened(dir + "/sticky/fifo", O_RDWR | O_NONBLOCK | O_CREAT);
            return said;
        }};
    for (const User& user : {root, stranger, third}) try_all(parity, user, {trial});
}

TEST_CASE("renaming every type of object to every other") {
    std::vector<std::string> types = object_types;
    types.insert(types.end(), {"full directory", "nothing"});
    const std::set<std::string> special = {"socket", "character device", "block device"};
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const std::string& from : types) {
        for (const std::string& to : types) {
            for (const unsigned flags :
                 {0U, unsigned{RENAME_NOREPLACE}, unsigned{RENAME_EXCHANGE}, unsigned{RENAME_WHITEOUT}}) {
                if (flags != 0 && (special.contains(from) || special.contains(to))) continue;  // like a fifo
                trials.push_back({fmt::format("rename of a {} to a {}, flags {}", from, to, flags),
                                  [=](const std::string& dir) {
                                      must(::mkdir((dir + "/one").c_str(), 0777), "mkdir");
                                      must(::mkdir((dir + "/two").c_str(), 0777), "mkdir");
                                      must(::chmod((dir + "/one").c_str(), 0777), "chmod");
                                      must(::chmod((dir + "/two").c_str(), 0777), "chmod");
                                      make_either(from, dir + "/one/from");
                                      make_either(to, dir + "/two/to");
                                  },
                                  [flags](const std::string& dir) {
                                      const std::string one = dir + "/one/from";
                                      const std::string two = dir + "/two/to";
                                      const std::string before = number_of(one);
                                      std::string said = renamed(one, two, flags);
                                      return said + (number_of(two) == before ? " moved" : " stayed");
                                  }});
            }
        }
    }
    try_all(parity, root, trials);
}
TEST_CASE("renames of other kinds") {
    const Parity parity(plain_like);
    const auto tree = [](const std::string& dir) {
        make_file(dir + "/file", "file");
        must(::link((dir + "/file").c_str(), (dir + "/twin").c_str()), "link");
        make_file(dir + "/other", "other");
        make_full(dir + "/full");
        must(::mkdir((dir + "/full/deep").c_str(), 0755), "mkdir");
        make_full(dir + "/second");
    };
    std::vector<Trial> trials;
    for (const unsigned flags : {0U, 1U, 2U, 3U, 4U, 6U, 8U}) {
        for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{{"file", "file"},
                                                                                       {"file", "twin"},
                                                                                       {"twin", "file"},
                                                                                       {"file", "other"},
                                                                                       {"file", "new"},
                                                                                       {"full", "full"},
                                                                                       {"full", "full/deep"},
                                                                                       {"full", "full/deep/new"},
                                                                                       {"full", "full/new"},
                                                                                       {"full/deep", "full"},
                                                                                       {"full/inside", "full"},
                                                                                       {"full", "second"},
                                                                                       {"full/deep", "second/deep"},
                                                                                       {"full/.", "new"},
                                                                                       {"full/..", "new"},
                                                                                       {".", "new"},
                                                                                       {"file", "full/."},
                                                                                       {"file", "full/.."},
                                                                                       {"full/", "new/"},
                                                                                       {"file", "new/"},
                                                                                       {"file/", "new"},
                                                                                       {"nothing", "new"},
                                                                                       {"nothing", "file"},
                                                                                       {"nothing", "nothing"}}) {
            trials.push_back({fmt::format("rename of {} to {}, flags {}", from, to, flags), tree,
                              [=, from = from, to = to](const std::string& dir) {
                                  return renamed(dir + "/" + from, dir + "/" + to, flags);
                              }});
        }
    }
    try_all(parity, root, trials);
}
TEST_CASE("directories know where they are after a rename") {
    const Parity parity(plain_like);
    const Trial trial = {
        "..",
        [](const std::string& dir) {
            make_full(dir + "/one");
            make_full(dir + "/two");
            must(::mkdir((dir + "/one/moving").c_str(), 0755), "mkdir");
        },
        [](const std::string& dir) {
            const UniqueFd moving = open_file(dir + "/one/moving", O_RDONLY | O_DIRECTORY);
            std::string said = renamed(dir + "/one/moving", dir + "/two/moved");
            struct stat above {};
            must(::fstatat(moving.get(), "..", &above, 0), "fstatat");
            said += above.st_ino == status(dir + "/two").st_ino ? " below two" : " below one";
            said += " " + answer(::faccessat(moving.get(), "../inside", F_OK, 0));
            must(::fchdir(moving.get()), "fchdir");
            std::string here(4096, '\0');
            if (::getcwd(here.data(), here.size()) == nullptr) return said + answer(-1);
            here.resize(std::strlen(here.c_str()));
            said += " " + here.substr(here.rfind("/two"));
            // A directory that is gone has no entries and takes none.
            said += " " + answer(::rmdir((dir + "/two/moved").c_str()));
            said += " " + answer(::openat(moving.get(), "file", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
            said += " " + answer(::mkdirat(moving.get(), "directory", 0755));
            said += " " + answer(::symlinkat("target", moving.get(), "link"));
            said += " " + answer(::linkat(AT_FDCWD, (dir + "/one/inside").c_str(), moving.get(), "link", 0));
            said += " " + answer(::renameat(AT_FDCWD, (dir + "/one/inside").c_str(), moving.get(), "new"));
            return said + " links " + std::to_string(status(moving.get()).st_nlink);
        }};
    try_all(parity, root, {trial});
}

TEST_CASE("removing every type of object") {
    std::vector<std::string> types = object_types;
    types.push_back("full directory");
    const Parity parity(plain_like);
    for (const User& user : {root, stranger}) {
        std::vector<Trial> trials;
        for (const std::string& type : types) {
            for (const mode_t mode : {0777U, 0555U, 0666U}) {
                for (const std::string end : {"", "/", "/.", "/.."}) {
                    const auto prepare = [=](const std::string& dir) {
                        must(::mkdir((dir + "/place").c_str(), 0755), "mkdir");
                        make_either(type, dir + "/place/object");
                        must(::chmod((dir + "/place").c_str(), mode), "chmod");
                    };
                    trials.push_back({fmt::format("unlink of a {}{} in {:o}", type, end, mode), prepare,
                                      [end](const std::string& dir) {
                                          return answer(::unlink((dir + "/place/object" + end).c_str()));
                                      }});
                    trials.push_back({fmt::format("rmdir of a {}{} in {:o}", type, end, mode), prepare,
                                      [end](const std::string& dir) {
                                          return answer(::rmdir((dir + "/place/object" + end).c_str()));
                                      }});
                }
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("a sticky directory protects what is not one's own") {
    const Parity parity(plain_like);
    struct Attempt {
        std::string name;
        Step make;
    };
    const std::vector<Attempt> attempts = {
        {"unlink", [](auto& dir) { return answer(::unlink((dir + "/sticky/object").c_str())); }},
        {"rmdir", [](auto& dir) { return answer(::rmdir((dir + "/sticky/object").c_str())); }},
        {"rename within", [](auto& dir) { return renamed(dir + "/sticky/object", dir + "/sticky/new"); }},
        {"rename away", [](auto& dir) { return renamed(dir + "/sticky/object", dir + "/open/new"); }},
        {"rename over it, from outside",
         [](auto& dir) { return renamed(dir + "/open/object", dir + "/sticky/object"); }},
        {"rename over one's own",
         [](auto& dir) {
             const std::string mine = dir + "/sticky/mine";
             struct stat found {};
             must(::lstat((dir + "/sticky/object").c_str(), &found), "lstat");
             if (S_ISDIR(found.st_mode))
                 must(::mkdir(mine.c_str(), 0755), "mkdir");
             else
                 make_file(mine);
             return in_turn({renamed(dir + "/sticky/object", mine), renamed(mine, dir + "/sticky/object")});
         }},
        {"exchange", [](auto& dir) { return renamed(dir + "/sticky/object", dir + "/open/object", RENAME_EXCHANGE); }},
        {"link",
         [](auto& dir) { return answer(::link((dir + "/sticky/object").c_str(), (dir + "/open/new").c_str())); }},
    };
    for (const User& user : {root, owner_of_directory, owner_of_file, third}) {
        std::vector<Trial> trials;
        for (const mode_t mode : {0777U, 01777U, 01775U}) {
            for (const std::string type : {"file", "directory", "link", "fifo"}) {
                if (mode != 01777U && type != std::string("file")) continue;
                for (const Attempt& attempt : attempts) {
                    trials.push_back({fmt::format("{} of a {} in {:o}", attempt.name, type, mode),
                                      [=](const std::string& dir) {
                                          for (const std::string name : {"/sticky", "/open"}) {
                                              must(::mkdir((dir + name).c_str(), 0755), "mkdir");
                                              make_object(type, dir + name + "/object");
                                              own(dir + name + "/object", owner_of_file);
                                              own(dir + name, owner_of_directory);
                                          }
                                          must(::chmod((dir + "/sticky").c_str(), mode), "chmod");
                                          must(::chmod((dir + "/open").c_str(), 0777), "chmod");
                                      },
                                      attempt.make});
                }
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("a directory that somebody else owns can be moved only by who may write to it") {
    // Its entry ".." changes.
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const mode_t mode : {0755U, 0777U}) {
        for (const User& owner : {root, stranger, third}) {
            trials.push_back({fmt::format("a directory {:o} of {}", mode, owner.name),
                              [=](const std::string& dir) {
                                  for (const std::string name : {"/one", "/two"}) {
                                      must(::mkdir((dir + name).c_str(), 0755), "mkdir");
                                      must(::chmod((dir + name).c_str(), 0777), "chmod");
                                  }
                                  make_full(dir + "/one/moving");
                                  must(::chmod((dir + "/one/moving").c_str(), mode), "chmod");
                                  own(dir + "/one/moving", owner);
                              },
                              [](const std::string& dir) {
                                  return in_turn({renamed(dir + "/one/moving", dir + "/one/here"),
                                                  renamed(dir + "/one/here", dir + "/two/there")});
                              }});
        }
    }
    for (const User& user : all_users) try_all(parity, user, trials);
}

TEST_CASE("link counts of directories") {
    const Parity parity(plain_like);
    const Trial trial = {
        "links", nullptr, [](const std::string& dir) {
            const std::string top = dir + "/top";
            const auto links = [&] { return fmt::format(" {}", status(top).st_nlink); };
            must(::mkdir(top.c_str(), 0755), "mkdir");
            std::string said = links();
            must(::mkdir((top + "/one").c_str(), 0755), "mkdir");
            said += links();
            must(::mkdir((top + "/two").c_str(), 0755), "mkdir");
            said += links();
            make_file(top + "/file");
            said += links();
            must(::rename((top + "/one").c_str(), (dir + "/away").c_str()), "rename");
            said += links();
            must(::rename((dir + "/away").c_str(), (top + "/two").c_str()), "rename");
            said += links();
            must(::rmdir((top + "/two").c_str()), "rmdir");
            said += links();
            must(::renameat2(AT_FDCWD, (top + "/file").c_str(), AT_FDCWD, (top + "/new").c_str(), RENAME_NOREPLACE),
                 "renameat2");
            return said + links();
        }};
    for (const User& user : {root, stranger}) try_all(parity, user, {trial});
}

TEST_SUITE_END();
