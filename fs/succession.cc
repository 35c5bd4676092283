#include "fs/succession.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "lib/syscalls.h"

namespace nosigbus {
namespace {

void set_close_on_exec(int descriptor, bool wanted) {
    ::syscall(SYS_fcntl, descriptor, F_SETFD, wanted ? FD_CLOEXEC : 0);
}

}  // namespace

Succession::Succession(const CommandLine& line, const std::string& mount_point, const SharedState& state)
    : installed_(4096, '\0'), words_({"nosigbus", line.source, mount_point}) {
    const ssize_t length = sys::check(::readlink("/proc/self/exe", installed_.data(), installed_.size()), "readlink");
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

void Succession::execute(const SharedState& state) const noexcept {
    state.for_each_descriptor([](int descriptor) { set_close_on_exec(descriptor, false); });
    ::execve(installed_.c_str(), resume_.data(), environ);
    const int error = errno;
    state.for_each_descriptor([](int descriptor) { set_close_on_exec(descriptor, true); });
    errno = error;
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
