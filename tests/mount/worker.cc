#include "tests/mount/worker.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <stdexcept>
#include <system_error>

#include "lib/unique_fd.h"
#include "tests/mount/eventually.h"
#include "tests/mount/files.h"
#include "tests/mount/process.h"

namespace nosigbus::test {
namespace {

struct Worker {
    pid_t pid = 0;
    UniqueFd end;  // by which it can be killed, too
};

// A process that is dead but was not waited for has ended.
bool has_ended(const UniqueFd& end, std::chrono::milliseconds deadline) {
    pollfd event = {end.get(), POLLIN, 0};
    return must(::poll(&event, 1, static_cast<int>(deadline.count())), "poll") > 0;
}

bool is_heir(pid_t pid) {
    return command_name(pid) == "nosigbus-heir";
}

Worker find_worker(pid_t supervisor) {
    for (const pid_t pid : workers_of(supervisor)) {
        try {
            UniqueFd end = end_of(pid);
            if (!has_ended(end, std::chrono::milliseconds(0))) return {pid, std::move(end)};
        } catch (const std::system_error&) {  // it is gone already
        }
    }
    return {};
}

}  // namespace

pid_t heir_of(pid_t supervisor) {
    const auto all = children(supervisor);
    const auto found = std::ranges::find_if(all, is_heir);
    return found == all.end() ? 0 : *found;
}

std::vector<pid_t> workers_of(pid_t supervisor) {
    std::vector<pid_t> all;
    // An heir is told by its name, which it takes itself, perhaps only after somebody was served.
    eventually([&] {
        all = children(supervisor);
        return all.size() < 2 || std::ranges::any_of(all, is_heir);
    });
    std::erase_if(all, is_heir);
    return all;
}

pid_t worker_of(pid_t supervisor) {
    return find_worker(supervisor).pid;
}

pid_t kill_worker(pid_t supervisor) {
    const Worker worker = find_worker(supervisor);
    if (worker.pid == 0 || ::syscall(SYS_pidfd_send_signal, worker.end.get(), SIGKILL, nullptr, 0) != 0) return 0;
    if (!has_ended(worker.end, patience)) throw std::runtime_error("the worker survived SIGKILL");
    return worker.pid;
}

}  // namespace nosigbus::test
