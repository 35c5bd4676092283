// What one capability or another allows to an ordinary user, and what root cannot do without any.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <cstdio>

#include "tests/mount/files.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::uint64_t bit(int capability) {
    return std::uint64_t{1} << static_cast<unsigned>(capability);
}

// Of these capabilities the kernel knows, whoever serves. For what the server itself guards, user 0 has all of them and
// others none: sticky directories, chattr's flags, the set-group-ID bit of strangers, trusted names in a list.
std::vector<User> users() {
    std::vector<User> all;
    const std::vector<std::pair<std::string, int>> capabilities = {{"CAP_CHOWN", CAP_CHOWN},
                                                                   {"CAP_DAC_OVERRIDE", CAP_DAC_OVERRIDE},
                                                                   {"CAP_DAC_READ_SEARCH", CAP_DAC_READ_SEARCH},
                                                                   {"CAP_MKNOD", CAP_MKNOD},
                                                                   {"CAP_SETFCAP", CAP_SETFCAP}};
    for (const auto& [name, capability] : capabilities)
        all.push_back({.name = "a user with " + name, .uid = nobody, .gid = nobody, .capabilities = bit(capability)});
    return all;
}

// A file, one that all may write and a directory of user 1000's, the files with set-id bits; and the same of nobody's.
void fill(const std::string& place) {
    must(::mkdir(place.c_str(), 0755), "mkdir");
    for (const uid_t owner : {uid_t{1000}, nobody}) {
        const std::string path = place + "/" + (owner == nobody ? "own " : "foreign ");
        make_file(path + "file", pattern(0, 5000));
        make_file(path + "shared", pattern(0, 5000));
        must(::mkdir((path + "directory").c_str(), 0755), "mkdir");
        make_file(path + "directory/inside", "inside");
        for (const std::string name : {"file", "shared", "directory"})
            must(::chown((path + name).c_str(), owner, 1000), "chown");
        must(::chmod((path + "file").c_str(), 06750), "chmod");
        must(::chmod((path + "shared").c_str(), 06767), "chmod");
        must(::setxattr((path + "file").c_str(), "trusted.one", "1", 1, 0), "setxattr");
    }
    must(::chown(place.c_str(), 1000, 1000), "chown");
}

void prepare_open(const std::string& dir) {
    fill(dir + "/open");
    must(::chmod((dir + "/open").c_str(), 0777), "chmod");
}

void prepare_sticky(const std::string& dir) {
    fill(dir + "/sticky");
    must(::chmod((dir + "/sticky").c_str(), 01777), "chmod");
}

std::string set(const std::string& path, const char* name, const std::string& value) {
    return answer(::setxattr(path.c_str(), name, value.data(), value.size(), 0));
}

std::string set_flags(const std::string& path, int flags) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    return file ? answer(::ioctl(file.get(), FS_IOC_SETFLAGS, &flags)) : answer(-1);
}

std::string written(const std::string& path, int flags) {
    const UniqueFd file(::open(path.c_str(), O_WRONLY | flags | O_CLOEXEC));
    return file ? answer(::write(file.get(), "abc", 3)) : answer(-1);
}

std::string allocated(const std::string& path, int mode) {
    const UniqueFd file(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    return file ? answer(::fallocate(file.get(), mode, 0, 9000)) : answer(-1);
}

struct Attempt {
    std::string name;
    std::function<std::string(const std::string& path)> make;
};

// With an object that may be one's own or somebody else's.
const std::vector<Attempt> attempts = {
    {"chmod", [](auto& path) { return answer(::chmod(path.c_str(), 0700)); }},
    {"chmod with set-id bits", [](auto& path) { return answer(::chmod(path.c_str(), 06711)); }},
    {"chown", [](auto& path) { return answer(::lchown(path.c_str(), 1001, -1)); }},
    {"chown of the group", [](auto& path) { return answer(::lchown(path.c_str(), -1, 1001)); }},
    {"chown to one's own group", [](auto& path) { return answer(::lchown(path.c_str(), -1, nobody)); }},
    {"chown of nothing", [](auto& path) { return answer(::lchown(path.c_str(), -1, -1)); }},
    {"truncate", [](auto& path) { return answer(::truncate(path.c_str(), 5)); }},
    {"open to read", [](auto& path) { return opened(path, O_RDONLY | O_NONBLOCK); }},
    {"open with O_NOATIME", [](auto& path) { return opened(path, O_RDONLY | O_NONBLOCK | O_NOATIME); }},
    {"write", [](auto& path) { return written(path, O_NONBLOCK); }},
    {"append", [](auto& path) { return written(path, O_APPEND | O_NONBLOCK); }},
    {"fallocate", [](auto& path) { return allocated(path, 0); }},
    {"a hole", [](auto& path) { return allocated(path, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE); }},
    {"set the times",
     [](auto& path) {
         const timespec times[] = {{1, 2}, {3, 4}};
         return answer(::utimensat(AT_FDCWD, path.c_str(), times, 0));
     }},
    {"set the times to now", [](auto& path) { return answer(::utimensat(AT_FDCWD, path.c_str(), nullptr, 0)); }},
    {"user attribute", [](auto& path) { return set(path, "user.one", "1"); }},
    {"trusted attribute", [](auto& path) { return set(path, "trusted.two", "1"); }},
    {"security attribute", [](auto& path) { return set(path, "security.one", "1"); }},
    {"get a trusted attribute", [](auto& path) { return answer(::getxattr(path.c_str(), "trusted.one", nullptr, 0)); }},
    {"remove a trusted attribute", [](auto& path) { return answer(::removexattr(path.c_str(), "trusted.one")); }},
    {"list", [](auto& path) { return answer(::listxattr(path.c_str(), nullptr, 0)); }},
    {"nodump", [](auto& path) { return set_flags(path, FS_NODUMP_FL); }},
    {"append-only", [](auto& path) { return set_flags(path, FS_APPEND_FL); }},
    {"enter", [](auto& path) { return answer(::access((path + "/inside").c_str(), R_OK)); }},
    {"create inside", [](auto& path) { return opened(path + "/new", O_RDWR | O_CREAT | O_EXCL); }},
};

// With the name of one, in a sticky directory too.
const std::vector<Attempt> attempts_at_names = {
    {"link", [](auto& path) { return answer(::link(path.c_str(), (path + " link").c_str())); }},
    {"rename", [](auto& path) { return answer(std::rename(path.c_str(), (path + " new").c_str())); }},
    {"rename over one's own file",
     [](auto& path) {
         make_file(path + " mine");
         return answer(std::rename((path + " mine").c_str(), path.c_str()));
     }},
    {"rename to the top",
     [](auto& path) {
         return answer(std::rename(path.c_str(), (path.substr(0, path.rfind('/')) + "/../moved").c_str()));
     }},
    {"remove", [](auto& path) { return answer(std::remove(path.c_str())); }},
};

std::string capability() {
    const std::uint32_t parts[] = {0x02000000, 1U << 13U, 0, 0, 0};
    return {reinterpret_cast<const char*>(parts), sizeof parts};
}

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("capabilities: what may be done to one's own and to others'") {
    const Parity parity(plain_like);
    const auto with_each = [](const std::string& place, const Attempt& attempt) {
        return [=](const std::string& dir) {
            std::string said;
            for (const std::string whose : {"own", "foreign"}) {
                for (const std::string type : {"file", "shared", "directory"}) {
                    const std::string name = fmt::format("{}/{} {}", place, whose, type);
                    said += name + ": " + attempt.make(dir + "/" + name) + "\n";
                    ::unlink((dir + "/moved").c_str());
                }
            }
            return said;
        };
    };
    std::vector<Trial> trials;
    for (const Attempt& attempt : attempts) trials.push_back({attempt.name, prepare_open, with_each("open", attempt)});
    for (const Attempt& attempt : attempts_at_names) {
        trials.push_back({attempt.name, prepare_open, with_each("open", attempt)});
        trials.push_back({attempt.name + " in a sticky directory", prepare_sticky, with_each("sticky", attempt)});
    }
    for (const User& user : users()) try_all(parity, user, trials);
}

TEST_CASE("capabilities: what may be made") {
    const Parity parity(plain_like);
    const auto prepare = [](const std::string& dir) {
        for (const auto& [place, mode] : {std::pair("/open", 0777U), {"/sticky", 01777U}, {"/group", 02777U}}) {
            must(::mkdir((dir + place).c_str(), 0755), "mkdir");
            must(::chown((dir + place).c_str(), 1000, 1000), "chown");
            must(::chmod((dir + place).c_str(), mode), "chmod");
        }
    };
    const Trial trial = {"make", prepare, [](const std::string& dir) {
                             std::string said;
                             for (const std::string place : {"open", "sticky", "group"}) {
                                 const std::string path = dir + "/" + place + "/new ";
                                 said +=
                                     in_turn({opened(path + "file", O_RDWR | O_CREAT | O_EXCL, 06777),
                                              answer(::mkdir((path + "directory").c_str(), 02777)),
                                              answer(::mknod((path + "node").c_str(), S_IFREG | 02777, 0)),
                                              answer(::mknod((path + "device").c_str(), S_IFCHR | 0666, makedev(1, 3))),
                                              answer(::mknod((path + "white").c_str(), S_IFCHR | 0666, 0)),
                                              answer(::mkfifo((path + "fifo").c_str(), 0666)),
                                              answer(::symlink("target", (path + "link").c_str())),
                                              set(path + "file", "security.capability", capability()),
                                              answer(::renameat2(AT_FDCWD, (path + "file").c_str(), AT_FDCWD,
                                                                 (path + "renamed").c_str(), RENAME_WHITEOUT)),
                                              "\n"});
                             }
                             return said;
                         }};
    for (const User& user : users()) try_all(parity, user, {trial});
}

TEST_SUITE_END();
