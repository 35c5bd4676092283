#include "tests/mount/guard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lib/unique_fd.h"
#include "tests/mount/directories.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/process.h"

namespace nosigbus::test {

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// Why the tests cannot run here, or nothing.
std::string missing() {
    if (::geteuid() != 0) return "needs root, to mount";
    if (!UniqueFd(::open("/dev/fuse", O_RDWR | O_CLOEXEC))) return fmt::format("/dev/fuse: {}", std::strerror(errno));
    if (::unshare(CLONE_NEWNS) != 0) return fmt::format("a mount namespace of its own: {}", std::strerror(errno));
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
        return fmt::format("a private mount namespace: {}", std::strerror(errno));
    }
    return {};
}

// Those of the tests' own servers, too, of whom a process can wait for ever as well.
std::vector<Mount> fuse_mounts() {
    std::vector<Mount> mounts = mount_table();
    std::erase_if(mounts, [](const Mount& mount) { return !mount.type.starts_with("fuse."); });
    return mounts;
}

// Other nosigbus mounts of the machine came along into our namespace. They are none of our business: whoever unmounts
// them must not have to wait for us, and the watchdog must not take them for ours. Detaching them here leaves them
// alone where they belong.
void forget_other_mounts() {
    for (const Mount& mount : nosigbus_mounts()) ::umount2(mount.mountpoint.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
}

Clock::duration deadline() {
    const char* seconds = std::getenv("NOSIGBUS_TEST_DEADLINE");
    return std::chrono::seconds(seconds != nullptr ? std::atoi(seconds) : 240);
}

class Watchdog {
  public:
    Watchdog(pid_t tests, const sigset_t& interrupts, std::set<unsigned> foreign, std::string directory)
        : tests_(tests),
          directory_(std::move(directory)),
          foreign_connections_(std::move(foreign)),
          tests_ended_(end_of(tests)),
          interrupted_(::signalfd(-1, &interrupts, SFD_CLOEXEC)),
          mounts_changed_(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC)) {}

    int watch() {
        const std::string stopped = wait_for_end(Clock::now() + deadline());
        int status = 0;
        const bool ended = ::waitpid(tests_, &status, WNOHANG) == tests_;
        if (ended && WIFEXITED(status)) {
            const bool left_something = report_leftovers();
            clean_up();
            return left_something ? EXIT_FAILURE : WEXITSTATUS(status);
        }
        fmt::print(stderr, "guard: {}\n", ended ? "the tests were " + ending(status) : stopped);
        clean_up();
        return EXIT_FAILURE;
    }

  private:
    // Returns why it stopped waiting. Notes the connections that come and go, for those that are detached while in use.
    std::string wait_for_end(Clock::time_point end) {
        for (;;) {
            const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
            if (left <= 0ms) return "the deadline is over (NOSIGBUS_TEST_DEADLINE)";
            pollfd events[] = {
                {tests_ended_.get(), POLLIN, 0}, {interrupted_.get(), POLLIN, 0}, {mounts_changed_.get(), POLLPRI, 0}};
            if (::poll(events, 3, static_cast<int>(left.count())) < 0 && errno != EINTR) return std::strerror(errno);
            if (events[0].revents != 0) return "the tests ended";
            if (events[1].revents != 0) return "interrupted";
            for (const Mount& mount : our_mounts()) connections_seen_.insert(mount.minor);
        }
    }

    [[nodiscard]] bool report_leftovers() const {
        const auto mounts = our_mounts();
        for (const Mount& mount : mounts) fmt::print(stderr, "guard: left mounted: {}\n", mount.mountpoint);
        const auto processes = children();
        for (const pid_t pid : processes) fmt::print(stderr, "guard: left running: {} ({})\n", pid, command_name(pid));
        return !mounts.empty() || !processes.empty();
    }

    void clean_up() {
        abort_and_kill();
        take_down(directory_);
    }

    void abort_and_kill() {
        for (const Mount& mount : our_mounts()) {
            const bool aborted = abort_connection(mount.minor);
            fmt::print(stderr, "guard: {} connection {} ({} on {})\n", aborted ? "aborted" : "could not abort",
                       mount.minor, mount.source, mount.mountpoint);
        }
        ::kill(-tests_, SIGKILL);
        if (reap_everything(Clock::now() + 10s)) return;
        // Somebody still sleeps in a mount that was detached. Its number may have gone to another mount since, hence
        // only now.
        for (const unsigned connection : connections_seen_) {
            if (abort_connection(connection)) fmt::print(stderr, "guard: aborted detached connection {}\n", connection);
        }
        if (reap_everything(Clock::now() + 10s)) return;
        for (const pid_t pid : children()) fmt::print(stderr, "guard: unkillable: {} ({})\n", pid, command_name(pid));
    }

    // As a subreaper this process inherits all that its children leave behind. True when nothing is left.
    static bool reap_everything(Clock::time_point end) {
        while (Clock::now() < end) {
            for (const pid_t pid : children()) ::kill(pid, SIGKILL);
            const pid_t reaped = ::waitpid(-1, nullptr, WNOHANG);
            if (reaped < 0 && errno == ECHILD) return true;
            if (reaped == 0) std::this_thread::sleep_for(5ms);
        }
        return false;
    }

    // The mounts that the tests made.
    [[nodiscard]] std::vector<Mount> our_mounts() const {
        std::vector<Mount> mounts = fuse_mounts();
        std::erase_if(mounts, [this](const Mount& mount) { return foreign_connections_.contains(mount.minor); });
        return mounts;
    }

    pid_t tests_;
    std::string directory_;  // all that the tests make is below
    std::set<unsigned> foreign_connections_;
    UniqueFd tests_ended_;
    UniqueFd interrupted_;
    UniqueFd mounts_changed_;
    std::set<unsigned> connections_seen_;
};

}  // namespace

int guarded(const std::function<int()>& tests) {
    if (const std::string reason = missing(); !reason.empty()) {
        fmt::print(stderr, "mount tests skipped: {}\n", reason);
        return skipped;
    }
    forget_other_mounts();
    std::set<unsigned> foreign;
    for (const Mount& mount : fuse_mounts()) foreign.insert(mount.minor);
    sigset_t interrupts;
    sigset_t before;
    ::sigemptyset(&interrupts);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&interrupts, signal);
    ::sigprocmask(SIG_BLOCK, &interrupts, &before);
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    const std::string directory = make_temporary_directory();
    ::setenv("TMPDIR", directory.c_str(), 1);
    const pid_t pid = ::fork();
    if (pid < 0) {
        fmt::print(stderr, "guard: fork: {}\n", std::strerror(errno));
        return EXIT_FAILURE;
    }
    if (pid == 0) {
        ::setpgid(0, 0);
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // a daemon that detached itself becomes ours again, and we see how it ends
        ::sigprocmask(SIG_SETMASK, &before, nullptr);
        return tests();
    }
    ::setpgid(pid, pid);
    return Watchdog(pid, interrupts, foreign, directory).watch();
}

}  // namespace nosigbus::test
