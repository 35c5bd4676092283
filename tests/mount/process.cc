#include "tests/mount/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>

#include "tests/mount/files.h"

namespace nosigbus::test {

std::string ending(int wait_status) {
    if (WIFEXITED(wait_status)) return fmt::format("exit {}", WEXITSTATUS(wait_status));
    return fmt::format("killed by SIG{}", ::sigabbrev_np(WTERMSIG(wait_status)));
}

std::vector<pid_t> children(pid_t parent) {
    if (parent == 0) parent = ::getpid();
    std::vector<pid_t> found;
    const std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), &::closedir);
    while (const dirent* entry = ::readdir(proc.get())) {
        const pid_t pid = std::atoi(entry->d_name);
        std::ifstream file(fmt::format("/proc/{}/stat", entry->d_name));
        std::string stat;
        if (pid <= 0 || !std::getline(file, stat)) continue;
        // pid (name) state parent: the name may hold anything, the last parenthesis ends it.
        std::istringstream fields(stat.substr(stat.rfind(')') + 1));
        std::string state;
        pid_t its_parent = 0;
        fields >> state >> its_parent;
        if (its_parent == parent) found.push_back(pid);
    }
    return found;
}

std::string command_name(pid_t pid) {
    std::ifstream file(fmt::format("/proc/{}/comm", pid));
    std::string name;
    std::getline(file, name);
    return name;
}

// glibc 2.36 declares pidfd_open(2) as a C++ function.
UniqueFd end_of(pid_t pid) {
    return UniqueFd(static_cast<int>(must(::syscall(SYS_pidfd_open, pid, 0), "pidfd_open")));
}

std::string wait_for(pid_t pid, std::chrono::milliseconds deadline) {
    const UniqueFd ended = end_of(pid);
    pollfd event = {ended.get(), POLLIN, 0};
    must(::poll(&event, 1, static_cast<int>(deadline.count())), "poll");
    int status = 0;
    if (must(::waitpid(pid, &status, WNOHANG), "waitpid") == 0) return "still running";
    return ending(status);
}

pid_t fork_process() {
    std::cout.flush();
    std::fflush(nullptr);
    return must(::fork(), "fork");
}

Process::Process(const std::vector<std::string>& command, const Setup& setup)
    : output_(must(::memfd_create("output", MFD_CLOEXEC), "memfd_create")),
      errors_(must(::memfd_create("errors", MFD_CLOEXEC), "memfd_create")) {
    std::vector<char*> arguments;
    for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    pid_ = fork_process();
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    // Appending: a second process that inherits the file must not write over what the first one wrote.
    for (const int fd : {output_.get(), errors_.get()}) ::fcntl(fd, F_SETFL, O_APPEND);
    ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
    ::dup2(output_.get(), STDOUT_FILENO);
    ::dup2(errors_.get(), STDERR_FILENO);
    for (const std::string& variable : setup.environment) ::putenv(const_cast<char*>(variable.c_str()));
    if (!setup.directory.empty() && ::chdir(setup.directory.c_str()) != 0) ::_exit(126);
    try {
        if (setup.before_exec) setup.before_exec();
    } catch (const std::exception& failure) {
        ::dprintf(STDERR_FILENO, "%s\n", failure.what());
        ::_exit(126);
    }
    ::execvp(arguments[0], arguments.data());
    ::dprintf(STDERR_FILENO, "%s: %s\n", arguments[0], std::strerror(errno));
    ::_exit(127);
}

Process::~Process() {
    if (!running()) return;
    ::kill(pid_, SIGKILL);
    wait();
}

std::string Process::wait(std::chrono::milliseconds deadline) {
    if (ending_.empty()) {
        const std::string answer = wait_for(pid_, deadline);
        if (answer == "still running") return answer;
        ending_ = answer;
    }
    return ending_;
}

std::string Process::output() const {
    return read_all(output_.get());
}

std::string Process::errors() const {
    return read_all(errors_.get());
}

Run run(const std::vector<std::string>& command, const Process::Setup& setup, std::chrono::milliseconds deadline) {
    Process process(command, setup);
    const std::string how = process.wait(deadline);
    return {how, process.output(), process.errors()};
}

namespace {

void keep_only(std::uint64_t capabilities) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
    for (std::size_t i = 0; i < sets.size(); ++i)
        sets.at(i).effective = sets.at(i).permitted = static_cast<std::uint32_t>(capabilities >> (32U * i));
    must(::syscall(SYS_capset, &header, sets.data()), "capset");
}

}  // namespace

void become(const User& user) {
    if (user.capabilities) must(::prctl(PR_SET_KEEPCAPS, 1), "prctl");
    must(::setgroups(user.groups.size(), user.groups.data()), "setgroups");
    must(::setresgid(user.gid, user.gid, user.gid), "setresgid");
    must(::setresuid(user.uid, user.uid, user.uid), "setresuid");
    if (user.capabilities) keep_only(*user.capabilities);
}

void become(uid_t uid) {
    become(User{.name = {}, .uid = uid, .gid = uid});
}

void give_up_capabilities() {
    must(::prctl(PR_SET_SECUREBITS, SECBIT_NOROOT), "prctl");
}

std::string as_user(uid_t uid, const std::function<std::string()>& question) {
    return as_user(User{.name = {}, .uid = uid, .gid = uid}, question);
}

std::string as_user(const User& user, const std::function<std::string()>& question) {
    const UniqueFd answer(must(::memfd_create("answer", MFD_CLOEXEC), "memfd_create"));
    const pid_t pid = fork_process();
    if (pid == 0) {
        try {
            become(user);
            write_at(answer.get(), 0, question());
            ::_exit(0);
        } catch (const std::exception& failure) {
            write_at(answer.get(), 0, failure.what());
            ::_exit(1);
        }
    }
    const std::string how = wait_for(pid, run_patience);
    return how == "exit 0" ? read_all(answer.get()) : fmt::format("{}: {}", how, read_all(answer.get()));
}

}  // namespace nosigbus::test
