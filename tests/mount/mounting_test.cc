// Mounting by the daemon itself: when it returns, what it shows, and its options.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tests/mount/daemon_usage.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

bool has_option(const std::string& options, const std::string& option) {
    return ("," + options + ",").find("," + option + ",") != std::string::npos;
}

// Mounts `source` on `mountpoint`, checks that what `backing` holds shows as a view, and unmounts.
void check_mounts(const std::string& source, const std::string& mountpoint, const std::string& backing,
                  const Process::Setup& setup = {}) {
    CAPTURE(source);
    CAPTURE(mountpoint);
    const Run started = run_daemon({source, mountpoint, "-o", "max_size=1M"}, setup);
    CHECK_MESSAGE(started.ending == "exit 0", started.ending, ": ", started.errors);
    const auto path = std::filesystem::path(setup.directory) / mountpoint;
    const std::string real_mountpoint = std::filesystem::canonical(path).string();
    REQUIRE(mounts_at(real_mountpoint) == 1);
    CHECK(answers(real_mountpoint));
    // As it was given, for what reads the mount table; but a relative path would mean nothing there.
    const std::string shown =
        source[0] == '/' ? source : std::filesystem::canonical(setup.directory + "/" + source).string();
    CHECK(mounted_at(real_mountpoint)->source == shown);
    const std::string name = std::filesystem::path(backing).filename().string();
    CHECK(size_of(real_mountpoint + "/" + name) == MiB);
    CHECK(unmount_and_wait(real_mountpoint) == "exit 0");
    CHECK(mounts_at(real_mountpoint) == 0);
}

}  // namespace

TEST_SUITE_BEGIN("mounting");

TEST_CASE("the daemon returns when the mount answers, and ends when it is unmounted") {
    const Directories directories;
    make_file(directories.raw("file"), "abc");
    for (int round = 0; round < 10; ++round) {
        const Run started = run_daemon({directories.source(), directories.mountpoint()});
        CHECK_MESSAGE(started.ending == "exit 0", started.ending, ": ", started.errors);
        CHECK(answers(directories.mountpoint()));
        CHECK(size_of(directories.view("file")) == GiB);
        const auto mount = mounted_at(directories.mountpoint());
        REQUIRE(mount);
        CHECK(mount->type == "fuse.nosigbus");
        CHECK(mount->source == directories.source());
        CHECK(has_option(mount->options, "rw"));
        CHECK(unmount_and_wait(directories.mountpoint()) == "exit 0");
        CHECK(mounts_at(directories.mountpoint()) == 0);
    }
}

TEST_CASE("the daemon keeps neither its caller's output nor its caller's directory") {
    const Directories directories;
    const Run piped =
        run({"sh", "-c",
             fmt::format("{} {} {} 2>&1 | cat", daemon_program, directories.source(), directories.mountpoint())},
            {.directory = directories.plain()}, patience);
    CHECK(piped.ending == "exit 0");
    CHECK(answers(directories.mountpoint()));
    CHECK(answer(::umount2(directories.plain().c_str(), 0)) == "0");
    CHECK(unmount_and_wait(directories.mountpoint()) == "exit 0");
}

TEST_CASE("with -f the daemon stays") {
    ViewMount mount;
    CHECK(mount.running());
    CHECK(children() == std::vector<pid_t>{mount.pid()});
    CHECK(eventually([&] { return mount.unmount() == 0; }));  // it looks at its mount itself when it starts
    CHECK(mount.wait() == "exit 0");
}

TEST_CASE("with -d the daemon tells what it does") {
    const Directories directories;
    make_file(directories.raw("file"), "abc");
    Process daemon({daemon_program, "-d", "-f", directories.source(), directories.mountpoint(), "-o", "max_size=1M"});
    REQUIRE(eventually([&] { return mounts_at(directories.mountpoint()) == 1; }));
    const std::size_t before = daemon.errors().size();
    CHECK(read_all(open_file(directories.view("file"), O_RDONLY | O_DIRECT).get()).starts_with("abc"));
    CHECK(eventually([&] { return daemon.errors().size() > before; }));
    CHECK(eventually([&] { return ::umount2(directories.mountpoint().c_str(), 0) == 0; }));
    CHECK(daemon.wait() == "exit 0");
}

TEST_CASE("-V and -h answer and mount nothing") {
    const Directories directories;
    const Run version = run_daemon({"-V"});
    CHECK(version.ending == "exit 0");
    CHECK(version.output.find(NOSIGBUS_VERSION) != std::string::npos);
    const Run help = run_daemon({"-h"});
    CHECK(help.ending == "exit 0");
    for (const std::string word :
         {"SOURCE", "MOUNTPOINT", "-o", "-f", "-d", "-V", "-h", "max_size", "allow_other", "ro", "rw"}) {
        CHECK_MESSAGE(help.output.find(word) != std::string::npos, word, " is not in\n", help.output);
    }
    CHECK(run_daemon({"-h", directories.source(), directories.mountpoint()}).ending == "exit 0");
    CHECK(nosigbus_mounts().empty());
    CHECK(children().empty());
}

TEST_CASE("directories may be named in any way") {
    const Directories directories;
    const std::string& root = directories.root();
    make_file(directories.raw("file"), "abc");
    for (const std::string name : {"/with space", "/comma,comma", "/back\\slash", "/sourcelike", "/viewlike"}) {
        must(::mkdir((root + name).c_str(), 0755), "mkdir");
        make_file(root + name + "/file", "abc");
    }
    must(::symlink("source", (root + "/link to source").c_str()), "symlink");
    must(::symlink("view", (root + "/link to view").c_str()), "symlink");
    const std::string view = directories.mountpoint();
    check_mounts("source", "view", directories.raw("file"), {.directory = root});
    check_mounts("./source/../source/", "./view/", directories.raw("file"), {.directory = root});
    check_mounts(".", view, directories.raw("file"), {.directory = directories.source()});
    check_mounts(directories.source(), ".", directories.raw("file"), {.directory = view});
    check_mounts(root + "/link to source", root + "/link to view", directories.raw("file"));
    check_mounts(root + "/with space", root + "/comma,comma", root + "/with space/file");
    check_mounts(root + "/comma,comma", root + "/back\\slash", root + "/comma,comma/file");
    check_mounts(root + "/back\\slash", root + "/with space", root + "/back\\slash/file");
    // A name that only begins with the other's is neither inside it nor around it.
    check_mounts(directories.source(), root + "/sourcelike", directories.raw("file"));
    check_mounts(root + "/viewlike", view, root + "/viewlike/file");
}

TEST_CASE("a directory can be mounted over itself, and its views then cover it") {
    const Directories directories;
    const UniqueFd backing = make_file(directories.raw("file"), pattern(0, 5000));
    const Run started = run_daemon({directories.source(), directories.source(), "-o", "max_size=1M"});
    CHECK_MESSAGE(started.ending == "exit 0", started.ending, ": ", started.errors);
    CHECK(size_of(directories.raw("file")) == MiB);
    CHECK(size_of(backing.get()) == 5000);
    {
        const Mapping mapping(open_file(directories.raw("file"), O_RDONLY).get(), MiB);
        CHECK(difference(mapping.bytes(), padded(pattern(0, 5000), MiB)) == "");
        resize(backing.get(), 3);
        CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, 3), MiB); }));
    }
    CHECK(unmount_and_wait(directories.source()) == "exit 0");
    CHECK(size_of(directories.raw("file")) == 3);
}

TEST_CASE("one source can be mounted in several places") {
    const Directories directories;
    const UniqueFd backing = make_file(directories.raw("file"), pattern(0, 5000));
    const std::string other = directories.root() + "/other";
    must(::mkdir(other.c_str(), 0755), "mkdir");
    CHECK(run_daemon({directories.source(), directories.mountpoint(), "-o", "max_size=1M"}).ending == "exit 0");
    CHECK(run_daemon({directories.source(), other, "-o", "max_size=2M"}).ending == "exit 0");
    {
        const Mapping one(open_file(directories.view("file"), O_RDONLY).get(), MiB);
        const Mapping two(open_file(other + "/file", O_RDONLY).get(), 2 * MiB);
        CHECK(one.touch() == MiB / page);
        CHECK(two.touch() == 2 * MiB / page);
        resize(backing.get(), 3);
        CHECK(eventually([&] { return one.bytes() == padded(pattern(0, 3), MiB); }));
        CHECK(eventually([&] { return two.bytes() == padded(pattern(0, 3), 2 * MiB); }));
        write_at(open_file(directories.view("file"), O_WRONLY).get(), 0, "through one");
        CHECK(eventually([&] { return two.bytes() == padded("through one", 2 * MiB); }));
    }
    CHECK(answer(::umount2(other.c_str(), 0)) == "0");
    CHECK(size_of(directories.view("file")) == MiB);
    CHECK(unmount_and_wait(directories.mountpoint()) == "exit 0, exit 0");
}

TEST_CASE("a directory of a disk's file system can be the source") {
    const Directories directories;
    const std::string source = directories.root() + "/ordinary";
    must(::mkdir(source.c_str(), 0755), "mkdir");
    const UniqueFd backing = make_file(source + "/file", pattern(0, 5 * page));
    CHECK(run_daemon({source, directories.mountpoint(), "-o", "max_size=1M"}).ending == "exit 0");
    {
        const UniqueFd view = open_file(directories.view("file"), O_RDWR);
        const Mapping mapping(view.get(), MiB, PROT_READ | PROT_WRITE);
        CHECK(difference(mapping.bytes(), padded(pattern(0, 5 * page), MiB)) == "");
        resize(backing.get(), 10);
        CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, 10), MiB); }));
        CHECK(mapping.store(3, "mine") == 4);
        CHECK(mapping.sync() == 0);
        CHECK(read_all(backing.get()).substr(3, 4) == "mine");
    }
    CHECK(unmount_and_wait(directories.mountpoint()) == "exit 0");
}

TEST_CASE("generic mount options are the mount's") {
    const Directories directories;
    const std::string& source = directories.source();
    const std::string& view = directories.mountpoint();
    CHECK(run_daemon({"-o", "nosuid,nodev", source, "-o", "noexec,noatime", view, "-o", "ro,max_size=2M"}).ending ==
          "exit 0");
    const auto mount = mounted_at(view);
    REQUIRE(mount);
    for (const std::string option : {"ro", "nosuid", "nodev", "noexec", "noatime"}) {
        CHECK_MESSAGE(has_option(mount->options, option), option, " is not in ", mount->options);
    }
    CHECK(has_option(mount->super_options, "default_permissions"));
    CHECK(unmount_and_wait(view) == "exit 0");
    for (const std::string options : {"rw", "defaults", "rw,suid,dev,exec,async,atime,relatime",
                                      "sync,dirsync,nodiratime", "ro,rw", "strictatime", "lazytime", "silent,loud"}) {
        CAPTURE(options);
        const Run started = run_daemon({source, view, "-o", options});
        CHECK_MESSAGE(started.ending == "exit 0", started.ending, ": ", started.errors);
        CHECK(answers(view));
        if (answers(view)) CHECK(unmount_and_wait(view) == "exit 0");
    }
}

TEST_CASE("all users see the mount, unless it is told otherwise") {
    const auto seen_by_nobody = [](const std::vector<std::string>& options) {
        const ViewMount mount(options);
        make_file(mount.raw("file"), "abc");
        return as_user(nobody, [&] { return answer(::access(mount.view("file").c_str(), R_OK)); });
    };
    CHECK(seen_by_nobody({}) == "0");
    CHECK(seen_by_nobody({"allow_other"}) == "0");
    CHECK(seen_by_nobody({"noallow_other"}) == "EACCES");
    CHECK(seen_by_nobody({"noallow_other", "allow_other"}) == "0");
}

TEST_CASE("a read-only mount refuses every change and follows the file all the same") {
    const ViewMount mount({"ro", "max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 5000));
    must(::mkdir(mount.raw("directory").c_str(), 0755), "mkdir");
    const std::string file = mount.view("file");
    const std::string fresh = mount.view("new");
    CHECK(answer(::open(file.c_str(), O_WRONLY)) == "EROFS");
    CHECK(answer(::open(file.c_str(), O_RDWR)) == "EROFS");
    CHECK(answer(::open(file.c_str(), O_RDONLY | O_TRUNC)) == "EROFS");
    CHECK(answer(::open(fresh.c_str(), O_RDWR | O_CREAT, 0644)) == "EROFS");
    CHECK(answer(::truncate(file.c_str(), 0)) == "EROFS");
    CHECK(answer(::unlink(file.c_str())) == "EROFS");
    CHECK(answer(std::rename(file.c_str(), fresh.c_str())) == "EROFS");
    CHECK(answer(::link(file.c_str(), fresh.c_str())) == "EROFS");
    CHECK(answer(::symlink("target", fresh.c_str())) == "EROFS");
    CHECK(answer(::mkdir(fresh.c_str(), 0755)) == "EROFS");
    CHECK(answer(::rmdir(mount.view("directory").c_str())) == "EROFS");
    CHECK(answer(::chmod(file.c_str(), 0600)) == "EROFS");
    CHECK(answer(::chown(file.c_str(), 1, 1)) == "EROFS");
    CHECK(answer(::utimensat(AT_FDCWD, file.c_str(), nullptr, 0)) == "EROFS");
    CHECK(answer(::access(file.c_str(), W_OK)) == "EROFS");
    const UniqueFd view = open_file(file, O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(difference(mapping.bytes(), padded(pattern(0, 5000), MiB)) == "");
    CHECK(answer(::mprotect(mapping.data(), MiB, PROT_READ | PROT_WRITE)) == "EACCES");
    write_at(backing.get(), 0, pattern(0, 9000, 1));
    CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, 9000, 1), MiB); }));
    resize(backing.get(), 0);
    CHECK(::fsync(view.get()) == 0);
    CHECK(difference(mapping.bytes(), padded("", MiB)) == "");
}

TEST_CASE("root's mount reads further ahead than the kernel's default") {
    const ViewMount mount;
    const dev_t device = status(mount.mountpoint()).st_dev;
    // It is set once the mount answers, so a moment later than we are here.
    CHECK(eventually([&] {
        unsigned kib = 0;
        std::ifstream(fmt::format("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device))) >> kib;
        return kib >= 256;
    }));
}

TEST_SUITE_END();
