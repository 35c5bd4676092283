// The heir: a copy of the supervisor that shares its descriptors, and goes on in its place when it dies. While that
// lives it sleeps, and runs errands for the worker, which is confined and serves strangers: see lib/errands.h.
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>

#include "fs/exit_status.h"
#include "fs/supervisor.h"
#include "lib/errands.h"
#include "lib/log.h"

namespace nosigbus {
namespace {

using namespace std::chrono_literals;

// Not at once again, should there be no memory now, or somebody kill each.
constexpr auto pause_between_heirs = 100ms;
// What a thread of the worker needs to die that is not held up in the kernel: one that is runs none of our code any
// more.
constexpr auto patience_with_dying = 100ms;
constexpr int orphaned = SIGUSR1;
// A signal handler can reach nothing else.
ErrandBoard* rung_when_orphaned = nullptr;

}  // namespace

void Supervisor::start_heir() {
    heir_at_ = Clock::now() + pause_between_heirs;
    const pid_t supervisor = ::getpid();
    const pid_t child = fork_sharing_descriptors();
    if (child == 0) {
        run_errands_until_end_of(supervisor);
        inherit(supervisor);
    } else if (child > 0) {
        heir_ = child;
    }
}

// Meanwhile it does what the worker may not: it is as free as the supervisor.
void Supervisor::run_errands_until_end_of(pid_t supervisor) {
    ::prctl(PR_SET_NAME, "nosigbus-heir");
    ignore_signals();
    ErrandBoard& board = state_.errands();
    rung_when_orphaned = &board;
    struct sigaction action {};
    action.sa_handler = [](int) { rung_when_orphaned->ring(); };
    ::sigemptyset(&action.sa_mask);
    ::sigaction(orphaned, &action, nullptr);
    ::prctl(PR_SET_PDEATHSIG, orphaned);
    resume_errands(board);
    for (;;) {
        const std::uint32_t seen = board.bell;
        if (::getppid() != supervisor) break;
        if (command_line_.options.fd_views) run_errands(board);
        while (::waitpid(-1, nullptr, WNOHANG) > 0) continue;
        await_errands(board, seen);
    }
    ::prctl(PR_SET_PDEATHSIG, 0);
    ::signal(orphaned, SIG_DFL);  // NOLINT(cert-err33-c)
    ::prctl(PR_SET_NAME, "nosigbus");
}

// Returns as the supervisor, with the memory of the one that died as it was when that started its heir.
void Supervisor::inherit(pid_t from) {
    if (line_.successor_ready >= 0) ::_exit(exit_status::success);  // there is a keeper, see hand_over.cc
    handle_signals(line_);
    worker_ = check_ = heir_ = detacher_ = 0;
    hand_overs_left_ = 0;
    is_reloading_ = is_dying_ = told_ready_ = false;
    short_lives_ = 0;
    heir_at_ = Clock::now();  // before the worker, so that from its first answer on there is one
    become_the_supervisor();
    start_at_ = Clock::now();
    manager_.main_process(::getpid());
    log::warning("{}: the supervisor, process {}, has died: {} is the supervisor now", mount_point_, from, ::getpid());
}

// A worker notes itself first, then looks whether its supervisor still is the one. So none of another supervisor's goes
// on beside ours.
void Supervisor::become_the_supervisor() {
    line_.supervisor = ::getpid();
    std::array<pollfd, Lifeline::former_at_most> ended{};
    for (std::size_t i = 0; i < ended.size(); ++i) {
        ended[i] = {.fd = line_.former[i], .events = POLLIN, .revents = 0};
        if (ended[i].fd >= 0) ::syscall(SYS_pidfd_send_signal, ended[i].fd, SIGKILL, nullptr, 0);
    }
    const auto until = Clock::now() + patience_with_dying;
    const auto is_dying = [&ended] {
        bool any = false;
        for (pollfd& each : ended) {
            if (each.revents != 0) each.fd = -1;
            any |= each.fd >= 0;
        }
        return any;
    };
    while (is_dying() && Clock::now() < until) ::poll(ended.data(), ended.size(), 10);
}

}  // namespace nosigbus
