// ioctl(2): the flags of files, what they forbid, and what no file system here knows. And a read-only mount.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include <cstdio>

#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::string flags_of(const std::string& path) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
    if (!file) return answer(-1);
    int flags = 0;
    const int result = ::ioctl(file.get(), FS_IOC_GETFLAGS, &flags);
    return result == 0 ? fmt::format("{:x}", flags) : answer(result);
}

std::string set_flags(const std::string& path, int flags) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
    return file ? answer(::ioctl(file.get(), FS_IOC_SETFLAGS, &flags)) : answer(-1);
}

struct Attempt {
    std::string name;
    Step make;
};

std::string written(const std::string& path, int flags) {
    const UniqueFd file(::open(path.c_str(), O_WRONLY | flags | O_CLOEXEC));
    return file ? answer(::write(file.get(), "abc", 3)) : answer(-1);
}

// What may change "object", or what is in it.
const std::vector<Attempt> attempts = {
    {"open for writing", [](auto& dir) { return opened(dir + "/object", O_WRONLY); }},
    {"open to append", [](auto& dir) { return written(dir + "/object", O_APPEND); }},
    {"open with O_TRUNC", [](auto& dir) { return opened(dir + "/object", O_RDWR | O_TRUNC); }},
    {"open to append with O_TRUNC", [](auto& dir) { return opened(dir + "/object", O_RDWR | O_APPEND | O_TRUNC); }},
    {"open with O_NOATIME", [](auto& dir) { return opened(dir + "/object", O_RDONLY | O_NOATIME); }},
    {"truncate", [](auto& dir) { return answer(::truncate((dir + "/object").c_str(), 1)); }},
    {"chmod", [](auto& dir) { return answer(::chmod((dir + "/object").c_str(), 0700)); }},
    {"chown", [](auto& dir) { return answer(::chown((dir + "/object").c_str(), 1, 1)); }},
    {"set the times",
     [](auto& dir) {
         const timespec set[] = {{1, 2}, {3, 4}};
         return answer(::utimensat(AT_FDCWD, (dir + "/object").c_str(), set, 0));
     }},
    {"set the times to now",
     [](auto& dir) { return answer(::utimensat(AT_FDCWD, (dir + "/object").c_str(), nullptr, 0)); }},
    {"set an attribute", [](auto& dir) { return answer(::setxattr((dir + "/object").c_str(), "user.a", "1", 1, 0)); }},
    {"remove an attribute", [](auto& dir) { return answer(::removexattr((dir + "/object").c_str(), "user.there")); }},
    {"link", [](auto& dir) { return answer(::link((dir + "/object").c_str(), (dir + "/link").c_str())); }},
    {"rename", [](auto& dir) { return answer(std::rename((dir + "/object").c_str(), (dir + "/new").c_str())); }},
    {"rename over it",
     [](auto& dir) {
         if (::mkdir((dir + "/other").c_str(), 0755) == 0 && ::rmdir((dir + "/object/none").c_str()) != 0 &&
             errno == ENOTDIR) {
             ::rmdir((dir + "/other").c_str());
             make_file(dir + "/other");
         }
         return answer(std::rename((dir + "/other").c_str(), (dir + "/object").c_str()));
     }},
    // By the call that is for it: of two errors at once, the kernel may tell either.
    {"remove", [](auto& dir) { return answer(std::remove((dir + "/object").c_str())); }},
    {"create inside", [](auto& dir) { return opened(dir + "/object/new", O_RDWR | O_CREAT | O_EXCL); }},
    {"mkdir inside", [](auto& dir) { return answer(::mkdir((dir + "/object/directory").c_str(), 0755)); }},
    {"unlink inside", [](auto& dir) { return answer(::unlink((dir + "/object/inside").c_str())); }},
    {"rename inside",
     [](auto& dir) {
         return answer(std::rename((dir + "/object/inside").c_str(), (dir + "/object/renamed").c_str()));
     }},
    {"rename out of it",
     [](auto& dir) { return answer(std::rename((dir + "/object/inside").c_str(), (dir + "/renamed").c_str())); }},
    {"write inside", [](auto& dir) { return written(dir + "/object/inside", 0); }},
};

void prepare(const std::string& type, const std::string& dir) {
    const std::string path = dir + "/object";
    make_object(type, path);
    if (type == "directory") {
        make_file(path + "/inside", "inside");
        must(::chmod((path + "/inside").c_str(), 0666), "chmod");
    }
    if (tmpfs_has_user_attributes()) must(::setxattr(path.c_str(), "user.there", "1", 1, 0), "setxattr");
    must(::chmod(path.c_str(), 0777), "chmod");
    must(::chown(path.c_str(), nobody, nobody), "chown");
}

// Each user sets each flag of objects of these types, of root's and of nobody's.
void try_flags(const std::vector<std::string>& types, const std::vector<User>& users) {
    const std::vector<int> values = {FS_NODUMP_FL,
                                     FS_NOATIME_FL,
                                     FS_NODUMP_FL | FS_NOATIME_FL,
                                     0,
                                     FS_APPEND_FL,
                                     FS_IMMUTABLE_FL,
                                     FS_APPEND_FL | FS_IMMUTABLE_FL,
                                     FS_NODUMP_FL,
                                     FS_SYNC_FL,
                                     FS_COMPR_FL,
                                     FS_DIRSYNC_FL,
                                     FS_CASEFOLD_FL,
                                     FS_PROJINHERIT_FL,
                                     -1,
                                     0};
    const Parity parity(plain_like);
    for (const User& user : users) {
        std::vector<Trial> trials;
        for (const std::string& type : types) {
            for (const Owner& owner : {Owner{0, 0}, {nobody, nobody}}) {
                for (const mode_t mode : {0644U, 0666U}) {
                    trials.push_back({fmt::format("flags of a {} {:o} of {}", type, mode, words(owner)),
                                      [=](const std::string& dir) {
                                          make_object(type, dir + "/object");
                                          must(::chown((dir + "/object").c_str(), owner.uid, owner.gid), "chown");
                                          must(::chmod((dir + "/object").c_str(), mode), "chmod");
                                      },
                                      [&values](const std::string& dir) {
                                          const std::string path = dir + "/object";
                                          std::string said = flags_of(path);
                                          for (const int flags : values)
                                              said += fmt::format("\n{:x}: ", flags) +
                                                      in_turn({set_flags(path, flags), flags_of(path)});
                                          return said;
                                      }});
                }
            }
        }
        try_all(parity, user, trials);
    }
}

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("the flags of files and directories, by owners and others") {
    try_flags({"file", "directory"}, {std::begin(all_users), std::end(all_users)});
}

// Others hear EPERM, and not ENOTTY, when they set some: the kernel asks whose it is before it asks whether there are
// any (vfs_fileattr_set), and for FUSE every inode has that call.
TEST_CASE("fifos and devices have no flags") {
    try_flags({"fifo", "character device"}, {root});
}

TEST_CASE("what append-only and immutable forbid") {
    note_missing_attributes();
    const Parity parity(plain_like);
    for (const User& user : {root, stranger}) {
        std::vector<Trial> trials;
        for (const std::string type : {"file", "directory"}) {
            for (const int flags : {FS_APPEND_FL, FS_IMMUTABLE_FL, FS_NODUMP_FL}) {
                for (const Attempt& attempt : attempts) {
                    trials.push_back({fmt::format("{} of a {} with flags {:x}", attempt.name, type, flags),
                                      [=](const std::string& dir) {
                                          prepare(type, dir);
                                          set_flags(dir + "/object", flags);
                                      },
                                      [&attempt](const std::string& dir) {
                                          return in_turn({flags_of(dir + "/object"), attempt.make(dir)});
                                      }});
                }
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("flags that were set in the source hold in the mount, and are seen there") {
    note_missing_attributes();
    const Parity parity(plain_like);
    const ViewMount& mount = parity.mount();
    for (const User& user : {root, stranger}) {
        for (const std::string type : {"file", "directory"}) {
            for (const int flags : {FS_APPEND_FL, FS_IMMUTABLE_FL}) {
                for (std::size_t i = 0; i < attempts.size(); ++i) {
                    const std::string place = fmt::format("/{} {} {:x} {}", user.name, type, flags, i);
                    for (const std::string& top : {mount.plain(), mount.source()}) {
                        must(::mkdir((top + place).c_str(), 0755), "mkdir");
                        must(::chmod((top + place).c_str(), 0777), "chmod");
                        prepare(type, top + place);
                        REQUIRE(set_flags(top + place + "/object", flags) == "0");
                    }
                }
                const auto said = [&](const std::string& top) {
                    return as_user(user, [&] {
                        std::string all;
                        for (std::size_t i = 0; i < attempts.size(); ++i) {
                            const std::string place = fmt::format("{}/{} {} {:x} {}", top, user.name, type, flags, i);
                            all += attempts[i].name + ": " +
                                   in_turn({flags_of(place + "/object"), attempts[i].make(place)}) + "\n";
                        }
                        return all;
                    });
                };
                const std::string wanted = said(mount.plain());
                const std::string difference = first_difference(said(mount.mountpoint()), wanted);
                CHECK_MESSAGE(difference.empty(), "a ", type, " with flags ", flags, ", by ", user.name,
                              ": the mount says ", difference);
            }
        }
    }
}

TEST_CASE("a new file in a directory with flags") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const int flags : {FS_NODUMP_FL, FS_NOATIME_FL, FS_APPEND_FL}) {
        trials.push_back({fmt::format("in a directory with flags {:x}", flags),
                          [flags](const std::string& dir) { set_flags(dir, flags); },
                          [](const std::string& dir) {
                              return in_turn({flags_of(dir), opened(dir + "/file", O_RDWR | O_CREAT),
                                              answer(::mkdir((dir + "/directory").c_str(), 0755)),
                                              flags_of(dir + "/file"), flags_of(dir + "/directory")});
                          }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("flags as struct fsxattr has them") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const std::string type : {"file", "directory"}) {
        trials.push_back({"of a " + type, [=](const std::string& dir) { prepare(type, dir); },
                          [](const std::string& dir) {
                              const UniqueFd file = open_file(dir + "/object", O_RDONLY);
                              fsxattr attributes{};
                              std::string said = answer(::ioctl(file.get(), FS_IOC_FSGETXATTR, &attributes));
                              said += fmt::format(" {:x} {}", attributes.fsx_xflags, attributes.fsx_projid);
                              for (const unsigned flags : {unsigned{FS_XFLAG_NODUMP}, unsigned{FS_XFLAG_APPEND},
                                                           unsigned{FS_XFLAG_PROJINHERIT}, 0U}) {
                                  attributes = {};
                                  attributes.fsx_xflags = flags;
                                  said += "\n" + in_turn({answer(::ioctl(file.get(), FS_IOC_FSSETXATTR, &attributes)),
                                                          flags_of(dir + "/object")});
                              }
                              attributes.fsx_projid = 5;
                              return said + "\n" + answer(::ioctl(file.get(), FS_IOC_FSSETXATTR, &attributes));
                          }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("ioctls that tmpfs does not know") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const std::string type : {"file", "directory"}) {
        trials.push_back(
            {"of a " + type, [=](const std::string& dir) { prepare(type, dir); },
             [](const std::string& dir) {
                 const UniqueFd file = open_file(dir + "/object", O_RDONLY);
                 std::string said;
                 std::array<char, 16384> argument{};  // as large as an ioctl's number can say
                 for (const unsigned long request :
                      {static_cast<unsigned long>(_IO('N', 77)), static_cast<unsigned long>(_IOR('N', 78, int)),
                       static_cast<unsigned long>(_IOW('N', 79, int)),
                       static_cast<unsigned long>(_IOWR('N', 80, long[8])), 0x5401UL /* TCGETS */,
                       static_cast<unsigned long>(FS_IOC_GETVERSION), 0xffffffffUL, 0UL})
                     said +=
                         fmt::format("{:x}: ", request) + answer(::ioctl(file.get(), request, argument.data())) + "\n";
                 int size = 0;
                 said += answer(::ioctl(file.get(), FIGETBSZ, &size)) + fmt::format(" {} ", size);
                 int yes = 1;
                 said += answer(::ioctl(file.get(), FIONBIO, &yes)) + " " + answer(::ioctl(file.get(), FIOCLEX));
                 const UniqueFd found = open_file(dir + "/object", O_PATH);
                 return said + " O_PATH " + answer(::ioctl(found.get(), FS_IOC_GETFLAGS, &size));
             }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("a read-only mount says to each attempt what a read-only tmpfs says") {
    note_missing_attributes();
    const Parity parity({"stat=real", "max_size=1M", "ro"});
    const ViewMount& mount = parity.mount();
    for (const std::string& top : {mount.plain(), mount.source()}) {
        for (const std::string& type : object_types) {
            must(::mkdir((top + "/" + type).c_str(), 0755), "mkdir");
            must(::chmod((top + "/" + type).c_str(), 0777), "chmod");
            if (type == "file" || type == "directory")
                prepare(type, top + "/" + type);
            else
                make_object(type, top + "/" + type + "/object");
        }
    }
    must(::mount(nullptr, mount.plain().c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV,
                 nullptr),
         "remount");
    const std::vector<Attempt> others = {
        {"mkdir", [](auto& dir) { return answer(::mkdir((dir + "/new").c_str(), 0755)); }},
        {"mkdir over it", [](auto& dir) { return answer(::mkdir((dir + "/object").c_str(), 0755)); }},
        {"mkfifo", [](auto& dir) { return answer(::mkfifo((dir + "/new").c_str(), 0644)); }},
        {"symlink", [](auto& dir) { return answer(::symlink("target", (dir + "/new").c_str())); }},
        {"create", [](auto& dir) { return opened(dir + "/new", O_RDWR | O_CREAT); }},
        {"create over it", [](auto& dir) { return opened(dir + "/object", O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK); }},
        {"create of what is there", [](auto& dir) { return opened(dir + "/object", O_RDONLY | O_CREAT | O_NONBLOCK); }},
        {"a file without a name", [](auto& dir) { return opened(dir, O_RDWR | O_TMPFILE); }},
        {"unlink of nothing", [](auto& dir) { return answer(::unlink((dir + "/no").c_str())); }},
        {"rmdir of nothing", [](auto& dir) { return answer(::rmdir((dir + "/no").c_str())); }},
        {"rename of nothing",
         [](auto& dir) { return answer(std::rename((dir + "/no").c_str(), (dir + "/x").c_str())); }},
        {"lchown", [](auto& dir) { return answer(::lchown((dir + "/object").c_str(), 1, 1)); }},
        {"access", [](auto& dir) { return answer(::access((dir + "/object").c_str(), W_OK)); }},
        {"read", [](auto& dir) { return opened(dir + "/object", O_RDONLY | O_NONBLOCK); }},
        {"read and write", [](auto& dir) { return opened(dir + "/object", O_RDWR | O_NONBLOCK); }},
        {"flags", [](auto& dir) { return set_flags(dir + "/object", FS_NODUMP_FL); }},
    };
    const auto said = [&](const std::string& top) {
        std::string all;
        for (const std::string& type : object_types) {
            for (const auto* const some : {&attempts, &others}) {
                for (const Attempt& attempt : *some) {
                    // What opens without O_NONBLOCK would wait for somebody at the other end.
                    if (type == "fifo" && some == &attempts && attempt.name.starts_with("open")) continue;
                    all += fmt::format("{} with a {}: ", attempt.name, type) + attempt.make(top + "/" + type) + "\n";
                }
            }
        }
        return all;
    };
    for (const User& user : all_users) {
        const std::string wanted = as_user(user, [&] { return said(mount.plain()); });
        const std::string got = as_user(user, [&] { return said(mount.mountpoint()); });
        const std::string difference = first_difference(got, wanted);
        CHECK_MESSAGE(difference.empty(), user.name, ": the mount says ", difference);
    }
}

TEST_SUITE_END();
