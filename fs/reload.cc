#include "fs/reload.h"

#include <fmt/format.h>
#include <sys/xattr.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "fs/exit_status.h"
#include "lib/log.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

std::string attribute(const std::string& path, const char* name) {
    std::array<char, 4096> value{};
    const ssize_t length = ::getxattr(path.c_str(), name, value.data(), value.size());
    if (length < 0) sys::fail(errno, fmt::format("{}: not a mount of nosigbus: {}", path, name).c_str());
    return {value.data(), static_cast<std::size_t>(length)};
}

struct Reloads {
    std::uint64_t done = 0;
    std::uint64_t failed = 0;
};

Reloads reloads_of(const std::string& path) {
    std::istringstream lines(attribute(path, "user.nosigbus.counters"));
    Reloads found;
    std::string name;
    std::uint64_t count = 0;
    while (lines >> name >> count) {
        if (name == "reloads") found.done = count;
        if (name == "failed_reloads") found.failed = count;
    }
    return found;
}

// The number may be one of another pid namespace, where it is somebody else here.
bool is_nosigbus(pid_t pid) {
    std::ifstream file(fmt::format("/proc/{}/comm", pid));
    std::string name;
    return std::getline(file, name) && name == "nosigbus";
}

}  // namespace

int reload(const std::string& mount_point) {
    const Reloads before = reloads_of(mount_point);
    const pid_t supervisor = std::stoi(attribute(mount_point, "user.nosigbus.supervisor"));
    if (!is_nosigbus(supervisor)) {
        log::error("{}: its server, process {}, is not to be seen from here", mount_point, supervisor);
        return exit_status::system_error;
    }
    sys::check(::kill(supervisor, SIGHUP), fmt::format("cannot signal process {}", supervisor).c_str());
    const auto patience = std::chrono::seconds(60);
    const auto until = std::chrono::steady_clock::now() + patience;
    while (std::chrono::steady_clock::now() < until) {
        const Reloads now = reloads_of(mount_point);
        if (now.done != before.done) return exit_status::success;
        if (now.failed != before.failed) {
            log::error("{}: what is installed cannot take over, the log says why; the server of before goes on",
                       mount_point);
            return exit_status::system_error;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    log::error("{}: process {} has not reloaded within {} s", mount_point, supervisor, patience.count());
    return exit_status::system_error;
}

}  // namespace nosigbus
