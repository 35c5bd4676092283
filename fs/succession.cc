#include "fs/succession.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>

#include "lib/syscalls.h"

namespace nosigbus {
namespace {

constexpr const char* running_program = "/proc/self/exe";

void set_close_on_exec(int descriptor, bool wanted) {
    ::syscall(SYS_fcntl, descriptor, F_SETFD, wanted ? FD_CLOEXEC : 0);
}

}  // namespace

Succession::Succession(const CommandLine& line, const std::string& mount_point, const SharedState& state)
    : installed_(4096, '\0'), words_({"nosigbus", line.source, mount_point}) {
    const ssize_t length = sys::check(::readlink(running_program, installed_.data(), installed_.size()), "readlink");
    installed_.resize(static_cast<std::size_t>(length));
    // Where it was replaced since: proc(5).
    constexpr std::string_view deleted = " (deleted)";
    if (installed_.ends_with(deleted)) installed_.resize(installed_.size() - deleted.size());
    for (const std::string& list : line.option_lists) words_.insert(words_.end(), {"-o", list});
    if (line.foreground) words_.emplace_back("-f");
    if (line.debug) words_.emplace_back("-d");
    words_.push_back(fmt::format("--resume={}", state.descriptor()));
    words_.push_back(fmt::format("--check-resume={}", state.descriptor()));
    for (std::string& word : words_) resume_.push_back(word.data());
    check_ = resume_;
    resume_.back() = nullptr;
    check_.erase(check_.end() - 2);
    check_.push_back(nullptr);
}

void Succession::become(const char* program, const SharedState& state) const noexcept {
    state.for_each_descriptor([](int descriptor) { set_close_on_exec(descriptor, false); });
    ::execve(program, resume_.data(), environ);
    const int error = errno;
    state.for_each_descriptor([](int descriptor) { set_close_on_exec(descriptor, true); });
    errno = error;
}

// Runs in the memory of a worker that is about to be killed.
int Succession::replace(void* argument) {
    const auto& task = *static_cast<const Replacement*>(argument);
    // Raw system calls: the worker's threads may hold any lock.
    ::syscall(SYS_kill, task.worker, SIGKILL);
    // A thread that is held up in the kernel runs none of our code any more. The others need no longer than this.
    timespec patience{.tv_sec = 0, .tv_nsec = 100'000'000};
    pollfd ended = {.fd = task.worker_ended, .events = POLLIN, .revents = 0};
    ::syscall(SYS_ppoll, &ended, 1, &patience, nullptr, 0);
    task.succession.become(running_program, task.state);
    ::_exit(1);
}

void Succession::replace_supervisor(const SharedState& state, int self) const noexcept {
    const Replacement task{*this, state, ::getpid(), self};
    // With the worker's memory, not a copy of it: to make one takes from its threads, for a moment, the right to write
    // to their buffers, and a request that the kernel copies there when they are killed would fail (__get_user_pages).
    constexpr int flags = CLONE_VM | CLONE_FILES | SIGCHLD;
    alignas(16) static std::array<std::byte, std::size_t{64} << 10> stack;
    const pid_t successor = ::clone(&Succession::replace, stack.data() + stack.size(), flags,
                                    const_cast<Replacement*>(&task));  // NOLINT(*-const-cast): it only reads
    if (successor < 0) return;
    for (;;) ::pause();
}

pid_t Succession::start_check(const SharedState& state) const noexcept {
    const pid_t child = ::fork();
    if (child != 0) return child;
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    set_close_on_exec(state.descriptor(), false);
    ::execve(installed_.c_str(), check_.data(), environ);
    ::_exit(127);
}

pid_t fork_sharing_descriptors() noexcept {
    clone_args arguments{};
    arguments.flags = CLONE_FILES;
    arguments.exit_signal = SIGCHLD;
    return static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
}

}  // namespace nosigbus
