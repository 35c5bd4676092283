#include "tests/mount/faults.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/worker.h"

namespace nosigbus::test {

namespace {

pid_t only_worker(pid_t supervisor) {
    pid_t found = 0;
    const bool is_one = eventually([&] {
        const auto all = workers_of(supervisor);
        if (all.size() == 1) found = all[0];
        return all.size() == 1;
    });
    if (!is_one) throw std::runtime_error("the supervisor has not one worker");
    return found;
}

// Their directories in /proc.
std::vector<std::filesystem::path> threads_of(pid_t process) {
    std::vector<std::filesystem::path> threads;
    std::error_code gone;
    for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", process), gone))
        threads.push_back(entry.path());
    return threads;
}

}  // namespace

void ask_for_fault(const ViewMount& mount, const std::string& fault) {
    must(::setxattr(mount.mountpoint().c_str(), "user.nosigbus.fault", fault.data(), fault.size(), 0), "setxattr");
}

std::uint64_t restarts(const ViewMount& mount) {
    return counters(mount).at("restarts");
}

std::size_t count_of(const std::string& text, const std::string& part) {
    std::size_t count = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
    return count;
}

bool Replacements::are(std::uint64_t wanted) const {
    return eventually([&] {
        const std::uint64_t now = restarts(mount_) - before_;
        return wanted <= now && now <= wanted + count_of(log(), "begins again: a former one is gone only now");
    });
}

Worker::Worker(const ViewMount& mount) : pid_(only_worker(mount.pid())), end_(end_of(pid_)) {}

void Worker::kill() const {
    must(::kill(pid_, SIGKILL), "kill");
}

bool Worker::ends(std::chrono::milliseconds deadline) const {
    pollfd end = {.fd = end_.get(), .events = POLLIN, .revents = 0};
    return must(::poll(&end, 1, static_cast<int>(deadline.count())), "poll") == 1;
}

bool Worker::hangs() const {
    const auto threads = threads_of(pid_);
    return std::any_of(threads.begin(), threads.end(), [](const auto& thread) {
        std::ifstream file(thread / "syscall");
        std::string line;
        std::getline(file, line);
#ifdef SYS_pause
        return line.starts_with(fmt::format("{} ", SYS_pause));
#else
        return line.starts_with(fmt::format("{} 0x0 0x0 0x0 ", SYS_ppoll));  // pause(3) there: for nothing, without an end
#endif
    });
}

bool Worker::is_stopped() const {
    const auto threads = threads_of(pid_);
    return std::all_of(threads.begin(), threads.end(), [](const auto& thread) {
        std::ifstream file(thread / "status");
        std::string line;
        while (std::getline(file, line) && !line.starts_with("State:")) {
        }
        return line.find("stopped") != std::string::npos;
    });
}

}  // namespace nosigbus::test
