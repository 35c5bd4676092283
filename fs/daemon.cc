#include "fs/daemon.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "fs/exit_status.h"
#include "lib/log.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

[[noreturn]] void wait_for_child(pid_t child, const UniqueFd& ready) {
    char byte = 0;
    ssize_t n = 0;
    do n = ::read(ready.get(), &byte, 1);
    while (n < 0 && errno == EINTR);
    if (n == 1) ::_exit(exit_status::success);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0) ::_exit(WEXITSTATUS(status));
    if (WIFSIGNALED(status)) log::error("the daemon died of signal {} before its mount answered", WTERMSIG(status));
    ::_exit(exit_status::system_error);
}

}  // namespace

Daemon Daemon::fork_off() {
    std::array<int, 2> ends{};
    sys::check(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
    const UniqueFd read_end(ends[0]);
    UniqueFd write_end(ends[1]);
    const pid_t child = sys::check(::fork(), "fork");
    if (child != 0) {
        write_end.reset();
        wait_for_child(child, read_end);
    }
    ::setsid();
    return Daemon(std::move(write_end));
}

void Daemon::ready() {
    if (!parent_) return;
    log::use_syslog();
    sys::check(::chdir("/"), "chdir");
    const UniqueFd null = sys::open_at(AT_FDCWD, "/dev/null", O_RDWR);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) sys::check(::dup2(null.get(), fd), "dup2");
    sys::check(::write(parent_.get(), "", 1), "write");
    parent_.reset();
}

}  // namespace nosigbus
