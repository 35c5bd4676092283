// What the worker may do, at any time of its life and its supervisor's, and that it can still do all it is there for.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <array>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

#include "tests/mount/counters.h"
#include "tests/mount/daemon_usage.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

using Status = std::map<std::string, std::string>;

Status status_in(const std::filesystem::path& directory) {
    Status found;
    std::ifstream file(directory / "status");
    for (std::string line; std::getline(file, line);) {
        const auto colon = line.find(":\t");
        if (colon != std::string::npos) found[line.substr(0, colon)] = line.substr(colon + 2);
    }
    return found;
}

Status status_of(pid_t pid) {
    return status_in(fmt::format("/proc/{}", pid));
}

std::vector<Status> threads_of(pid_t pid) {
    std::vector<Status> found;
    for (const auto& thread : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid)))
        found.push_back(status_in(thread.path()));
    return found;
}

// "" of a process that is gone.
std::string mount_namespace_of(pid_t pid) {
    std::error_code gone;
    return std::filesystem::read_symlink(fmt::format("/proc/{}/ns/mnt", pid), gone).string();
}

// Those of the table in docs/design.md, as far as we have them ourselves.
std::string kept_capabilities() {
    std::uint64_t kept = 0;
    for (const unsigned each : {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, CAP_SETUID,
                                CAP_SETGID, CAP_MKNOD, CAP_SETFCAP, CAP_LINUX_IMMUTABLE, CAP_SYS_ADMIN})
        kept |= std::uint64_t{1} << each;
    return fmt::format("{:016x}", kept & std::stoull(status_of(::getpid())["CapPrm"], nullptr, 16));
}

const std::string none = "0000000000000000";

// What is missing of the confinement of a worker of root's.
std::string missing(pid_t worker) {
    std::string found;
    const auto expect = [&found](const std::string& what, const std::string& is, const std::string& wanted) {
        if (is != wanted) found += fmt::format("{} is {} and not {}; ", what, is, wanted);
    };
    for (Status& thread : threads_of(worker)) {
        for (const char* set : {"CapEff", "CapPrm", "CapBnd"}) expect(set, thread[set], kept_capabilities());
        for (const char* set : {"CapInh", "CapAmb"}) expect(set, thread[set], none);
        expect("NoNewPrivs", thread["NoNewPrivs"], "1");
        expect("Seccomp", thread["Seccomp"], "2");
    }
    if (mount_namespace_of(worker) == mount_namespace_of(::getpid())) found += "it is in our mount namespace; ";
    std::error_code no_log;
    const auto log = std::filesystem::canonical("/dev/log", no_log).parent_path();
    for (const Mount& mount : mount_table(fmt::format("/proc/{}/mountinfo", worker))) {
        const std::string& at = mount.mountpoint;
        if (at != "/" && at != "/proc" && !at.starts_with("/proc/") && at != "/dev" && at != log)
            found += fmt::format("it has {}; ", at);
        if (at == "/" && mount.type != "tmpfs" && !daemon_is_sanitized()) found += "it has our root directory; ";
        if (!mount.options.starts_with("ro,")) found += fmt::format("it may write to {}; ", at);
        if (mount.type == "fuse.nosigbus") found += "it has our own mount; ";
    }
    return found;
}

// Whether that process is as free as this one.
bool is_free(pid_t pid) {
    Status its = status_of(pid);
    Status ours = status_of(::getpid());
    for (const char* each : {"CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp"}) {
        if (its[each] != ours[each]) return false;
    }
    return mount_namespace_of(pid) == mount_namespace_of(::getpid());
}

// All mounts of this namespace are shared while it lives: what is mounted comes to all its copies too.
class SharedMounts {
  public:
    SharedMounts() { set(MS_SHARED); }
    SharedMounts(const SharedMounts&) = delete;
    SharedMounts& operator=(const SharedMounts&) = delete;
    ~SharedMounts() { ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr); }

  private:
    static void set(unsigned long kind) { must(::mount("none", "/", nullptr, MS_REC | kind, nullptr), "mount"); }
};

void bind_mount(const std::string& from, const std::string& to) {
    must(::mkdir(to.c_str(), 0755), "mkdir");
    must(::mount(from.c_str(), to.c_str(), nullptr, MS_BIND, nullptr), "bind");
}

std::string attribute(const std::string& path, const char* name) {
    std::array<char, 256> value{};
    const ssize_t length = ::getxattr(path.c_str(), name, value.data(), value.size());
    return length < 0 ? answer(-1) : std::string(value.data(), static_cast<std::size_t>(length));
}

// A program of which the kernel refuses one system call.
void refuse_call(unsigned number) {
    std::array<sock_filter, 4> filter = {{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
                                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)}};
    const sock_fprog program{.len = filter.size(), .filter = filter.data()};
    must(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "seccomp");
}

std::size_t count_of(const std::string& text, const std::string& part) {
    std::size_t count = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
    return count;
}

}  // namespace

TEST_SUITE_BEGIN("confinement");

TEST_CASE("the worker is confined, whichever it is; the supervisor and its heir are not, whichever they are") {
    ViewMount mount;
    make_file(mount.raw("file"), "abc");
    const auto check = [&mount] {
        CAPTURE(mount.pid());
        CHECK(read_all(mount.view("file")).substr(0, 3) == "abc");
        CHECK(missing(worker_of(mount.pid())) == "");
        CHECK(threads_of(worker_of(mount.pid())).size() > 1);
        CHECK(is_free(mount.pid()));
        CHECK(eventually([&] { return heir_of(mount.pid()) != 0; }));
        CHECK(is_free(heir_of(mount.pid())));
    };
    check();
    const std::string first_namespace = mount_namespace_of(worker_of(mount.pid()));
    for (int i = 0; i < 3; ++i) {
        CHECK(kill_worker(mount.pid()) > 0);
        check();
    }
    mount.kill_supervisor();
    check();
    CHECK(kill_worker(mount.pid()) > 0);
    check();
    CHECK(run({daemon_program, "--reload", mount.mountpoint()}).ending == "exit 0");
    check();
    mount.kill_supervisor();
    check();
    // It is made once and not with every worker.
    CHECK(mount_namespace_of(worker_of(mount.pid())) == first_namespace);
    CHECK(count_of(mount.errors(), "missing:") == 0);
    ::kill(mount.pid(), SIGTERM);
    CHECK(mount.wait() == "exit 0");
    CHECK_FALSE(mounted_at(mount.mountpoint()));
}

TEST_CASE("SIGTERM detaches after each kind of succession, and a reader keeps its mapping") {
    ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 5000));
    std::optional<Mapping> mapping(std::in_place, open_file(mount.view("file"), O_RDONLY).get(), MiB);
    SUBCASE("of the worker") {
        CHECK(kill_worker(mount.pid()) > 0);
    }
    SUBCASE("of the supervisor") {
        mount.kill_supervisor();
    }
    SUBCASE("of the program") {
        CHECK(run({daemon_program, "--reload", mount.mountpoint()}).ending == "exit 0");
    }
    SUBCASE("of the program, and then the supervisor") {
        CHECK(run({daemon_program, "--reload", mount.mountpoint()}).ending == "exit 0");
        mount.kill_supervisor();
    }
    SUBCASE("none") {}
    ::kill(mount.pid(), SIGTERM);
    CHECK(eventually([&] { return !mounted_at(mount.mountpoint()); }));
    CHECK(difference(mapping->bytes(), padded(pattern(0, 5000), MiB)) == "");
    CHECK(mount.running());
    CHECK(kill_worker(mount.pid()) > 0);
    resize(backing.get(), 10);
    CHECK(eventually([&] { return mapping->bytes() == padded(pattern(0, 10), MiB); }));
    mapping.reset();
    CHECK(mount.wait() == "exit 0");
    CHECK(count_of(mount.errors(), "our mount is not") == 0);
}

TEST_CASE("two signals at once end it at once, and leave no mount") {
    ViewMount mount;
    const UniqueFd held = make_file(mount.view("file"), "abc");
    ::kill(mount.pid(), SIGSTOP);
    ::kill(mount.pid(), SIGTERM);
    ::kill(mount.pid(), SIGINT);
    ::kill(mount.pid(), SIGCONT);
    CHECK(mount.wait() == "exit 0");
    CHECK_FALSE(mounted_at(mount.mountpoint()));
}

TEST_CASE("the last unmount ends the daemon, however often the view was bound elsewhere") {
    for (const bool shared : {false, true}) {
        for (const bool killed : {false, true}) {
            CAPTURE(shared);
            CAPTURE(killed);
            std::optional<SharedMounts> sharing;
            if (shared) sharing.emplace();
            ViewMount mount;
            make_file(mount.raw("file"), "abc");
            bind_mount(mount.mountpoint(), mount.root() + "/early");
            if (killed) CHECK(kill_worker(mount.pid()) > 0);
            bind_mount(mount.mountpoint(), mount.root() + "/late");
            bind_mount(mount.source(), mount.root() + "/other");
            CHECK(size_of(mount.view("file")) == GiB);  // whichever worker answers is confined
            CHECK(missing(worker_of(mount.pid())) == "");
            CHECK(eventually([&] { return mount.unmount() == 0; }));
            for (const std::string name : {"/early", "/late"}) {
                CHECK(mount.running());
                CHECK(size_of(mount.root() + name + "/file") == GiB);
                CHECK(eventually([&] { return ::umount2((mount.root() + name).c_str(), 0) == 0; }));
            }
            CHECK(mount.wait() == "exit 0");
        }
    }
}

TEST_CASE("no other file system that was mounted before is kept in use") {
    // Its daemon ends when nobody has it mounted any more, in any namespace.
    ViewMount other;
    const ViewMount mount;
    SUBCASE("by the first worker") {}
    SUBCASE("by the second") {
        CHECK(kill_worker(mount.pid()) > 0);
        size_of(mount.mountpoint());
    }
    CHECK(eventually([&] { return other.unmount() == 0; }));
    CHECK(other.wait() == "exit 0");
}

TEST_CASE("file systems that are mounted inside the source later are seen, and can be written") {
    const ViewMount mount;
    must(::mkdir(mount.raw("inner").c_str(), 0755), "mkdir");
    CHECK(answer(::access(mount.view("inner/file").c_str(), F_OK)) == "ENOENT");
    mount_tmpfs(mount.raw("inner"));
    make_file(mount.raw("inner/file"), "abc");
    CHECK(read_all(mount.view("inner/file")).substr(0, 3) == "abc");
    make_file(mount.view("inner/new"), "new");
    CHECK(read_all(mount.raw("inner/new")) == "new");
    CHECK(kill_worker(mount.pid()) > 0);
    must(::mkdir(mount.raw("second").c_str(), 0755), "mkdir");
    mount_tmpfs(mount.raw("second"));
    make_file(mount.raw("second/file"), "def");
    CHECK(read_all(mount.view("second/file")).substr(0, 3) == "def");
    CHECK(read_all(mount.view("inner/file")).substr(0, 3) == "abc");
    // And what they are mounted on stays, with them, though the worker has no such mount: is_local_mountpoint.
    CHECK(answer(::rmdir(mount.view("second").c_str())) == "EBUSY");
    CHECK(answer(std::rename(mount.view("second").c_str(), mount.view("third").c_str())) == "EBUSY");
    must(::mkdir(mount.raw("third").c_str(), 0755), "mkdir");
    CHECK(answer(std::rename(mount.view("third").c_str(), mount.view("second").c_str())) == "EBUSY");
    CHECK(read_all(mount.raw("second/file")) == "def");
    // What is read-only there stays so.
    must(::mount(nullptr, mount.raw("second").c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr), "remount");
    CHECK(answer(::open(mount.view("second/x").c_str(), O_RDWR | O_CREAT, 0600)) == "EROFS");
}

TEST_CASE("root can do all that root could: owners, modes, devices, attributes of every kind") {
    const ViewMount mount;
    const std::string view = mount.view("file");
    const std::string raw = mount.raw("file");
    make_file(view, "abc");
    CHECK(answer(::chown(view.c_str(), 1234, 5678)) == "0");
    CHECK(status(raw).st_uid == 1234);
    CHECK(status(raw).st_gid == 5678);
    CHECK(answer(::chmod(view.c_str(), 06755)) == "0");
    CHECK(status(raw).st_mode == (S_IFREG | 06755));
    for (const std::string name : {"trusted.test", "security.test"}) {
        CAPTURE(name);
        CHECK(answer(::setxattr(view.c_str(), name.c_str(), "value", 5, 0)) == "0");
        CHECK(attribute(raw, name.c_str()) == "value");
        CHECK(attribute(view, name.c_str()) == "value");
        CHECK(answer(::removexattr(view.c_str(), name.c_str())) == "0");
    }
    vfs_cap_data capability{};
    capability.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE;
    capability.data[0].permitted = 1 << CAP_NET_RAW;
    constexpr std::size_t length = XATTR_CAPS_SZ_2;
    CHECK(answer(::setxattr(view.c_str(), "security.capability", &capability, length, 0)) == "0");
    CHECK(attribute(raw, "security.capability").size() == length);
    CHECK(answer(::mknod(mount.view("null").c_str(), S_IFCHR | 0666, makedev(1, 3))) == "0");
    CHECK(status(mount.raw("null")).st_rdev == makedev(1, 3));
    CHECK(answer(::mkfifo(mount.view("fifo").c_str(), 0600)) == "0");
    CHECK(answer(::symlink("file", mount.view("symlink").c_str())) == "0");
    CHECK(answer(::link(view.c_str(), mount.view("link").c_str())) == "0");
    CHECK(status(raw).st_nlink == 2);
    // A file that nobody but its owner may read, in a directory that nobody but another may enter.
    must(::mkdir(mount.raw("closed").c_str(), 0700), "mkdir");
    make_file(mount.raw("closed/file"), "closed");
    for (const char* name : {"closed/file", "closed"}) must(::chown(mount.raw(name).c_str(), 1234, 1234), "chown");
    must(::chmod(mount.raw("closed/file").c_str(), 0), "chmod");
    CHECK(read_all(mount.view("closed/file")).substr(0, 6) == "closed");
    write_at(open_file(mount.view("closed/file"), O_WRONLY).get(), 0, "opened");
    CHECK(read_all(mount.raw("closed/file")) == "opened");
    // And others what they could.
    must(::chmod(mount.raw("").c_str(), 0777), "chmod");
    CHECK(as_user(nobody, [&] { return answer(::mkdir(mount.view("nobodys").c_str(), 0755)); }) == "0");
    CHECK(status(mount.raw("nobodys")).st_uid == nobody);
    CHECK(status(mount.raw("nobodys")).st_gid == nobody);
    CHECK(as_user(nobody, [&] { return answer(::mknod(mount.view("null2").c_str(), S_IFCHR, makedev(1, 3))); }) ==
          "EPERM");
}

TEST_CASE("an ordinary user's worker has no_new_privs and a filter, too; its supervisor can detach the mount") {
    const Directories directories;
    // Here /dev/fuse may be root's alone.
    const std::string device = directories.root() + "/fuse";
    must(::mknod(device.c_str(), S_IFCHR | 0666, makedev(10, 229)), "mknod");
    must(::chmod(device.c_str(), 0666), "chmod");
    must(::mount(device.c_str(), "/dev/fuse", nullptr, MS_BIND, nullptr), "bind");
    must(::chown(directories.mountpoint().c_str(), nobody, nobody), "chown");
    must(::chown(directories.source().c_str(), nobody, nobody), "chown");
    make_file(directories.raw("file"), "abc");
    {
        Process daemon({daemon_program, directories.source(), directories.mountpoint(), "-f"},
                       {.before_exec = [] { become(nobody); }});
        const bool mounted = eventually([&] { return mounted_at(directories.mountpoint()) || !daemon.running(); });
        ::umount2("/dev/fuse", MNT_DETACH);
        REQUIRE_MESSAGE((mounted && daemon.running()), daemon.errors());
        const auto seen = [&] {
            return as_user(nobody, [&] { return read_all(directories.view("file")).substr(0, 3); });
        };
        const auto check = [&] {
            CHECK(seen() == "abc");
            REQUIRE(eventually([&] { return worker_of(daemon.pid()) != 0; }));
            for (Status& thread : threads_of(worker_of(daemon.pid()))) {
                CHECK(thread["NoNewPrivs"] == "1");
                CHECK(thread["Seccomp"] == "2");
                for (const char* set : {"CapEff", "CapPrm", "CapInh", "CapAmb"}) CHECK(thread[set] == none);
            }
            CHECK(status_of(daemon.pid())["NoNewPrivs"] == "0");
        };
        check();
        CHECK(eventually([&] { return heir_of(daemon.pid()) != 0; }));
        CHECK(kill_worker(daemon.pid()) > 0);
        check();
        CHECK(daemon.errors().find("missing:") == std::string::npos);
        ::kill(daemon.pid(), SIGTERM);
        CHECK(daemon.wait() == "exit 0");
        CHECK_FALSE(mounted_at(directories.mountpoint()));
    }
}

TEST_CASE("where no namespace can be made there is one warning, and all the rest") {
    const Directories directories;
    make_file(directories.raw("file"), "abc");
    Process daemon({daemon_program, directories.source(), directories.mountpoint(), "-f"},
                   {.before_exec = [] { refuse_call(SYS_pivot_root); }});
    REQUIRE(eventually([&] { return mounted_at(directories.mountpoint()) || !daemon.running(); }));
    CHECK(read_all(directories.view("file")).substr(0, 3) == "abc");
    REQUIRE(eventually([&] { return heir_of(daemon.pid()) != 0; }));
    bind_mount(directories.mountpoint(), directories.root() + "/bound");
    for (int i = 0; i < 2; ++i) {
        CHECK(kill_worker(daemon.pid()) > 0);
        CHECK(read_all(directories.view("file")).substr(0, 3) == "abc");
        // One that came before its former one was gone begins again, perhaps while we look.
        const bool as_it_should_be = eventually([&] {
            const pid_t pid = worker_of(daemon.pid());
            Status worker = status_of(pid);
            return worker["CapEff"] == kept_capabilities() && worker["NoNewPrivs"] == "1" &&
                   worker["Seccomp_filters"] == "2" && mount_namespace_of(pid) == mount_namespace_of(::getpid());
        });
        CHECK(as_it_should_be);
    }
    CHECK(count_of(daemon.errors(), "missing: a mount namespace of its own (pivot_root") == 1);
    for (const std::string& at : {directories.mountpoint(), directories.root() + "/bound"}) {
        CHECK(daemon.running());
        CHECK(eventually([&] { return ::umount2(at.c_str(), 0) == 0; }));
    }
    CHECK(daemon.wait() == "exit 0");
}

TEST_SUITE_END();
