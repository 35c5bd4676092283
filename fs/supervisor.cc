#include "fs/supervisor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "fs/exit_status.h"
#include "fs/mount.h"
#include "fs/oom.h"
#include "lib/descriptor_table.h"
#include "lib/futex.h"
#include "lib/log.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

using namespace std::chrono_literals;

// How often the supervisor looks whether the worker gets on, and for how long it may not.
constexpr std::chrono::milliseconds look_interval = 500ms;
constexpr std::chrono::milliseconds hang_time = 2500ms;
// What dies takes this long at most, unless a thread of it is held up in the kernel.
constexpr auto dying_time = 20ms;
// A worker that lives shorter has died of what it found. After so many of them there is a pause, longer each time.
constexpr auto short_life = 20ms;
constexpr unsigned short_lives_at_once = 4;
constexpr auto shortest_pause = 10ms;
constexpr auto longest_pause = 1000ms;
// A signal handler can reach nothing else.
Lifeline* signalled_line = nullptr;
volatile std::sig_atomic_t signalled_ends = 0;
volatile std::sig_atomic_t signalled_reload = 0;

void on_signal(int signal) {
    const int saved = errno;
    if (signal == SIGTERM || signal == SIGINT) signalled_ends = signalled_ends + 1;
    if (signal == SIGHUP) signalled_reload = 1;
    signalled_line->ring();
    errno = saved;
}

constexpr std::array handled_signals = {SIGTERM, SIGINT, SIGHUP, SIGCHLD};

}  // namespace

Supervisor::Supervisor(SharedState& state, const CommandLine& line, std::string mount_point, Daemon daemon)
    : state_(state),
      line_(state.lifeline()),
      command_line_(line),
      mount_point_(std::move(mount_point)),
      daemon_(std::move(daemon)),
      succession_(line, mount_point_, state) {
    become_the_supervisor();
    std::vector<int> named;
    state.for_each_descriptor([&named](int descriptor) { named.push_back(descriptor); });
    std::sort(named.begin(), named.end());
    descriptors_ = open_descriptors();
    std::erase_if(descriptors_, [&named](int each) { return std::binary_search(named.begin(), named.end(), each); });
    handle_signals(line_);
    mask_signals(SIG_UNBLOCK);  // where this process took over, its predecessor left them blocked
}

// What a handler reaches goes after this.
Supervisor::~Supervisor() {
    ignore_signals();
}

void Supervisor::handle_signals(Lifeline& line) {
    signalled_line = &line;
    struct sigaction action {};
    action.sa_handler = on_signal;
    ::sigemptyset(&action.sa_mask);
    for (const int signal : handled_signals) sys::check(::sigaction(signal, &action, nullptr), "sigaction");
    ::signal(SIGPIPE, SIG_IGN);  // NOLINT(cert-err33-c)
}

void Supervisor::mask_signals(int how) {
    sigset_t handled;
    ::sigemptyset(&handled);
    for (const int signal : handled_signals) ::sigaddset(&handled, signal);
    sys::check(-::pthread_sigmask(how, &handled, nullptr), "pthread_sigmask");
}

void Supervisor::ignore_signals() {
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::signal(signal, SIG_IGN);  // NOLINT(cert-err33-c)
    ::signal(SIGCHLD, SIG_DFL);                                                    // NOLINT(cert-err33-c)
}

void Supervisor::end(pid_t& child) {
    if (child == 0) return;
    ::kill(child, SIGKILL);
    wait_for(child);
    child = 0;
}

void Supervisor::wait_for(pid_t child) {
    const auto until = Clock::now() + 1s;
    while (Clock::now() < until) {
        const pid_t ended = ::waitpid(child, nullptr, WNOHANG);
        if (ended < 0) return;  // there is none any more
        if (ended == 0) ::poll(nullptr, 0, 1);
    }
}

int Supervisor::supervise(int source) {
    source_ = source;
    start_worker();
    while (!has_ended_) {
        if (line_.bell.exchange(Lifeline::quiet) == Lifeline::worker_dies && worker_ != 0 && !is_dying_) {
            is_dying_ = true;
            dying_until_ = Clock::now() + dying_time;
        }
        note_serving();  // first: what has served and died meanwhile is replaced
        reap();
        if (has_ended_) break;
        if (worker_ != 0 && is_dying_ && Clock::now() >= dying_until_) note_end_of_worker({0, false});
        act_on_signals();
        if (has_ended_) break;
        check_pulse();
        // Not while a successor is tried: who keeps all for it is the heir meanwhile.
        // Again in the heir, once it goes on here as the supervisor: it has one of its own before its worker answers.
        while (heir_ == 0 && line_.ever_served && line_.successor_ready < 0 && Clock::now() >= heir_at_) start_heir();
        if (worker_ == 0 && Clock::now() >= start_at_) start_worker();
        sleep();
    }
    end(heir_);
    // The worker, who detached the mount, and who kept all for this one while it took over: each goes by itself.
    wait_for(all_children);
    return exit_status_;
}

void Supervisor::sleep() {
    auto until = std::min(next_look_, Clock::now() + look_interval);
    if (worker_ == 0) until = start_at_;
    if (is_dying_) until = std::min(until, Clock::now() + 1ms);
    const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(std::max(until - Clock::now(), 0ns));
    const timespec timeout{.tv_sec = static_cast<std::time_t>(left.count() / 1'000'000'000),
                           .tv_nsec = static_cast<long>(left.count() % 1'000'000'000)};
    sys::futex_wait(line_.bell, Lifeline::quiet, &timeout);
}

void Supervisor::start_worker() {
    line_.serving = false;
    line_.begins_again = false;
    std::uint32_t last_end = Lifeline::worker_dies;  // the last worker's, of which is known by now
    line_.bell.compare_exchange_strong(last_end, Lifeline::quiet);
    is_dying_ = false;
    missed_ = {};
    beats_ = line_.beats;
    started_ = Clock::now();
    next_look_ = started_ + look_interval;
    forget_obituaries_read();
    const pid_t child = fork_sharing_descriptors();
    if (child == 0) {
        work({state_, command_line_, mount_point_, source_, descriptors_, confinement_, line_.supervisor,
              std::span(obituaries_).first(obituary_count_)});
    }
    if (child < 0) {
        start_at_ = Clock::now() + 100ms;  // no memory or no process: there will be
        return;
    }
    worker_ = child;
    hung_ = false;
}

void Supervisor::reap() {
    for (;;) {
        int status = 0;
        const pid_t pid = ::waitpid(-1, &status, WNOHANG);
        if (pid <= 0) return;
        if (pid == worker_) note_end_of_worker({status, true});
        if (pid == check_) note_check(status);
        if (pid == heir_) heir_ = 0;
        if (pid == detacher_) detacher_ = 0;
        if (has_ended_) return;
    }
}

void Supervisor::note_end_of_worker(Ending ending) {
    // A worker that takes its time to be gone may only be slow.
    const bool ended_well =
        ending.is_known && WIFEXITED(ending.status) && WEXITSTATUS(ending.status) == exit_status::success;
    if (ended_well || line_.has_ended) {
        has_ended_ = true;  // the connection has
        exit_status_ = exit_status::success;
        return;
    }
    // What is dying must be dead before there is another: it may have been taken for dying by mistake.
    if (!ending.is_known) ::kill(worker_, SIGKILL);
    if (!line_.ever_served) {
        has_ended_ = true;
        exit_status_ = give_up(ending);
        return;
    }
    const auto now = Clock::now();
    short_lives_ = now - started_ < short_life ? short_lives_ + 1 : 0;
    std::chrono::milliseconds pause{0};
    if (short_lives_ > short_lives_at_once) {
        const unsigned doublings = std::min(short_lives_ - short_lives_at_once - 1, 10U);
        pause = std::min<std::chrono::milliseconds>(shortest_pause * (1U << doublings), longest_pause);
    }
    start_at_ = now + pause;
    if (!line_.begins_again) add_obituary(ending, pause);
    worker_ = 0;
    is_dying_ = false;
}

void Supervisor::add_obituary(Ending ending, std::chrono::milliseconds pause) {
    forget_obituaries_read();
    if (obituary_count_ == obituaries_.size()) {
        std::move(obituaries_.begin() + 1, obituaries_.end(), obituaries_.begin());
        --obituary_count_;
    }
    obituaries_[obituary_count_++] = {.pid = worker_,
                                      .status = ending.status,
                                      .is_gone = ending.is_known,
                                      .hung = hung_,
                                      .number = ++state_.counters().restarts,
                                      .pause = pause};
}

void Supervisor::forget_obituaries_read() {
    auto* const end = obituaries_.begin() + static_cast<std::ptrdiff_t>(obituary_count_);
    const std::uint64_t read = line_.obituaries_read;
    auto* const kept =
        std::remove_if(obituaries_.begin(), end, [read](const Obituary& each) { return each.number <= read; });
    obituary_count_ = static_cast<std::size_t>(kept - obituaries_.begin());
}

// The first worker has ended before the mount answered: it has said why, unless it had no time to.
int Supervisor::give_up(Ending ending) {
    detach_mount(mount_point_, line_.mount_device);
    if (ending.is_known && WIFEXITED(ending.status)) return WEXITSTATUS(ending.status);
    if (ending.is_known) {
        log::error("the worker died of signal {} before its mount answered", WTERMSIG(ending.status));
    } else {
        log::error("the worker did not get on, and was killed, before its mount answered");
    }
    return exit_status::system_error;
}

void Supervisor::note_serving() {
    if (!line_.serving || worker_ == 0) return;
    if (!line_.ever_served.exchange(true)) {
        try {
            daemon_.ready();
        } catch (const std::exception& failure) {
            log::error("{}", failure.what());
        }
    }
    if (!is_reloading_ && !std::exchange(told_ready_, true)) manager_.ready(mount_point_.c_str());
    if (line_.successor_ready >= 0) tell_keeper();
}

// How long a worker may not beat. One that has much to take over needs its time before it does.
std::chrono::milliseconds Supervisor::patience() const {
    constexpr std::size_t nodes_per_ms = 100;
    constexpr std::size_t files_per_ms = 10;  // each is watched again: inotify_add_watch(2)
    if (line_.serving) return hang_time;
    // Nobody can go on where the first one fails: on a slow machine it has its time.
    if (!line_.ever_served) return 4 * hang_time;
    return hang_time + std::chrono::milliseconds(state_.nodes().taken().size() / nodes_per_ms +
                                                 state_.open_files().taken().size() / files_per_ms);
}

void Supervisor::check_pulse() {
    const auto now = Clock::now();
    if (worker_ == 0 || now < next_look_) return;
    const auto interval = std::min(look_interval, manager_.alive_interval().value_or(look_interval));
    next_look_ = now + interval;
    if (beats_ != line_.beats) {
        beats_ = line_.beats;
        missed_ = {};
        manager_.alive();
        return;
    }
    // The looks that found nothing, not the time, in which the whole machine may have stood still.
    missed_ += interval;
    if (missed_ < patience()) return;
    missed_ = {};
    hung_ = true;
    ::kill(worker_, SIGKILL);
    is_dying_ = true;
    dying_until_ = now + dying_time;
}

// Starts a child that takes the mount out of sight, which may take until all is written back that somebody has stored.
// A worker could not, confined as it is.
void Supervisor::detach() {
    const pid_t child = fork_sharing_descriptors();
    if (child == 0) {
        // None of ours, neither to keep a connection by nor to be closed by a worker.
        ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_UNSHARE);
        ignore_signals();
        detach_mount(mount_point_, line_.mount_device);
        ::_exit(exit_status::success);
    }
    if (child < 0) return;  // tried again soon
    detacher_ = child;
    is_detached_ = true;
}

void Supervisor::end_at_once() {
    log::warning("{}: ended at once: a load of what is mapped and not in memory faults from now on", mount_point_);
    end(heir_);
    if (worker_ != 0) ::kill(worker_, SIGKILL);
    if (!is_detached_) detach();
    // Those of the worker too, which shares them: so the connection ends, whatever the worker is held up in. Last: to
    // close a file whose server does not answer takes any time.
    ::close_range(STDERR_FILENO + 1, ~0U, 0);
    has_ended_ = true;
    exit_status_ = exit_status::success;
}

void Supervisor::act_on_signals() {
    const int ends = signalled_ends;
    if (ends > 1) return end_at_once();
    if (ends > 0 && !std::exchange(told_to_end_, true)) manager_.stopping();
    if (told_to_end_ && !is_detached_ && line_.ever_served) detach();
    if (signalled_reload != 0 && line_.serving && worker_ != 0 && !is_dying_) {
        signalled_reload = 0;
        if (check_ == 0 && hand_overs_left_ == 0) begin_reload();
    }
    if (check_ != 0 && Clock::now() >= check_until_) ::kill(check_, SIGKILL);
    if (hand_overs_left_ > 0 && line_.serving && worker_ != 0 && !is_dying_) hand_over();
}

}  // namespace nosigbus
