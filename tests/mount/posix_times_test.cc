// Times: who may set them, and what changes them.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <linux/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include <ctime>

#include "tests/mount/eventually.h"
#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr long billion = 1'000'000'000;
constexpr time_t long_ago = 1000;

std::string word(const timespec& time) {
    return ::time(nullptr) - time.tv_sec < 100 ? "now" : fmt::format("{}.{:09}", time.tv_sec, time.tv_nsec);
}

std::string times(const std::string& path) {
    struct stat found {};
    if (::lstat(path.c_str(), &found) != 0) return answer(-1);
    return word(found.st_atim) + " " + word(found.st_mtim);
}

void set_old(const std::string& path) {
    const timespec old[] = {{long_ago, 1}, {long_ago + 1, 2}};
    must(::utimensat(AT_FDCWD, path.c_str(), old, AT_SYMLINK_NOFOLLOW), "utimensat");
}

bool later(const timespec& one, const timespec& other) {
    return one.tv_sec != other.tv_sec ? one.tv_sec > other.tv_sec : one.tv_nsec > other.tv_nsec;
}

// Which times of an object something has changed.
class Watched {
  public:
    explicit Watched(std::string path) : path_(std::move(path)) {
        set_old(path_);
        before_ = status(path_);
    }

    // A clock that stands still would hide a change.
    [[nodiscard]] bool clock_has_gone_on() const {
        timespec now{};
        ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
        return later(now, before_.st_ctim);
    }

    // As the object has been moved since, perhaps.
    [[nodiscard]] std::string changes(const std::string& path) const {
        struct stat now {};
        if (::lstat(path.c_str(), &now) != 0) return answer(-1);
        const auto changed = [](const timespec& before, const timespec& after) {
            return before.tv_sec == after.tv_sec && before.tv_nsec == after.tv_nsec ? " unchanged" : " changed";
        };
        return fmt::format("atime{} mtime{} ctime{}", changed(before_.st_atim, now.st_atim),
                           changed(before_.st_mtim, now.st_mtim), changed(before_.st_ctim, now.st_ctim));
    }
    [[nodiscard]] std::string changes() const { return changes(path_); }

  private:
    std::string path_;
    struct stat before_ {};
};

// A file with a hard link, a directory and a full one, each open to all.
void prepare(const std::string& dir) {
    make_file(dir + "/file", pattern(0, 9000));
    make_file(dir + "/empty");
    make_file(dir + "/source", pattern(0, 9000, 1));
    must(::link((dir + "/file").c_str(), (dir + "/twin").c_str()), "link");
    if (tmpfs_has_user_attributes()) must(::setxattr((dir + "/file").c_str(), "user.there", "1", 1, 0), "setxattr");
    for (const std::string name : {"/directory", "/directory/inside", "/other"}) {
        must(::mkdir((dir + name).c_str(), 0755), "mkdir");
        must(::chmod((dir + name).c_str(), 0777), "chmod");
    }
    must(::symlink("file", (dir + "/link").c_str()), "symlink");
    make_file(dir + "/directory/file", "inside");
    for (const std::string name : {"/file", "/empty", "/source", "/directory/file"}) {
        must(::chmod((dir + name).c_str(), 0666), "chmod");
        must(::chown((dir + name).c_str(), nobody, nobody), "chown");
    }
    must(::lchown((dir + "/directory/inside").c_str(), nobody, nobody), "lchown");
}

struct Action {
    std::string name;
    std::function<long(const std::string& dir)> take;
};

UniqueFd file_of(const std::string& dir, int flags = O_RDWR) {
    return open_file(dir + "/file", flags);
}

std::string to(const std::string& dir, const char* name) {
    return dir + "/" + name;
}

const std::vector<Action> actions = {
    {"nothing", [](auto&) { return 0L; }},
    {"open and close", [](auto& dir) { return file_of(dir) ? 0L : -1L; }},
    {"open with O_TRUNC", [](auto& dir) { return file_of(dir, O_RDWR | O_TRUNC) ? 0L : -1L; }},
    {"open of an empty file with O_TRUNC",
     [](auto& dir) { return open_file(to(dir, "empty"), O_RDWR | O_TRUNC) ? 0L : -1L; }},
    {"write", [](auto& dir) { return ::write(file_of(dir).get(), "abc", 3); }},
    {"write nothing", [](auto& dir) { return ::write(file_of(dir).get(), "", 0); }},
    {"append", [](auto& dir) { return ::write(file_of(dir, O_WRONLY | O_APPEND).get(), "abc", 3); }},
    {"write, in sight of fstat",
     [](auto& dir) {
         const UniqueFd file = file_of(dir);
         const timespec before = status(file.get()).st_mtim;
         must(::write(file.get(), "abc", 3), "write");
         return later(status(file.get()).st_mtim, before) ? 1L : 0L;
     }},
    {"read",
     [](auto& dir) {
         char byte = 0;
         return ::read(file_of(dir).get(), &byte, 1);
     }},
    {"read with O_NOATIME",
     [](auto& dir) {
         char byte = 0;
         return ::read(file_of(dir, O_RDONLY | O_NOATIME).get(), &byte, 1);
     }},
    {"truncate", [](auto& dir) { return long{::truncate(to(dir, "file").c_str(), 10)}; }},
    {"truncate to the same size", [](auto& dir) { return long{::truncate(to(dir, "file").c_str(), 9000)}; }},
    {"ftruncate", [](auto& dir) { return long{::ftruncate(file_of(dir).get(), 10)}; }},
    {"ftruncate to the same size", [](auto& dir) { return long{::ftruncate(file_of(dir).get(), 9000)}; }},
    {"fallocate", [](auto& dir) { return long{::fallocate(file_of(dir).get(), 0, 0, 20000)}; }},
    {"fallocate inside", [](auto& dir) { return long{::fallocate(file_of(dir).get(), 0, 0, 100)}; }},
    {"fallocate keeping the size",
     [](auto& dir) { return long{::fallocate(file_of(dir).get(), FALLOC_FL_KEEP_SIZE, 0, 20000)}; }},
    {"a hole",
     [](auto& dir) {
         return long{::fallocate(file_of(dir).get(), FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 4096)};
     }},
    {"copy_file_range",
     [](auto& dir) {
         return ::copy_file_range(open_file(to(dir, "source"), O_RDONLY).get(), nullptr, file_of(dir).get(), nullptr,
                                  5000, 0);
     }},
    {"store",
     [](auto& dir) {
         const UniqueFd file = file_of(dir);
         const Mapping mapping(file.get(), page, PROT_READ | PROT_WRITE);
         const auto stored = static_cast<long>(mapping.store(0, "stored"));
         return mapping.sync() == 0 ? stored : -1L;
     }},
    {"fsync", [](auto& dir) { return long{::fsync(file_of(dir).get())}; }},
    {"chmod", [](auto& dir) { return long{::chmod(to(dir, "file").c_str(), 0600)}; }},
    {"chmod as it was", [](auto& dir) { return long{::chmod(to(dir, "file").c_str(), 0666)}; }},
    {"chown as it was", [](auto& dir) { return long{::chown(to(dir, "file").c_str(), nobody, nobody)}; }},
    {"chown of nothing", [](auto& dir) { return long{::chown(to(dir, "file").c_str(), -1, -1)}; }},
    {"chown away", [](auto& dir) { return long{::chown(to(dir, "file").c_str(), 1000, 1000)}; }},
    {"lchown of the link", [](auto& dir) { return long{::lchown(to(dir, "link").c_str(), 1000, 1000)}; }},
    {"link", [](auto& dir) { return long{::link(to(dir, "file").c_str(), to(dir, "directory/new").c_str())}; }},
    {"link over a name", [](auto& dir) { return long{::link(to(dir, "file").c_str(), to(dir, "twin").c_str())}; }},
    {"unlink of the other link", [](auto& dir) { return long{::unlink(to(dir, "twin").c_str())}; }},
    {"unlink inside", [](auto& dir) { return long{::unlink(to(dir, "directory/file").c_str())}; }},
    {"unlink of nothing", [](auto& dir) { return long{::unlink(to(dir, "directory/no").c_str())}; }},
    {"rename inside",
     [](auto& dir) { return long{std::rename(to(dir, "directory/file").c_str(), to(dir, "directory/new").c_str())}; }},
    {"rename out of the directory",
     [](auto& dir) { return long{std::rename(to(dir, "directory/file").c_str(), to(dir, "other/new").c_str())}; }},
    {"rename of a directory elsewhere",
     [](auto& dir) { return long{std::rename(to(dir, "directory/inside").c_str(), to(dir, "other/new").c_str())}; }},
    {"rename over the other link",
     [](auto& dir) { return long{std::rename(to(dir, "file").c_str(), to(dir, "twin").c_str())}; }},
    {"rename over the empty file",
     [](auto& dir) { return long{std::rename(to(dir, "file").c_str(), to(dir, "empty").c_str())}; }},
    {"exchange",
     [](auto& dir) {
         return long{::renameat2(AT_FDCWD, to(dir, "file").c_str(), AT_FDCWD, to(dir, "directory/file").c_str(),
                                 RENAME_EXCHANGE)};
     }},
    {"create", [](auto& dir) { return open_file(to(dir, "directory/new"), O_RDWR | O_CREAT | O_EXCL) ? 0L : -1L; }},
    {"create of what is there", [](auto& dir) { return file_of(dir, O_RDWR | O_CREAT) ? 0L : -1L; }},
    {"mkdir", [](auto& dir) { return long{::mkdir(to(dir, "directory/new").c_str(), 0755)}; }},
    {"mkdir over a name", [](auto& dir) { return long{::mkdir(to(dir, "directory/inside").c_str(), 0755)}; }},
    {"rmdir", [](auto& dir) { return long{::rmdir(to(dir, "directory/inside").c_str())}; }},
    {"mkfifo", [](auto& dir) { return long{::mkfifo(to(dir, "directory/new").c_str(), 0644)}; }},
    {"symlink", [](auto& dir) { return long{::symlink("target", to(dir, "directory/new").c_str())}; }},
    {"set an attribute", [](auto& dir) { return long{::setxattr(to(dir, "file").c_str(), "user.new", "1", 1, 0)}; }},
    {"set an attribute as it was",
     [](auto& dir) { return long{::setxattr(to(dir, "file").c_str(), "user.there", "1", 1, 0)}; }},
    {"remove an attribute", [](auto& dir) { return long{::removexattr(to(dir, "file").c_str(), "user.there")}; }},
    {"remove an attribute that is not there",
     [](auto& dir) { return long{::removexattr(to(dir, "file").c_str(), "user.no")}; }},
    {"get an attribute", [](auto& dir) { return ::getxattr(to(dir, "file").c_str(), "user.there", nullptr, 0); }},
    {"set the access time alone",
     [](auto& dir) {
         const timespec set[] = {{7, 7}, {0, UTIME_OMIT}};
         return long{::utimensat(AT_FDCWD, to(dir, "file").c_str(), set, 0)};
     }},
    {"set no time",
     [](auto& dir) {
         const timespec set[] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
         return long{::utimensat(AT_FDCWD, to(dir, "file").c_str(), set, 0)};
     }},
};

const std::vector<std::string> watched = {"file", "empty", "directory", "directory/inside", "directory/file", "other"};

std::string statx_words(const std::string& path, int flags, unsigned mask) {
    struct statx found {};
    const long result = ::syscall(SYS_statx, AT_FDCWD, path.c_str(), flags, mask, &found);
    if (result != 0) return answer(result);
    const unsigned all = STATX_BASIC_STATS | STATX_BTIME;
    // Not asked for, not promised: since Linux 6.13 tmpfs leaves times out then.
    std::string said = fmt::format("mask {:x} mode {:o} links {} blksize {}", found.stx_mask & mask & all,
                                   found.stx_mode, found.stx_nlink, found.stx_blksize);
    if ((mask & STATX_BTIME) == 0) return said;
    const auto to_timespec = [](const statx_timestamp& time) {
        return timespec{static_cast<std::time_t>(time.tv_sec), static_cast<long>(time.tv_nsec)};
    };
    const timespec born = to_timespec(found.stx_btime);
    const timespec changed = to_timespec(found.stx_ctime);
    return said + (word(born) == "now" ? " born now" : " born some other time") +
           (later(born, changed) ? ", after its last change" : "");
}

}  // namespace

TEST_SUITE_BEGIN("posix");

TEST_CASE("utimensat with every pair of times, by owners and others") {
    const std::vector<std::pair<std::string, timespec>> values = {
        {"now", {0, UTIME_NOW}},
        {"omitted", {0, UTIME_OMIT}},
        {"set", {5, 123456789}},
        {"negative", {-5, 999999999}},
        {"far", {static_cast<std::time_t>(std::int64_t{1} << 33U), 0}},
        {"too many nanoseconds", {5, billion}},
        {"too few", {5, -1}},
        {"another special", {5, (1L << 30U) - 3}}};
    const Parity parity(plain_like);
    for (const User& user : all_users) {
        std::vector<Trial> trials;
        for (const std::string& type : object_types) {
            for (const Owner& owner : {Owner{0, 0}, {nobody, nobody}, {1000, shared_group}}) {
                for (const mode_t mode : {0644U, 0666U, 0060U}) {
                    if (mode != 0666U && type != "file") continue;
                    trials.push_back({fmt::format("of a {} {:o} of {}", type, mode, words(owner)),
                                      [=](const std::string& dir) {
                                          make_object(type, dir + "/object");
                                          if (type != "link") must(::chmod((dir + "/object").c_str(), mode), "chmod");
                                          must(::lchown((dir + "/object").c_str(), owner.uid, owner.gid), "lchown");
                                          set_old(dir + "/object");
                                      },
                                      [&](const std::string& dir) {
                                          const std::string path = dir + "/object";
                                          std::string said;
                                          for (const auto& [one, access] : values) {
                                              for (const auto& [other, modification] : values) {
                                                  const timespec set[] = {access, modification};
                                                  said += fmt::format("{} and {}: ", one, other);
                                                  said += answer(
                                                      ::utimensat(AT_FDCWD, path.c_str(), set, AT_SYMLINK_NOFOLLOW));
                                                  said += " " + times(path) + "\n";
                                              }
                                          }
                                          said += answer(::utimensat(AT_FDCWD, path.c_str(), nullptr, 0));
                                          return said;
                                      }});
                }
            }
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("futimens and utimensat by descriptors") {
    const Parity parity(plain_like);
    const timespec set[] = {{1, 2}, {3, 4}};
    std::vector<Trial> trials;
    for (const int flags : {O_RDONLY, O_WRONLY, O_PATH}) {
        trials.push_back({fmt::format("opened {:o}", flags), prepare, [&, flags](const std::string& dir) {
                              const UniqueFd file = file_of(dir, flags);
                              std::string said = answer(::futimens(file.get(), set));
                              said += " " + answer(::futimens(file.get(), nullptr)) + " " + times(dir + "/file");
                              said += " " + answer(::utimensat(file.get(), "", set, AT_EMPTY_PATH));
                              said += " " + answer(::utimensat(file.get(), "", set, 0));
                              said += " " + answer(::utimensat(AT_FDCWD, (dir + "/link").c_str(), set, 0));
                              said += " " + answer(::utimensat(AT_FDCWD, (dir + "/link").c_str(), set, 0x4000));
                              return said + " " + times(dir + "/file");
                          }});
    }
    for (const User& user : {root, stranger, User{.name = "another user", .uid = 1000, .gid = 1000}})
        try_all(parity, user, trials);
}

TEST_CASE("what changes the times of which object") {
    note_missing_attributes();
    const Parity parity(plain_like);
    for (const User& user : {root, stranger}) {
        std::vector<Trial> trials;
        for (const Action& action : actions) {
            trials.push_back(
                {action.name, prepare, [&action](const std::string& dir) {
                     // Root alone may set the times of root's objects.
                     std::vector<std::pair<std::string, Watched>> objects;
                     for (const std::string& name : watched) {
                         try {
                             objects.emplace_back(name, Watched(dir + "/" + name));
                         } catch (const std::system_error&) {
                             continue;
                         }
                     }
                     if (!eventually([&] { return objects.empty() || objects.back().second.clock_has_gone_on(); }))
                         return std::string("the clock stands still");
                     std::string said = answer(action.take(dir)) + "\n";
                     for (const auto& [name, object] : objects) said += name + " " + object.changes() + "\n";
                     return said;
                 }});
        }
        try_all(parity, user, trials);
    }
}

TEST_CASE("a view that is brought up to date does not date the file") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd raw = make_file(mount.raw("file"), pattern(0, 100));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), page);
    CHECK(difference(mapping.bytes(0, 100), pattern(0, 100)) == "");
    set_old(mount.raw("file"));
    const timespec before = status(raw.get()).st_atim;
    write_at(raw.get(), 0, pattern(0, 100, 1));
    must(::fsync(view.get()), "fsync");
    const timespec after = status(raw.get()).st_atim;
    CHECK(after.tv_sec == before.tv_sec);
    CHECK(after.tv_nsec == before.tv_nsec);
    CHECK(difference(mapping.bytes(0, 100), pattern(0, 100, 1)) == "");
}

TEST_CASE("statx, with the time of birth") {
    const bool with_birth = kernel_tells_births();
    if (!with_birth) MESSAGE("left out, without FUSE_STATX: the time of birth");
    const Parity parity(plain_like);
    std::vector<Trial> trials;
    for (const std::string& type : object_types) {
        trials.push_back(
            {"statx of a " + type, [=](const std::string& dir) { make_object(type, dir + "/object"); },
             [with_birth](const std::string& dir) {
                 std::string said;
                 for (const int flags : {0, AT_SYMLINK_NOFOLLOW, AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC,
                                         AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC, AT_STATX_SYNC_TYPE, 0x40000000}) {
                     for (const unsigned mask :
                          {0U, unsigned{STATX_BASIC_STATS}, unsigned{STATX_BASIC_STATS | STATX_BTIME},
                           unsigned{STATX__RESERVED}}) {
                         // FUSE keeps no time of birth for who wants what is at hand; statx(2) lets it.
                         if ((mask & STATX_BTIME) != 0 && (!with_birth || (flags & AT_STATX_DONT_SYNC) != 0)) continue;
                         said +=
                             fmt::format("{:x} {:x}: ", flags, mask) + statx_words(dir + "/object", flags, mask) + "\n";
                     }
                 }
                 return said;
             }});
    }
    for (const User& user : {root, stranger}) try_all(parity, user, trials);
}

TEST_CASE("the time of birth is that of the file in the source, and stays") {
    if (!kernel_tells_births()) {
        MESSAGE("left out, without FUSE_STATX");
        return;
    }
    const Parity parity(plain_like);
    const auto born = [](const std::string& path) {
        struct statx found {};
        must(::syscall(SYS_statx, AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_BTIME, &found), "statx");
        return fmt::format("{} {}.{:09}", found.stx_mask & STATX_BTIME, found.stx_btime.tv_sec,
                           found.stx_btime.tv_nsec);
    };
    const ViewMount& mount = parity.mount();
    const UniqueFd file = make_file(mount.view("file"), "abc");
    const std::string before = born(mount.view("file"));
    CHECK(before == born(mount.raw("file")));
    const timespec set[] = {{1, 2}, {3, 4}};
    must(::futimens(file.get(), set), "futimens");
    write_at(file.get(), 0, "def");
    must(std::rename(mount.view("file").c_str(), mount.view("other").c_str()), "rename");
    CHECK(born(mount.view("other")) == before);
}

TEST_SUITE_END();
