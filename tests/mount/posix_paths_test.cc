// Paths that lead nowhere, or not where they should: what each call says to each of them.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <cstdio>

#include "tests/mount/files.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct Call {
    std::string name;
    std::function<std::string(const std::string& dir, const std::string& path)> make;
};

const timespec some_times[] = {{1, 2}, {3, 4}};

const std::vector<Call> calls = {
    {"stat",
     [](auto&, auto& path) {
         struct stat found {};
         return answer(::stat(path.c_str(), &found));
     }},
    {"lstat",
     [](auto&, auto& path) {
         struct stat found {};
         return answer(::lstat(path.c_str(), &found));
     }},
    {"statfs",
     [](auto&, auto& path) {
         struct statfs found {};
         return answer(::statfs(path.c_str(), &found));
     }},
    {"access", [](auto&, auto& path) { return answer(::access(path.c_str(), R_OK | W_OK)); }},
    {"readlink",
     [](auto&, auto& path) {
         std::string target(100, '\0');
         return answer(::readlink(path.c_str(), target.data(), target.size()));
     }},
    {"chmod", [](auto&, auto& path) { return answer(::chmod(path.c_str(), 0666)); }},
    {"chown", [](auto&, auto& path) { return answer(::chown(path.c_str(), -1, -1)); }},
    {"lchown", [](auto&, auto& path) { return answer(::lchown(path.c_str(), -1, -1)); }},
    {"utimensat", [](auto&, auto& path) { return answer(::utimensat(AT_FDCWD, path.c_str(), some_times, 0)); }},
    {"utimensat of the link",
     [](auto&, auto& path) { return answer(::utimensat(AT_FDCWD, path.c_str(), some_times, AT_SYMLINK_NOFOLLOW)); }},
    {"truncate", [](auto&, auto& path) { return answer(::truncate(path.c_str(), 3)); }},
    {"open", [](auto&, auto& path) { return opened(path, O_RDONLY | O_NONBLOCK); }},
    {"open of the link", [](auto&, auto& path) { return opened(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW); }},
    {"open as a directory", [](auto&, auto& path) { return opened(path, O_RDONLY | O_DIRECTORY); }},
    {"open for writing", [](auto&, auto& path) { return opened(path, O_WRONLY | O_NONBLOCK); }},
    {"open with O_PATH", [](auto&, auto& path) { return opened(path, O_PATH); }},
    {"create", [](auto&, auto& path) { return opened(path, O_RDWR | O_CREAT | O_NONBLOCK); }},
    {"create exclusively", [](auto&, auto& path) { return opened(path, O_RDWR | O_CREAT | O_EXCL); }},
    {"mkdir", [](auto&, auto& path) { return answer(::mkdir(path.c_str(), 0755)); }},
    {"mkfifo", [](auto&, auto& path) { return answer(::mkfifo(path.c_str(), 0644)); }},
    {"mknod of a file", [](auto&, auto& path) { return answer(::mknod(path.c_str(), S_IFREG | 0644, 0)); }},
    {"mknod of a device",
     [](auto&, auto& path) { return answer(::mknod(path.c_str(), S_IFCHR | 0644, makedev(1, 3))); }},
    {"symlink", [](auto&, auto& path) { return answer(::symlink("new target", path.c_str())); }},
    {"link from", [](auto& dir, auto& path) { return answer(::link(path.c_str(), (dir + "/new link").c_str())); }},
    {"link from what it leads to",
     [](auto& dir, auto& path) {
         return answer(::linkat(AT_FDCWD, path.c_str(), AT_FDCWD, (dir + "/new link").c_str(), AT_SYMLINK_FOLLOW));
     }},
    {"link to", [](auto& dir, auto& path) { return answer(::link((dir + "/file").c_str(), path.c_str())); }},
    {"rename from", [](auto& dir, auto& path) { return answer(::rename(path.c_str(), (dir + "/new").c_str())); }},
    {"rename of a file to",
     [](auto& dir, auto& path) { return answer(::rename((dir + "/file").c_str(), path.c_str())); }},
    {"rename of a directory to",
     [](auto& dir, auto& path) { return answer(::rename((dir + "/empty").c_str(), path.c_str())); }},
    {"unlink", [](auto&, auto& path) { return answer(::unlink(path.c_str())); }},
    {"rmdir", [](auto&, auto& path) { return answer(::rmdir(path.c_str())); }},
    {"chdir",
     [](auto&, auto& path) {
         const UniqueFd here = open_file(".", O_PATH | O_DIRECTORY);
         const std::string said = answer(::chdir(path.c_str()));
         must(::fchdir(here.get()), "fchdir");
         return said;
     }},
    {"setxattr", [](auto&, auto& path) { return answer(::setxattr(path.c_str(), "user.one", "1", 1, 0)); }},
    {"getxattr", [](auto&, auto& path) { return answer(::getxattr(path.c_str(), "user.one", nullptr, 0)); }},
    {"listxattr", [](auto&, auto& path) { return answer(::llistxattr(path.c_str(), nullptr, 0)); }},
    {"removexattr", [](auto&, auto& path) { return answer(::lremovexattr(path.c_str(), "user.one")); }},
};

// Below the trial's directory; an empty one stays empty.
std::vector<std::string> bad_paths() {
    std::string deep;
    for (int i = 0; i < 2050; ++i) deep += "./";
    const std::string longest(255, 'n');
    return {"",
            "nothing",
            "nothing/",
            "nothing/below",
            "nothing/.",
            "nothing/..",
            "file",
            "file/",
            "file/.",
            "file/..",
            "file/below",
            "directory",
            "directory/",
            "directory/.",
            "directory/..",
            "directory/nothing/",
            "empty/",
            "empty/.",
            longest,
            longest + "n",
            longest + "n/below",
            "directory/" + longest + "n",
            deep + "file",
            "loop",
            "loop/",
            "loop/below",
            "ring",
            "dangling",
            "dangling/",
            "dangling/below",
            "to file",
            "to file/",
            "to directory",
            "to directory/",
            "to directory/nothing",
            "fifo/below",
            "socket",
            "closed",
            "closed/file",
            "closed/nothing",
            "closed/to file",
            "read only/file",
            "read only/nothing",
            "unreadable/file",
            "unreadable/nothing",
            "unsearchable/file",
            "unsearchable/nothing"};
}

void prepare(const std::string& dir) {
    make_file(dir + "/file", "content");
    make_object("fifo", dir + "/fifo");
    make_object("socket", dir + "/socket");
    for (const std::string name : {"/directory", "/empty", "/closed", "/read only", "/unreadable", "/unsearchable"}) {
        must(::mkdir((dir + name).c_str(), 0755), "mkdir");
        if (name != "/empty") make_file(dir + name + "/file", "inside");
    }
    must(::symlink("file", (dir + "/closed/to file").c_str()), "symlink");
    must(::chmod((dir + "/closed").c_str(), 0), "chmod");
    must(::chmod((dir + "/read only").c_str(), 0555), "chmod");
    must(::chmod((dir + "/unreadable").c_str(), 0333), "chmod");
    must(::chmod((dir + "/unsearchable").c_str(), 0666), "chmod");
    must(::symlink("loop", (dir + "/loop").c_str()), "symlink");
    must(::symlink("ring 2", (dir + "/ring").c_str()), "symlink");
    must(::symlink("ring", (dir + "/ring 2").c_str()), "symlink");
    must(::symlink("nowhere", (dir + "/dangling").c_str()), "symlink");
    must(::symlink("file", (dir + "/to file").c_str()), "symlink");
    must(::symlink("directory", (dir + "/to directory").c_str()), "symlink");
}

// Puts back what a call that succeeded has taken away, as far as the user may.
void repair(const std::string& dir) {
    ::unlink((dir + "/new link").c_str());
    ::rename((dir + "/new").c_str(), (dir + "/file").c_str());
    ::mkdir((dir + "/empty").c_str(), 0755);
    const UniqueFd file(::open((dir + "/file").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
}

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("every call with every path that leads nowhere") {
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const Call& call : calls) {
        trials.push_back({call.name, prepare, [&call](const std::string& dir) {
                              std::string said;
                              for (const std::string& path : bad_paths()) {
                                  const std::string whole = path.empty() ? path : dir + "/" + path;
                                  const std::string one = call.make(dir, whole);
                                  if (one == "0") repair(dir);
                                  said += fmt::format("\"{}\": {}\n", path.substr(0, 30), one);
                              }
                              return said;
                          }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("paths relative to descriptors") {
    const Parity parity(plain_like);
    const Trial trial = {
        "at", prepare, [](const std::string& dir) {
            std::string said;
            for (const std::string name : {"file", "directory", "fifo", "to directory", "nothing"}) {
                const UniqueFd at(::open((dir + "/" + name).c_str(), O_PATH | O_CLOEXEC));
                for (const std::string path : {"", ".", "..", "file", "nothing", "../file"}) {
                    struct stat found {};
                    said += fmt::format("{} {}: ", name, path);
                    for (const int flags : {0, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, 0x40000000})
                        said += answer(::fstatat(at.get(), path.c_str(), &found, flags)) + " ";
                    const UniqueFd file(::openat(at.get(), path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
                    said += file ? "0" : answer(-1);
                    said += " " + answer(::faccessat(at.get(), path.c_str(), R_OK, 0));
                    said += " " + answer(::mkdirat(at.get(), path.c_str(), 0755));
                    said += " " + answer(::unlinkat(at.get(), path.c_str(), AT_REMOVEDIR)) + "\n";
                }
            }
            return said;
        }};
    for (const User& user : all_users) try_all(parity, user, {trial});
}

TEST_CASE("access, as the user who asks and as the one who acts") {
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const std::string type : {"file", "directory", "link", "character device"}) {
            for (const Owner& owner : {Owner{0, 0}, {nobody, 0}, {1000, nobody}, {1000, shared_group}}) {
                trials.push_back({fmt::format("access to a {} of {}", type, words(owner)),
                                  [=](const std::string& dir) {
                                      for (const mode_t mode : {0U, 0111U, 0222U, 0444U, 0700U, 0070U, 0007U, 0755U}) {
                                          const std::string path = fmt::format("{}/{:o}", dir, mode);
                                          make_object(type, path);
                                          must(::lchown(path.c_str(), owner.uid, owner.gid), "lchown");
                                          if (type != "link") must(::chmod(path.c_str(), mode), "chmod");
                                      }
                                  },
                                  [](const std::string& dir) {
                                      std::string said;
                                      for (const mode_t mode : {0U, 0111U, 0222U, 0444U, 0700U, 0070U, 0007U, 0755U}) {
                                          const std::string path = fmt::format("{}/{:o}", dir, mode);
                                          said += fmt::format("{:o}:", mode);
                                          for (const int wanted : {F_OK, R_OK, W_OK, X_OK, R_OK | W_OK | X_OK, 8}) {
                                              for (const int flags : {0, AT_EACCESS | AT_SYMLINK_NOFOLLOW}) {
                                                  said +=
                                                      " " + answer(::faccessat(AT_FDCWD, path.c_str(), wanted, flags));
                                              }
                                          }
                                          said += "\n";
                                      }
                                      return said;
                                  }});
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("access asks for the real user, not for the effective one") {
    const Parity parity(plain_like);
    const Trial trial = {"a root who is nobody in truth",
                         [](const std::string& dir) {
                             make_file(dir + "/private", "root's");
                             must(::chmod((dir + "/private").c_str(), 0600), "chmod");
                         },
                         [](const std::string& dir) {
                             must(::setresuid(nobody, 0, 0), "setresuid");
                             const std::string path = dir + "/private";
                             return answer(::access(path.c_str(), R_OK)) + " " +
                                    answer(::faccessat(AT_FDCWD, path.c_str(), R_OK, AT_EACCESS)) + " " +
                                    opened(path, O_RDONLY);
                         }};
    try_all(parity, root, {trial});
}

TEST_SUITE_END();
