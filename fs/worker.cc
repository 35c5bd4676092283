#include "fs/worker.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "fs/exit_status.h"
#include "fs/fd_views.h"
#include "fs/file_system.h"
#include "fs/inbox.h"
#include "fs/mount.h"
#include "fs/oom.h"
#include "fs/request_threads.h"
#include "fs/session.h"
#include "lib/descriptor_table.h"
#include "lib/fault_point.h"
#include "lib/log.h"
#include "lib/pulse.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

using Clock = std::chrono::steady_clock;

// How often the worker says that it lives, and looks whether its threads do.
constexpr std::chrono::milliseconds interval{250};
// So many looks a thread may be found at the same piece of work.
constexpr unsigned looks = 8;

// What the last worker opened and nobody can find any more: a file whose node it had no time to note, its own eventfds.
// Returns those whose closing may take any time.
std::vector<UniqueFd> close_strays(const SharedState& state, const std::vector<int>& supervisors) {
    std::vector<int> kept(supervisors.begin(), supervisors.end());
    state.for_each_descriptor([&kept](int descriptor) { kept.push_back(descriptor); });
    std::sort(kept.begin(), kept.end());
    std::vector<UniqueFd> slow;
    for (const int each : open_descriptors()) {
        if (each <= STDERR_FILENO || std::binary_search(kept.begin(), kept.end(), each)) continue;
        if (fd_views::may_be_slow(each)) slow.emplace_back(each);
    }
    for (const UniqueFd& each : slow) kept.push_back(each.get());
    std::sort(kept.begin(), kept.end());
    unsigned from = STDERR_FILENO + 1;
    for (const int each : kept) {
        const auto descriptor = static_cast<unsigned>(each);
        if (descriptor > from) ::close_range(from, descriptor - 1, 0);
        from = std::max(from, descriptor + 1);
    }
    ::close_range(from, ~0U, 0);
    return slow;
}

// As _exit(2), of which sanitizers make more than that.
[[noreturn]] void exit_at_once(int status) {
    ::syscall(SYS_exit_group, status);
    std::abort();
}

void log_obituary(const Obituary& former) {
    std::string how = "is dying, and is held up in a system call";
    if (former.is_gone && WIFSIGNALED(former.status)) {
        how =
            fmt::format("was killed by signal {} ({})", WTERMSIG(former.status), ::strsignal(WTERMSIG(former.status)));
    } else if (former.is_gone) {
        how = fmt::format("ended with exit status {}", WEXITSTATUS(former.status));
    }
    if (former.hung) how = "did not answer any more, and " + how;
    const std::string pause =
        former.pause.count() > 0 ? fmt::format(", after a pause of {} ms", former.pause.count()) : "";
    log::warning("worker {} {}; worker {} goes on{} (restart {})", former.pid, how, ::getpid(), pause, former.number);
}

void check_kernel(FileSystem& fs, const RequestThreads& threads, const CommandLine& line) {
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
    if (fs.options().cached_opens) log::info("cached_opens: read(2) sees zeros up to the view's end");
    const std::string missing = fs.channel().missing_features();
    if (!missing.empty() && !line.is_for_a_program) log::warning("this kernel lacks {}", missing);
}

class Worker {
  public:
    explicit Worker(const Job& job) : job_(job), line_(job.state.lifeline()), is_first_(!line_.ever_served) {}

    // Once it serves.
    void close_slowly(std::vector<UniqueFd> descriptors) { slow_strays_ = std::move(descriptors); }

    // Returns when the connection has ended. Where it throws, nothing may be destroyed any more.
    void serve() {
        if (is_first_) open_what_has_a_path();
        confine();
        prepare();
        threads_ = std::make_unique<RequestThreads>(session_.get(), job_.state, fs_->former_workers());
        if (is_first_) {
            follow_changes();
            threads_->start();
            check_kernel(*fs_, *threads_, job_.line);
            try_mount(mount_.get());
            mount_.reset();
            raise_readahead(readahead_);
            readahead_.reset();
            warn_of_request_timeouts();
        } else {
            threads_->start();
        }
        if (!job_.line.foreground) leave_caller();
        line_.serving = true;
        line_.ring();
        watch();
        follow_on();
        line_.has_ended = true;
        if (!fs_->stop_following()) exit_at_once(exit_status::success);
    }

  private:
    // What the first worker works on after it was confined.
    void open_what_has_a_path() {
        mount_ = sys::open_at(AT_FDCWD, job_.mount_point.c_str(), O_PATH | O_DIRECTORY);
        readahead_ = open_readahead(line_.mount_device);
    }

    // Before any other thread starts: most of it is for the thread that calls and those it starts.
    void confine() {
        const std::string missing = job_.confinement.confine(line_.mount_namespace);
        if (missing.empty() || line_.said_unconfined.exchange(true)) return;
        log::warning(
            "whoever could make the server run code of his own could do more with it than need be: missing: {}",
            missing);
    }

    void prepare() {
        fault_point("worker.starts");
        if (is_first_) {
            fs_ = std::make_unique<FileSystem>(job_.state, UniqueFd(job_.source), job_.line.options);
        } else {
            fs_ = std::make_unique<FileSystem>(job_.state, job_.line.options);
        }
        static_cast<void>(fs_->former_workers().are_gone());  // which makes room for this one
        FormerWorkers::note_this_one(line_);
        // A supervisor first says that it is the one, then ends all who are noted: see inherit().
        if (line_.supervisor != job_.supervisor) exit_at_once(exit_status::system_error);
        take_log_of_libfuse();
        session_ = make_session(session_arguments(job_.line.source, job_.line.options, job_.line.debug), *fs_);
        if (!session_) throw MountFailed("libfuse does not take our options", exit_status::system_error);
        fs_->use(session_.get());
        fs_->have_errands_run();
        for (UniqueFd& stray : slow_strays_) fs_->slow_work().close(std::move(stray));
        fs_->set_own_device(line_.mount_device);
        // A descriptor of our own, which the session may close.
        Channel::attach(session_.get(), *fs_, sys::duplicate(line_.device).release());
        if (is_first_) return;
        fs_->take_over();
        fault_point("worker.taken_over");
        is_early_ = !fs_->former_workers().are_gone();
        fs_->channel().resume(session_.get(), fs_->unanswered(), !is_early_);
        if (!is_early_) {
            Inbox::take_over(job_.state, fs_->channel().kept(),
                             [this](SlotId node, std::uint64_t lookups) { fs_->nodes().forget(node, lookups); });
        }
        fault_point("worker.resumed");
    }

    // No page may be dropped or pushed while a former worker may still finish a push of older bytes.
    void follow_changes() {
        fs_->follow_changes();
        is_following_ = true;
    }

    // As the supervisor does, whose later workers inherit it.
    static void leave_caller() {
        log::use_syslog();
        sys::check(::chdir("/"), "chdir");
    }

    void watch() {
        start_ = Clock::now();
        auto next_look = start_;
        for (;;) {
            pollfd ended = {.fd = threads_->ended_fd(), .events = POLLIN, .revents = 0};
            constexpr int soon_ms = 2;
            if (::poll(&ended, 1, is_following_ && !is_early_ ? static_cast<int>(interval.count()) : soon_ms) > 0)
                return;
            fault_point("worker.watches");
            look_after_former();
            if (Clock::now() < next_look) continue;
            next_look = Clock::now() + interval;
            ++line_.beats;
            end_if_hung();
        }
    }

    // Who has a shadow mapped loads from it also where the connection was aborted, and is told the truth.
    void follow_on() {
        while (fs_->shadows().are_in_use()) {
            ::poll(nullptr, 0, static_cast<int>(interval.count()));
            look_after_former();
            ++line_.beats;
            end_if_hung();
        }
    }

    // What a former worker was given last, or did last, is not known before it is gone: a request that the kernel was
    // just handing to it is not asked again (fuse_dev_do_read keeps it on a list of its own meanwhile), and its last
    // push may have stored older bytes. Where it was not gone when this one began, another has to begin once more.
    void look_after_former() {
        if (is_following_ && !is_early_) return;
        const bool gone = fs_->former_workers().are_gone();
        if (gone && is_early_) {
            log::info("worker {} begins again: a former one is gone only now", ::getpid());
            line_.begins_again = true;
            exit_at_once(exit_status::system_error);
        }
        if (!is_following_ && (gone || Clock::now() - start_ > FormerWorkers::patience)) follow_changes();
    }

    // The others would wait for it for ever; the next worker does not.
    void end_if_hung() {
        const std::string work = monitor_.look();
        if (work.empty()) return;
        log::error("a thread hangs, at work on {}", work);
        exit_at_once(exit_status::system_error);
    }

    const Job& job_;
    Lifeline& line_;
    const bool is_first_;
    // In this order: a session's requests go to the file system.
    std::unique_ptr<FileSystem> fs_;
    Session session_;
    std::unique_ptr<RequestThreads> threads_;
    std::vector<UniqueFd> slow_strays_;
    Clock::time_point start_;  // of the watch
    bool is_following_ = false;
    bool is_early_ = false;  // a former worker was not gone when this one began
    PulseMonitor monitor_{looks};
    // Until the mount was tried.
    UniqueFd mount_;
    UniqueFd readahead_;
};

}  // namespace

void work(const Job& job) {
    // These are for the supervisor.
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);  // NOLINT(cert-err33-c)
    ::signal(SIGCHLD, SIG_DFL);                                                             // NOLINT(cert-err33-c)
    Lifeline& line = job.state.lifeline();
    line.worker = ::getpid();
    // Until here, and afterwards where the end is not that of this thread alone, SIGCHLD tells.
    ::syscall(SYS_set_tid_address, &line.bell);
    auto worker = std::make_unique<Worker>(job);
    try {
        be_spared_by_oom_killer(OomRank::worker);
        job.state.look_at_slots();
#ifdef NOSIGBUS_FAULT_POINTS
        use_faults(job.state.fault());
#endif
        // Who runs errands may be closing what he opened at this very moment.
        if (forget_errands(job.state.errands())) worker->close_slowly(close_strays(job.state, job.supervisors));
        for (const Obituary& each : job.obituaries) log_obituary(each);
        if (!job.obituaries.empty()) line.obituaries_read = job.obituaries.back().number;
        worker->serve();
    } catch (const MountFailed& failed) {
        log::error("{}", failed.what());
        exit_at_once(failed.exit_status());
    } catch (const std::exception& failure) {
        log::error("{}", failure.what());
        exit_at_once(exit_status::system_error);
    }
    worker.reset();
    std::exit(exit_status::success);
}

}  // namespace nosigbus
