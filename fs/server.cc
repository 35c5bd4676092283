#include "fs/server.h"

#include <fmt/format.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <fstream>

#include "fs/exit_status.h"
#include "fs/file_system.h"
#include "fs/mount.h"
#include "fs/request_threads.h"
#include "fs/session.h"
#include "lib/credentials.h"
#include "lib/log.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// Blocks the signals that ask us to end, for this thread and those it starts, and returns a descriptor to read them
// from.
UniqueFd watch_signals() {
    sigset_t ending;
    ::sigemptyset(&ending);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&ending, signal);
    sys::check(-::pthread_sigmask(SIG_BLOCK, &ending, nullptr), "pthread_sigmask");
    ::signal(SIGPIPE, SIG_IGN);  // NOLINT(cert-err33-c)
    return UniqueFd(sys::check(::signalfd(-1, &ending, SFD_CLOEXEC), "signalfd"));
}

// A descriptor for each inode the kernel knows: as many as we may have.
void raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    // Root may have as many as the system gives one process.
    rlim_t most = 0;
    std::ifstream("/proc/sys/fs/nr_open") >> most;
    const rlimit highest = {.rlim_cur = most, .rlim_max = most};
    if (most > limit.rlim_max && ::geteuid() == 0 && ::setrlimit(RLIMIT_NOFILE, &highest) == 0) return;
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

void check_kernel(FileSystem& fs, const RequestThreads& threads) {
    pollfd ended = {.fd = threads.ended_fd(), .events = POLLIN, .revents = 0};
    while (fs.init() == FileSystem::Init::waiting) {
        constexpr int look_again_ms = 1;
        if (::poll(&ended, 1, look_again_ms) > 0 && fs.init() == FileSystem::Init::waiting)
            throw MountFailed("the mount was gone before it was used", exit_status::mount_failed);
    }
    if (fs.init() == FileSystem::Init::refused) {
        throw MountFailed("this kernel is too old: FUSE_EXPLICIT_INVAL_DATA is needed, which came with Linux 5.2",
                          exit_status::system_error);
    }
    if (fs.options().cached_opens) {
        log::info("cached_opens: read(2) sees zeros up to the view's end");
    } else if (!fs.channel().maps_direct_files()) {
        log::warning(
            "this kernel cannot map files opened for direct I/O (Linux 6.6 can): read(2) sees zeros up to the view's "
            "end");
    }
}

// What follows changes uses the session until the threads for requests have ended, and must not after it.
class StopFollowing {
  public:
    explicit StopFollowing(FileSystem& fs) : fs_(fs) {}
    StopFollowing(const StopFollowing&) = delete;
    StopFollowing& operator=(const StopFollowing&) = delete;
    ~StopFollowing() { fs_.stop_following(); }

  private:
    FileSystem& fs_;
};

// Serves until the threads have ended. The first signal detaches the mount; readers that hold files keep being served.
void serve_until_ended(const RequestThreads& threads, const UniqueFd& signals, const Mount& mount) {
    std::array<pollfd, 2> wait = {pollfd{.fd = threads.ended_fd(), .events = POLLIN, .revents = 0},
                                  pollfd{.fd = signals.get(), .events = POLLIN, .revents = 0}};
    for (;;) {
        if (::poll(wait.data(), wait.size(), -1) < 0) continue;  // EINTR
        if (wait[0].revents != 0) return;
        signalfd_siginfo info{};
        if (::read(signals.get(), &info, sizeof info) == sizeof info) mount.detach();
    }
}

}  // namespace

void serve(UniqueFd source, const std::string& mount_point, const CommandLine& line, Daemon& daemon) {
    raise_descriptor_limit();
    ::umask(0);
    keep_capabilities_across_ids();
    const UniqueFd signals = watch_signals();
    FileSystem fs(std::move(source), line.options);
    const Session session = make_session(session_arguments(line.source, line.options, line.debug), fs);
    if (!session) throw MountFailed("libfuse does not take our options", exit_status::system_error);
    const Mount mount(session.get(), mount_point);
    fs.set_own_device(mount.device());
    Channel::attach(session.get(), mount.device_fd());
    const StopFollowing stop(fs);
    RequestThreads threads(session.get());
    try {
        fs.follow_changes(session.get());
        threads.start();
        check_kernel(fs, threads);
        mount.try_it();
        raise_readahead(mount.device());
        warn_of_request_timeouts();
        daemon.ready();
    } catch (...) {
        mount.detach();
        throw;
    }
    serve_until_ended(threads, signals, mount);
}

}  // namespace nosigbus
