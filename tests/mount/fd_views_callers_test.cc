// Whoever asks has a view of its own descriptor: other users, other namespaces, and those into which nobody may look.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include "tests/mount/fd_views.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr int number = 71;

// What is read by this name, or the name of the error.
std::string read_there(const std::string& name) {
    const UniqueFd view(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
    return view ? read_all(view.get()) : answer(-1);
}

// What `question` says in a process of its own, which may be changed by it.
std::string in_a_process(const std::function<std::string()>& question) {
    return as_user(0, question);
}

// The same, asked by a child of that process: CLONE_NEWPID is for children.
std::string in_a_pid_namespace(const std::function<std::string()>& question) {
    return in_a_process([&] {
        must(::unshare(CLONE_NEWPID), "unshare");
        return in_a_process(question);
    });
}

// A daemon that is process 1 of a pid namespace, in a mount namespace of its own, where /proc is that of this pid
// namespace or still the one from outside.
class Inside : public Directories {
  public:
    explicit Inside(bool with_its_proc)
        : process_({"unshare", "--pid", "--fork", "--kill-child", with_its_proc ? "--mount-proc" : "--mount",
                    daemon_program, source(), mountpoint(), "-f", "-o", "max_size=1M"}) {
        const bool mounted = eventually([&] {
            const auto below = children(process_.pid());
            if (below.empty()) return false;
            daemon_ = below.front();
            for (const Mount& mount : mount_table(fmt::format("/proc/{}/mountinfo", daemon_))) {
                if (mount.mountpoint == mountpoint()) return true;
            }
            return false;
        });
        if (!mounted) throw std::runtime_error("the daemon did not mount: " + process_.errors());
    }

    [[nodiscard]] pid_t daemon() const { return daemon_; }
    // The mount, from outside.
    [[nodiscard]] std::string name() const { return fmt::format("/proc/{}/root{}", daemon_, fd_name(*this, number)); }
    // What a process says that is in there with the daemon.
    [[nodiscard]] std::string ask_inside(const std::function<std::string()>& question) const {
        return in_a_process([&] {
            const UniqueFd daemon = end_of(daemon_);
            must(::setns(daemon.get(), CLONE_NEWPID | CLONE_NEWNS), "setns");
            return in_a_process(question);
        });
    }
    void end() {
        ::kill(daemon_, SIGKILL);
        CHECK(process_.wait() != "still running");
    }

  private:
    Process process_;
    pid_t daemon_ = 0;
};

}  // namespace

TEST_SUITE_BEGIN("fd-views");

TEST_CASE("a process into which nobody may look has its views") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd file = memfd("mine");
    const Numbered numbered(file.get(), number);
    const auto ask = [&] {
        must(::prctl(PR_SET_DUMPABLE, 0), "prctl");
        return read_there(fd_name(mount, number));
    };
    CHECK(in_a_process(ask) == "mine");
    CHECK(as_user(nobody, ask) == "mine");
    CHECK(as_user(nobody, [&] {
              must(::prctl(PR_SET_DUMPABLE, 1), "prctl");
              return read_there(fd_name(mount, number));
          }) == "mine");
    // Root with all capabilities was the first. One with a capability that the worker has not, and one without any:
    constexpr std::uint64_t kill_any = std::uint64_t{1} << 5U;  // CAP_KILL
    CHECK(as_user({.name = {}, .uid = nobody, .gid = nobody, .capabilities = kill_any}, ask) == "mine");
    CHECK(as_user({.name = {}, .uid = 0, .gid = 0, .capabilities = 0}, ask) == "mine");
}

TEST_CASE("a set-user-ID program and one that may not be read have their views") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd file = unlinked_file(mount.plain(), "mine");
    must(::fchmod(file.get(), 0600), "fchmod");
    const UniqueFd passed = same_file(file.get(), O_RDONLY);
    // The test's own directories are mounted nosuid.
    const std::string directory = mount.root() + "/programs";
    must(::mkdir(directory.c_str(), 0755), "mkdir");
    must(::mount("tmpfs", directory.c_str(), "tmpfs", 0, "mode=0755"), "mount");
    const std::string program = directory + "/cat";
    std::filesystem::copy_file(std::filesystem::canonical("/bin/cat"), program);
    struct Form {
        mode_t mode;
        uid_t owner;
    };
    for (const Form form : {Form{0755, 0}, Form{04755, 0}, Form{04755, 1234}, Form{0711, 0}, Form{06711, 7}}) {
        const mode_t mode = form.mode;  // clang 14 captures no structured binding
        const uid_t owner = form.owner;
        CAPTURE(mode);
        CAPTURE(owner);
        must(::chown(program.c_str(), owner, owner), "chown");
        must(::chmod(program.c_str(), mode), "chmod");
        for (const uid_t user : {uid_t{0}, nobody, uid_t{4321}}) {
            CAPTURE(user);
            const Run run = test::run({program, fd_name(mount, number)}, {.before_exec = [&] {
                                          must(::dup2(passed.get(), number), "dup2");
                                          become(user);
                                      }});
            CHECK(run.ending + ": " + run.errors == "exit 0: ");
            // Which reads to the end.
            CHECK((kernel_maps_direct_files() ? run.output : run.output.substr(0, 4)) == "mine");
        }
    }
}

TEST_CASE("of a thread with a table of its own that table counts") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd ours = memfd("the process's");
    const Numbered numbered(ours.get(), number);
    std::string theirs;
    std::string closed;
    std::string again;
    std::thread([&] {
        const UniqueFd other = memfd("the thread's");
        again = read_there(fd_name(mount, number));
        must(::unshare(CLONE_FILES), "unshare");
        must(::dup2(other.get(), number), "dup2");
        theirs = read_there(fd_name(mount, number));
        ::close(number);
        closed = read_there(fd_name(mount, number));
    }).join();
    CHECK(again == "the process's");
    // Without PIDFD_THREAD (Linux 6.9) a thread's table cannot be had, and it is refused.
    const UniqueFd thread(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), O_EXCL)));
    if (!thread) MESSAGE("this kernel has no PIDFD_THREAD: a thread with a table of its own is refused");
    CHECK(theirs == (thread ? "the thread's" : "EACCES"));
    CHECK(closed == (thread ? "ENOENT" : "EACCES"));
    CHECK(read_there(fd_name(mount, number)) == "the process's");
}

TEST_CASE("a process in a pid namespace, or several, has views of its own descriptors") {
    const ViewMount mount({"max_size=1M"});
    const Numbered ours(memfd("outside").get(), number);
    const auto ask = [&] {
        const Numbered theirs(memfd(fmt::format("of process {}", ::getpid())).get(), number);
        return read_there(fd_name(mount, number));
    };
    CHECK(in_a_pid_namespace(ask) == "of process 1");
    CHECK(in_a_pid_namespace([&] { return in_a_pid_namespace(ask); }) == "of process 1");
    CHECK(in_a_pid_namespace([&] { return as_user(nobody, ask); }) == "of process 2");
    CHECK(read_there(fd_name(mount, number)) == "outside");
}

TEST_CASE("a process in other namespaces, or with another root directory, has its views") {
    const ViewMount mount({"max_size=1M"});
    const Numbered numbered(memfd("mine").get(), number);
    CHECK(in_a_process([&] {
              must(::chroot(mount.mountpoint().c_str()), "chroot");
              return read_there(fmt::format("/" NOSIGBUS_FD_DIRECTORY "/{}", number));
          }) == "mine");
    CHECK(in_a_process([&] {
              must(::unshare(CLONE_NEWNS), "unshare");
              must(::umount2("/proc", MNT_DETACH), "umount");
              return read_there(fd_name(mount, number));
          }) == "mine");
    CHECK(as_user(nobody, [&] {
              must(::unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare");
              return read_there(fd_name(mount, number));
          }) == "mine");
}

TEST_CASE("a process that the server cannot see is refused, and has nobody else's file") {
    Inside inside(true);
    const Numbered ours(memfd("outside").get(), number);
    CHECK(read_there(inside.name()) == "EACCES");
    CHECK(in_a_pid_namespace([&] { return read_there(inside.name()); }) == "EACCES");
    // Those in there with it are served.
    CHECK(inside.ask_inside([&] {
        const Numbered theirs(memfd("inside").get(), number);
        return read_there(fd_name(inside, number));
    }) == "inside");
    // The rest of the mount is open to all.
    make_file(inside.raw("file"), "content");
    CHECK(read_there(fmt::format("/proc/{}/root{}", inside.daemon(), inside.view("file"))) == "content");
    inside.end();
}

TEST_CASE("a server whose /proc is of another pid namespace takes no process for another") {
    Inside inside(false);
    const Numbered ours(memfd("outside").get(), number);
    CHECK(read_there(inside.name()) == "EACCES");
    // What it is told is a number of its own namespace: there it is somebody else, or nobody.
    const std::string answer = inside.ask_inside([&] {
        const Numbered theirs(memfd("inside").get(), number);
        return read_there(fd_name(inside, number));
    });
    CHECK_MESSAGE((answer == "inside" || answer == "EACCES"), answer);
    inside.end();
}

TEST_CASE("the process that asks counts, not the one that opened the directory") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd directory = open_file(mount.view(NOSIGBUS_FD_DIRECTORY), O_PATH | O_DIRECTORY);
    const Numbered ours(memfd("the parent's").get(), number);
    const auto ask = [&] {
        const UniqueFd view(::openat(directory.get(), std::to_string(number).c_str(), O_RDONLY | O_CLOEXEC));
        return view ? read_all(view.get()) : answer(-1);
    };
    CHECK(ask() == "the parent's");
    CHECK(as_user(nobody, [&] {
              const Numbered theirs(memfd("the child's").get(), number);
              return ask();
          }) == "the child's");
    CHECK(as_user(nobody, [&] {
              ::close(number);
              return ask();
          }) == "ENOENT");
    CHECK(ask() == "the parent's");
}

TEST_SUITE_END();
