// How a supervisor gives way to what is installed now, and does not where that is no good.
//
// First the successor is asked, while all goes on, whether it can read the state. Then the worker is ended, as if it
// had died, and this process executes the successor. Until that serves, a copy of this process keeps all descriptors:
// where the successor dies or does nothing, the copy goes on in the place of both.
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "fs/exit_status.h"
#include "fs/supervisor.h"
#include "lib/log.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

using namespace std::chrono_literals;

// What a successor may take to say that it can, and then to serve.
constexpr auto check_time = 10s;
constexpr auto successor_time = 10s;
// A worker that is ended must be gone, and may be held up in the kernel: then it is replaced and ended again.
constexpr auto time_to_die = 100ms;
constexpr unsigned attempts = 20;

}  // namespace

void Supervisor::begin_reload() {
    manager_.reloading();
    is_reloading_ = true;
    // A program that has nothing to do with us, and ends well, does not answer.
    question_ = static_cast<std::uint64_t>(Clock::now().time_since_epoch().count()) | 1;
    line_.checked = question_;
    check_ = succession_.start_check(state_);
    check_until_ = Clock::now() + check_time;
    if (check_ < 0) {
        check_ = 0;
        refuse_reload(std::strerror(errno));
    }
}

void Supervisor::note_check(int status) {
    check_ = 0;
    if (!WIFEXITED(status)) return refuse_reload("it died when it was asked");
    if (WEXITSTATUS(status) != exit_status::success || line_.checked != ~question_)
        return refuse_reload("it cannot read the state of this one, or there is none");
    hand_overs_left_ = attempts;
}

void Supervisor::refuse_reload(const char* why) {
    hand_overs_left_ = 0;
    is_reloading_ = told_ready_ = false;
    ++state_.counters().failed_reloads;
    log::error("{} cannot take over: {}; nosigbus {} goes on", succession_.installed(), why, NOSIGBUS_VERSION);
}

// Returns whether it is gone.
bool Supervisor::end_worker() {
    ::kill(worker_, SIGKILL);
    const auto until = Clock::now() + time_to_die;
    for (;;) {
        if (::waitpid(worker_, nullptr, WNOHANG) == worker_) {
            worker_ = 0;
            return true;
        }
        if (Clock::now() >= until) return false;
        ::poll(nullptr, 0, 1);
    }
}

void Supervisor::hand_over() {
    --hand_overs_left_;
    if (!end_worker()) {
        note_end_of_worker({0, false});
        if (hand_overs_left_ == 0) refuse_reload("the worker is held up in the kernel and does not end");
        return;
    }
    start_at_ = Clock::now();
    hand_overs_left_ = 0;
    execute_successor();
}

void Supervisor::execute_successor() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return refuse_reload(std::strerror(errno));
    const UniqueFd ready(ends[0]);
    line_.successor_ready = ends[1];
    mask_signals(SIG_BLOCK);  // by default they would end the successor before it handles them
    const pid_t self = ::getpid();
    const pid_t keeper = ::fork();
    if (keeper == 0) return keep_for_successor(ready.get(), self);
    if (keeper > 0) {
        end(heir_);  // it would keep the descriptors of before
        succession_.execute(state_);
    }
    const int error = errno;
    tell_keeper();
    mask_signals(SIG_UNBLOCK);
    refuse_reload(std::strerror(error));
}

// This process is the copy. Returns where it has to go on.
void Supervisor::keep_for_successor(int ready, pid_t successor) {
    const pid_t last_worker = line_.worker;
    ::close(line_.successor_ready);  // ours: the successor has another
    pollfd wait = {.fd = ready, .events = POLLIN, .revents = 0};
    char byte = 0;
    const auto patience = std::chrono::duration_cast<std::chrono::milliseconds>(successor_time);
    if (::poll(&wait, 1, static_cast<int>(patience.count())) > 0 && ::read(ready, &byte, 1) == 1)
        ::_exit(exit_status::success);
    ::kill(successor, SIGKILL);
    if (line_.worker != last_worker) ::kill(line_.worker, SIGKILL);
    line_.successor_ready = -1;
    heir_ = detacher_ = 0;  // those of another
    become_the_supervisor();
    manager_.main_process(::getpid());
    mask_signals(SIG_UNBLOCK);
    refuse_reload("it died, or did nothing");
}

void Supervisor::tell_keeper() {
    const UniqueFd ready(line_.successor_ready.exchange(-1));
    [[maybe_unused]] const ssize_t written = ::write(ready.get(), "", 1);
}

}  // namespace nosigbus
