// The mirror: files, links and times, call by call against a plain directory.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>

#include <csignal>
#include <cstdio>
#include <memory>

#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/parity.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::string name_of(std::size_t length) {
    return std::string(length, 'n');
}

// Opens, closes, and says how that went.
std::string opened(const std::string& path, int flags, mode_t mode = 0644) {
    const UniqueFd file(::open(path.c_str(), flags | O_CLOEXEC, mode));
    return file ? "0" : answer(-1);
}

std::string written(const std::string& path, int flags, const std::string& bytes) {
    const UniqueFd file(::open(path.c_str(), flags | O_CLOEXEC, 0644));
    return file ? answer(::write(file.get(), bytes.data(), bytes.size())) : answer(-1);
}

std::string attributes(const std::string& path) {
    struct stat found {};
    if (::lstat(path.c_str(), &found) != 0) return answer(-1);
    return fmt::format("{:06o} {}:{} links {}", found.st_mode, found.st_uid, found.st_gid, found.st_nlink);
}

std::string times(const std::string& path) {
    const struct stat found = status(path);
    return fmt::format("{}.{:09} {}.{:09}", found.st_atim.tv_sec, found.st_atim.tv_nsec, found.st_mtim.tv_sec,
                       found.st_mtim.tv_nsec);
}

// What was answered, and then what `look` finds at `path`.
std::string then(const std::string& answered, std::string (*look)(const std::string& path), const std::string& path) {
    return answered + " " + look(path);
}

}  // namespace

TEST_SUITE_BEGIN("mirror");

TEST_CASE("creating and opening files") {
    Parity parity;
    ::umask(022);
    parity.same("open of nothing", [](auto& dir) { return opened(dir + "/file", O_RDONLY); });
    parity.same("create", [](auto& dir) { return opened(dir + "/file", O_RDWR | O_CREAT, 0640); });
    parity.same("create again", [](auto& dir) { return opened(dir + "/file", O_RDWR | O_CREAT, 0600); });
    parity.same("create exclusively", [](auto& dir) { return opened(dir + "/file", O_RDWR | O_CREAT | O_EXCL); });
    parity.same("create read-only",
                [](auto& dir) { return written(dir + "/sealed", O_WRONLY | O_CREAT | O_EXCL, "abc"); });
    parity.same("create without any permission", [](auto& dir) { return opened(dir + "/none", O_RDWR | O_CREAT, 0); });
    parity.same("create with set-id bits", [](auto& dir) { return opened(dir + "/set", O_RDWR | O_CREAT, 06755); });
    parity.same("create in a directory that is not there",
                [](auto& dir) { return opened(dir + "/no/file", O_RDWR | O_CREAT); });
    parity.same("a file as a directory", [](auto& dir) { return opened(dir + "/file/file", O_RDONLY); });
    parity.same("O_DIRECTORY of a file", [](auto& dir) { return opened(dir + "/file", O_RDONLY | O_DIRECTORY); });
    parity.same("writing a directory", [](auto& dir) { return opened(dir, O_WRONLY); });
    parity.same("O_PATH", [](auto& dir) { return opened(dir + "/file", O_PATH); });
    parity.same("a name of 255 bytes",
                [](auto& dir) { return written(dir + "/" + name_of(255), O_WRONLY | O_CREAT, "long"); });
    parity.same("a name of 256 bytes", [](auto& dir) { return opened(dir + "/" + name_of(256), O_RDWR | O_CREAT); });
    parity.same("looking for a name of 256 bytes",
                [](auto& dir) { return opened(dir + "/" + name_of(256), O_RDONLY); });
    parity.same("a name that is not UTF-8",
                [](auto& dir) { return written(dir + "/\xff\xfe\n", O_WRONLY | O_CREAT, "odd"); });
    parity.same("mknod of a file",
                [](auto& dir) { return answer(::mknod((dir + "/node").c_str(), S_IFREG | 0644, 0)); });
    parity.same("mkfifo", [](auto& dir) { return answer(::mkfifo((dir + "/fifo").c_str(), 0600)); });
    ::umask(0);
    parity.same("create with no umask", [](auto& dir) { return opened(dir + "/open", O_RDWR | O_CREAT, 0666); });
    ::umask(027);
    parity.same("create with a umask", [](auto& dir) { return opened(dir + "/masked", O_RDWR | O_CREAT, 0666); });
    ::umask(022);
    parity.same_trees();
}

TEST_CASE("reading and writing files") {
    Parity parity;
    parity.same("write", [](auto& dir) { return written(dir + "/file", O_WRONLY | O_CREAT, pattern(0, 10000)); });
    parity.same("append", [](auto& dir) { return written(dir + "/file", O_WRONLY | O_APPEND, "the end"); });
    parity.same("write anew",
                [](auto& dir) { return written(dir + "/anew", O_WRONLY | O_CREAT | O_TRUNC, "one and two"); });
    parity.same("write anew again",
                [](auto& dir) { return written(dir + "/anew", O_WRONLY | O_CREAT | O_TRUNC, "three"); });
    parity.same("write to a read-only descriptor", [](auto& dir) { return written(dir + "/file", O_RDONLY, "no"); });
    parity.same("read from a write-only descriptor", [](auto& dir) {
        char byte = 0;
        return answer(::read(open_file(dir + "/file", O_WRONLY).get(), &byte, 1));
    });
    parity.same("write nothing", [](auto& dir) { return written(dir + "/file", O_WRONLY, ""); });
    parity.same("write far out", [](auto& dir) {
        return answer(::pwrite(open_file(dir + "/sparse", O_WRONLY | O_CREAT).get(), "x", 1, 3 * MiB));
    });
    parity.same("write a lot",
                [](auto& dir) { return written(dir + "/large", O_WRONLY | O_CREAT, pattern(0, 5 * MiB + 3)); });
    parity.same("a negative offset",
                [](auto& dir) { return answer(::pwrite(open_file(dir + "/file", O_WRONLY).get(), "x", 1, -1)); });
    parity.same("reading a directory", [](auto& dir) {
        char byte = 0;
        return answer(::read(open_file(dir, O_RDONLY | O_DIRECTORY).get(), &byte, 1));
    });
    parity.same("fsync", [](auto& dir) { return answer(::fsync(open_file(dir + "/file", O_RDWR).get())); });
    parity.same("fdatasync", [](auto& dir) { return answer(::fdatasync(open_file(dir + "/file", O_RDWR).get())); });
    parity.same("fsync of a directory",
                [](auto& dir) { return answer(::fsync(open_file(dir, O_RDONLY | O_DIRECTORY).get())); });
    for (const long size : {4000L, 0L, 123456L, 4096L, -1L}) {
        parity.same("truncate", [&](auto& dir) { return answer(::truncate((dir + "/file").c_str(), size)); });
        parity.same_trees();
    }
    parity.same("truncate of nothing", [](auto& dir) { return answer(::truncate((dir + "/no").c_str(), 1)); });
    parity.same("truncate of a directory", [](auto& dir) { return answer(::truncate(dir.c_str(), 1)); });
    parity.same("ftruncate of a read-only descriptor",
                [](auto& dir) { return answer(::ftruncate(open_file(dir + "/file", O_RDONLY).get(), 1)); });
    parity.same("fallocate",
                [](auto& dir) { return answer(::fallocate(open_file(dir + "/file", O_RDWR).get(), 0, 0, 20000)); });
    parity.same("fallocate keeping the size", [](auto& dir) {
        return answer(::fallocate(open_file(dir + "/file", O_RDWR).get(), FALLOC_FL_KEEP_SIZE, 20000, 90000));
    });
    parity.same("a hole", [](auto& dir) {
        return answer(::fallocate(open_file(dir + "/large", O_RDWR).get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  4096, 65536));
    });
    parity.same_trees();
}

TEST_CASE("a file that was unlinked goes on while it is open") {
    Parity parity;
    parity.same("read, write and resize after unlink", [](auto& dir) {
        const std::string path = dir + "/file";
        const UniqueFd file = make_file(path, pattern(0, 5000));
        must(::unlink(path.c_str()), "unlink");
        write_at(file.get(), 5000, "more");
        resize(file.get(), 5002);
        must(::fchmod(file.get(), 0600), "fchmod");
        const struct stat found = status(file.get());
        return fmt::format("{:o} links {} {}", found.st_mode, found.st_nlink,
                           read_all(file.get()) == pattern(0, 5000) + "mo");
    });
    parity.same("a new file of that name is another one", [](auto& dir) {
        const std::string path = dir + "/file";
        const UniqueFd old = make_file(path, "old");
        must(::unlink(path.c_str()), "unlink");
        const UniqueFd fresh = make_file(path, "fresh");
        return read_all(old.get()) + " " + read_all(fresh.get()) + " " + read_all(path);
    });
    parity.same_trees();
}

TEST_CASE("symbolic links") {
    Parity parity;
    const auto link = [](const std::string& target, const std::string& name) {
        return [=](auto& dir) { return answer(::symlink(target.c_str(), (dir + "/" + name).c_str())); };
    };
    const auto readlink = [](const std::string& name) {
        return [=](auto& dir) {
            std::string target(5000, '\0');
            const ssize_t length = ::readlink((dir + "/" + name).c_str(), target.data(), target.size());
            return length < 0 ? answer(length) : target.substr(0, static_cast<std::size_t>(length));
        };
    };
    parity.same("a file", [](auto& dir) { return written(dir + "/file", O_WRONLY | O_CREAT, "abc"); });
    parity.same("to a file", link("file", "link"));
    parity.same("again", link("other", "link"));
    parity.same("to nothing", link("nothing", "dangling"));
    parity.same("to itself", link("loop", "loop"));
    parity.same("far away", link(std::string(4000, 't'), "far"));
    parity.same("to an empty name", link("", "empty"));
    for (const std::string name : {"link", "dangling", "loop", "far", "file", "nothing"})
        parity.same(name, readlink(name));
    parity.same("open through it", [](auto& dir) { return written(dir + "/link", O_WRONLY | O_APPEND, "def"); });
    parity.same("open without following", [](auto& dir) { return opened(dir + "/link", O_RDONLY | O_NOFOLLOW); });
    parity.same("open of a dangling one", [](auto& dir) { return opened(dir + "/dangling", O_RDONLY); });
    parity.same("create through a dangling one", [](auto& dir) { return opened(dir + "/dangling", O_RDWR | O_CREAT); });
    parity.same("open of a loop", [](auto& dir) { return opened(dir + "/loop", O_RDONLY); });
    parity.same("lchown", [](auto& dir) { return answer(::lchown((dir + "/loop").c_str(), 12, 34)); });
    parity.same("its times", [](auto& dir) {
        const timespec set[] = {{1, 2}, {3, 4}};
        must(::utimensat(AT_FDCWD, (dir + "/loop").c_str(), set, AT_SYMLINK_NOFOLLOW), "utimensat");
        return times(dir + "/loop").substr(times(dir + "/loop").find(' '));
    });
    parity.same_trees();
    parity.same("unlink", [](auto& dir) { return answer(::unlink((dir + "/link").c_str())); });
    parity.same_trees();
}

TEST_CASE("hard links are one file and one view") {
    Parity parity;
    parity.same("a file", [](auto& dir) { return written(dir + "/one", O_WRONLY | O_CREAT, pattern(0, 5000)); });
    parity.same("link", [](auto& dir) { return answer(::link((dir + "/one").c_str(), (dir + "/two").c_str())); });
    parity.same("link over a name",
                [](auto& dir) { return answer(::link((dir + "/one").c_str(), (dir + "/two").c_str())); });
    parity.same("link of nothing",
                [](auto& dir) { return answer(::link((dir + "/no").c_str(), (dir + "/three").c_str())); });
    parity.same("link of a directory", [](auto& dir) { return answer(::link(dir.c_str(), (dir + "/three").c_str())); });
    parity.same("attributes", [](auto& dir) { return attributes(dir + "/one") + attributes(dir + "/two"); });
    parity.same("one number",
                [](auto& dir) { return status(dir + "/one").st_ino == status(dir + "/two").st_ino ? "one" : "two"; });
    parity.same("write to one, read from the other", [](auto& dir) {
        write_at(open_file(dir + "/two", O_WRONLY).get(), 100, "news");
        return read_all(dir + "/one").substr(98, 8);
    });
    const ViewMount& mount = parity.mount();
    const UniqueFd two = open_file(mount.view("two"), O_RDWR);
    const UniqueFd one = open_file(mount.view("one"), O_RDONLY);
    const Mapping through_one(one.get(), MiB);
    const Mapping through_two(two.get(), MiB, PROT_READ | PROT_WRITE);
    CHECK(through_two.store(7, "shared") == 6);
    CHECK(through_one.bytes(7, 6) == "shared");
    CHECK(::fsync(two.get()) == 0);
    write_at(open_file(mount.plain() + "/one", O_WRONLY).get(), 7, "shared");
    parity.same("truncate one", [](auto& dir) { return answer(::truncate((dir + "/one").c_str(), 50)); });
    CHECK(difference(through_two.bytes(), padded(read_all(mount.raw("one")), MiB)) == "");
    parity.same("unlink one", [](auto& dir) { return answer(::unlink((dir + "/one").c_str())); });
    parity.same("the other stays", [](auto& dir) { return attributes(dir + "/one") + attributes(dir + "/two"); });
    parity.same_trees();
}

TEST_CASE("modes, owners and times") {
    Parity parity;
    parity.same("a file", [](auto& dir) { return written(dir + "/file", O_WRONLY | O_CREAT, "abc"); });
    for (const mode_t mode : {0600U, 0000U, 04711U, 01777U, 0644U}) {
        parity.same("chmod", [&](auto& dir) {
            return then(answer(::chmod((dir + "/file").c_str(), mode)), attributes, dir + "/file");
        });
    }
    parity.same("chown", [](auto& dir) {
        return then(answer(::chown((dir + "/file").c_str(), 1000, 100)), attributes, dir + "/file");
    });
    parity.same("chown of the group", [](auto& dir) {
        return then(answer(::chown((dir + "/file").c_str(), static_cast<uid_t>(-1), 77)), attributes, dir + "/file");
    });
    parity.same("chown strips set-id bits", [](auto& dir) {
        must(::chmod((dir + "/file").c_str(), 06755), "chmod");
        return then(answer(::chown((dir + "/file").c_str(), 5, 5)), attributes, dir + "/file");
    });
    parity.same("chmod of nothing", [](auto& dir) { return answer(::chmod((dir + "/no").c_str(), 0600)); });
    for (const auto& [set_atime, set_mtime] :
         {std::pair(timespec{1000, 123456789}, timespec{2000, 987654321}),
          {timespec{-5, 0}, timespec{0, 0}},
          {timespec{0, UTIME_OMIT}, timespec{static_cast<std::time_t>(5000000000), 1}},
          {timespec{77, 7}, timespec{0, UTIME_OMIT}}}) {
        const timespec set[] = {set_atime, set_mtime};
        parity.same("utimensat", [&](auto& dir) {
            return then(answer(::utimensat(AT_FDCWD, (dir + "/file").c_str(), set, 0)), times, dir + "/file");
        });
    }
    parity.same("utimensat now", [](auto& dir) {
        const timespec now[] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
        must(::utimensat(AT_FDCWD, (dir + "/file").c_str(), now, 0), "utimensat");
        return ::time(nullptr) - status(dir + "/file").st_mtim.tv_sec <= 2 ? "now" : "some other time";
    });
    parity.same("a write sets the time", [](auto& dir) {
        const timespec old[] = {{5, 0}, {5, 0}};
        must(::utimensat(AT_FDCWD, (dir + "/file").c_str(), old, 0), "utimensat");
        written(dir + "/file", O_WRONLY, "xyz");
        return ::time(nullptr) - status(dir + "/file").st_mtim.tv_sec <= 2 ? "now" : "some other time";
    });
    parity.same_trees();
}

TEST_CASE("statfs tells of the file system behind the mount") {
    Parity parity;
    struct statvfs view {};
    struct statvfs raw {};
    REQUIRE(::statvfs(parity.mount().mountpoint().c_str(), &view) == 0);
    REQUIRE(::statvfs(parity.mount().source().c_str(), &raw) == 0);
    CHECK(view.f_blocks * view.f_frsize == raw.f_blocks * raw.f_frsize);
    CHECK(view.f_bfree * view.f_frsize == raw.f_bfree * raw.f_frsize);
    CHECK(view.f_bavail * view.f_frsize == raw.f_bavail * raw.f_frsize);
    CHECK(view.f_files == raw.f_files);
    CHECK(view.f_ffree == raw.f_ffree);
    CHECK(view.f_namemax == raw.f_namemax);
}

TEST_CASE("locks are kept by the kernel") {
    Parity parity;
    parity.same("flock twice", [](auto& dir) {
        const UniqueFd one = make_file(dir + "/file");
        const UniqueFd two = open_file(dir + "/file", O_RDWR);
        must(::flock(one.get(), LOCK_EX), "flock");
        const std::string while_held = answer(::flock(two.get(), LOCK_EX | LOCK_NB));
        must(::flock(one.get(), LOCK_UN), "flock");
        return while_held + " " + answer(::flock(two.get(), LOCK_EX | LOCK_NB));
    });
    parity.same("fcntl from another process", [](auto& dir) {
        const UniqueFd file = open_file(dir + "/file", O_RDWR);
        struct flock lock {};
        lock.l_type = F_WRLCK;
        must(::fcntl(file.get(), F_SETLK, &lock), "fcntl");
        return as_user(0, [&] { return answer(::fcntl(open_file(dir + "/file", O_RDWR).get(), F_SETLK, &lock)); });
    });
}

TEST_CASE("a file with chattr's a takes what is appended and nothing else") {
    Parity parity;
    const auto set_flags = [](const std::string& path, int flags) {
        return answer(::ioctl(open_file(path, O_RDONLY).get(), FS_IOC_SETFLAGS, &flags));
    };
    parity.same("a log", [](auto& dir) { return written(dir + "/log", O_WRONLY | O_CREAT, "one "); });
    parity.same("a", [&](auto& dir) { return set_flags(dir + "/log", FS_APPEND_FL); });
    parity.same("append", [](auto& dir) { return written(dir + "/log", O_WRONLY | O_APPEND, "two "); });
    parity.same("append and read", [](auto& dir) { return written(dir + "/log", O_RDWR | O_APPEND, "three"); });
    parity.same("write", [](auto& dir) { return written(dir + "/log", O_WRONLY, "no"); });
    parity.same("truncate", [](auto& dir) { return answer(::truncate((dir + "/log").c_str(), 0)); });
    parity.same("unlink", [](auto& dir) { return answer(::unlink((dir + "/log").c_str())); });
    parity.same("its content", [](auto& dir) { return read_all(dir + "/log"); });
    parity.same("no a", [&](auto& dir) { return set_flags(dir + "/log", 0); });
    parity.same_trees();
}

TEST_CASE("an open waits for a lease on the file to be given up") {
    const ViewMount mount({"max_size=64K"});
    const UniqueFd held = make_file(mount.raw("file"), "hello");
    std::signal(SIGIO, SIG_IGN);  // with which the kernel asks for it
    must(::fcntl(held.get(), F_SETLEASE, F_WRLCK), "F_SETLEASE");
    // By a process of its own: the lease must not be that of the process that waits.
    Process reader({"cat", mount.view("file")});
    REQUIRE(eventually([&] { return ::fcntl(held.get(), F_GETLEASE) == F_RDLCK; }));
    CHECK(reader.running());
    const UniqueFd refused(::open(mount.view("file").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    CHECK(answer(refused.get()) == "EAGAIN");
    Process impatient({"cat", mount.view("file")});
    CHECK(status(mount.view("file")).st_mode == status(mount.raw("file")).st_mode);  // nobody else waits
    REQUIRE(eventually([&] { return command_name(impatient.pid()) == "cat"; }));
    must(::kill(impatient.pid(), SIGTERM), "kill");
    CHECK(impatient.wait() == "killed by SIGTERM");
    CHECK(reader.running());
    must(::fcntl(held.get(), F_SETLEASE, F_UNLCK), "F_SETLEASE");
    CHECK(reader.wait() == "exit 0");
    CHECK(reader.output() == (kernel_maps_direct_files() ? "hello" : padded("hello", 64 * KiB)));
}

TEST_SUITE_END();
