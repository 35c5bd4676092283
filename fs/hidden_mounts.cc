#include "fs/hidden_mounts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>

#include "fs/command_line.h"
#include "fs/daemon.h"
#include "fs/exit_status.h"
#include "fs/mount.h"
#include "fs/supervise.h"
#include "lib/log.h"
#include "lib/source_dir.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

namespace paths = std::filesystem;

std::string path_in(const std::string& place, std::size_t number) {
    return fmt::format("{}/{}", place, number);
}

// Whether nobody but us and root can move what we make there.
bool is_trusted(const paths::path& directory) {
    struct stat found {};
    if (::stat(directory.c_str(), &found) != 0 || !S_ISDIR(found.st_mode)) return false;
    const bool is_ours = found.st_uid == ::geteuid() || found.st_uid == 0;
    return is_ours && ((found.st_mode & (S_IWGRP | S_IWOTH)) == 0 || (found.st_mode & S_ISVTX) != 0);
}

std::vector<paths::path> possible_places() {
    const auto variable = [](const char* name) {
        const char* const value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): there is one thread
        return paths::path(value == nullptr ? "" : value);
    };
    return {variable("XDG_RUNTIME_DIR"), "/run", "/tmp", "/var/tmp", "/dev/shm", variable("HOME")};
}

// A new directory outside of all sources, for a source is not to be mounted inside itself.
std::string make_place(const std::vector<SourceDirectory>& sources) {
    for (const paths::path& each : possible_places()) {
        std::error_code none;
        const std::string parent = paths::canonical(each, none).string();
        if (none || !each.is_absolute() || !is_trusted(parent)) continue;
        const bool is_inside =
            std::ranges::any_of(sources, [&](const SourceDirectory& source) { return is_within(parent, source.path); });
        std::string place = parent + "/nosigbus-run.XXXXXX";
        if (!is_inside && ::mkdtemp(place.data()) != nullptr) return place;
    }
    throw MountFailed(
        "no place for the mounts: none of $XDG_RUNTIME_DIR, /run, /tmp, /var/tmp, /dev/shm and $HOME can be written "
        "and is outside of --dir",
        exit_status::mount_failed);
}

// All but those of the standard streams and `kept`.
void close_others(std::vector<unsigned> kept) {
    std::ranges::sort(kept);
    unsigned from = STDERR_FILENO + 1;
    for (const unsigned descriptor : kept) {
        if (descriptor > from) ::close_range(from, descriptor - 1, 0);
        from = std::max(from, descriptor + 1);
    }
    ::close_range(from, ~0U, 0);
}

bool send(int socket, std::string_view message) {
    return ::send(socket, message.data(), message.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(message.size());
}

// Empty where there is nobody any more who could send one.
std::string receive(int socket) {
    std::array<char, PATH_MAX> message{};
    ssize_t n = 0;
    do n = ::read(socket, message.data(), message.size());
    while (n < 0 && errno == EINTR);
    return {message.data(), static_cast<std::size_t>(std::max<ssize_t>(n, 0))};
}

// Servers are not to look like the command, to whom signals are sent by its name (pkill(1), -f), nor to speak for the
// service that it may be (sd_notify(3)).
void forget_who_called(char** command) {
    for (char** word = command; *word != nullptr; ++word) std::memset(*word, 0, std::strlen(*word));
    for (const char* variable : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
        ::unsetenv(variable);  // NOLINT(concurrency-mt-unsafe): there is one thread
}

std::optional<int> wait_for_exit(pid_t child) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) return std::nullopt;
    }
    return WIFEXITED(status) ? std::optional(WEXITSTATUS(status)) : std::nullopt;
}

[[noreturn]] void serve(int source, const CommandLine& line) {
    int status = exit_status::system_error;
    try {
        close_others({static_cast<unsigned>(source)});
        Daemon daemon = Daemon::fork_off();
        status = supervise_new_mount(UniqueFd(source), line.mount_point, line, std::move(daemon));
    } catch (const MountFailed& failed) {
        if (*failed.what() != '\0') log::error("{}", failed.what());
        status = failed.exit_status();
    } catch (const std::exception& failure) {
        log::error("{}", failure.what());
    }
    ::_exit(status);
}

// Returns when it answers. Whoever serves it is no child of ours.
bool mount_one(const SourceDirectory& source, const std::string& mount_point, const RunLine& run) {
    CommandLine line;
    line.source = source.path;
    line.mount_point = mount_point;
    line.options = run.options;
    line.is_for_a_program = true;
    line.option_lists = run.option_lists;
    if (::mkdir(mount_point.c_str(), 0700) != 0) {
        log::error("{}: {}", mount_point, std::generic_category().message(errno));
        return false;
    }
    const pid_t child = sys::check(::fork(), "fork");
    if (child == 0) serve(source.descriptor.get(), line);
    return wait_for_exit(child) == exit_status::success;
}

// Returns whether nothing is left.
bool take_down(const std::string& place, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        const std::string mount_point = path_in(place, i);
        try {
            struct stat outside {};
            sys::check(::lstat(place.c_str(), &outside), "lstat");
            const dev_t device = device_of_mount(mount_point);
            if (device != outside.st_dev) detach_mount(mount_point, device);
        } catch (const std::exception& failure) {
            log::error("{}: {}", mount_point, failure.what());
        }
        // With which it goes wherever else the mount point has been copied to: rmdir(2), detach_mounts in the kernel.
        ::rmdir(mount_point.c_str());
    }
    if (::rmdir(place.c_str()) == 0) return true;
    log::error("{}: {}", place, std::generic_category().message(errno));
    return false;
}

}  // namespace

HiddenMounts::HiddenMounts(const std::vector<SourceDirectory>& sources, const RunLine& line) {
    start_mounter(sources, line);
    place_ = receive(mounter_end_.get());
    if (!place_.empty()) return;
    wait_for_mounter();
    throw MountFailed("", exit_status::mount_failed);
}

void HiddenMounts::start_mounter(const std::vector<SourceDirectory>& sources, const RunLine& line) {
    std::array<int, 2> ends{};
    sys::check(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), "socketpair");
    mounter_end_.reset(ends[0]);
    const UniqueFd other(ends[1]);
    mounter_ = sys::check(::fork(), "fork");
    if (mounter_ == 0) mount_until_told(sources, line, other.get());
}

// In a child, for what must not be this process's when it becomes another program: the mounter's children. And so that
// nothing is left whenever this process dies.
void HiddenMounts::mount_until_told(const std::vector<SourceDirectory>& sources, const RunLine& line, int end) {
    bool is_good = true;
    std::string place;
    std::size_t count = 0;
    try {
        ::setsid();                  // the terminal's signals are for the command
        ::signal(SIGCHLD, SIG_DFL);  // NOLINT(cert-err33-c)
        forget_who_called(line.command);
        std::vector<unsigned> kept = {static_cast<unsigned>(end)};
        for (const SourceDirectory& source : sources) kept.push_back(static_cast<unsigned>(source.descriptor.get()));
        close_others(kept);
        place = make_place(sources);
        while (is_good && count < sources.size()) {
            const std::size_t i = count++;
            is_good = mount_one(sources[i], path_in(place, i), line);
        }
        if (is_good && send(end, place)) static_cast<void>(receive(end));
    } catch (const std::exception& failure) {
        log::error("{}", failure.what());
        is_good = false;
    }
    const bool is_clean = place.empty() || take_down(place, count);
    if (is_clean && is_good) send(end, "done");
    ::_exit(exit_status::success);
}

HiddenMounts::~HiddenMounts() {
    wait_for_mounter();
}

std::string HiddenMounts::path(std::size_t i) const {
    return path_in(place_, i);
}

void HiddenMounts::take_away() {
    const bool is_done = send(mounter_end_.get(), "bound") && !receive(mounter_end_.get()).empty();
    wait_for_mounter();
    if (!is_done) throw MountFailed(fmt::format("{} could not be taken away", place_), exit_status::mount_failed);
}

void HiddenMounts::wait_for_mounter() {
    mounter_end_.reset();
    if (mounter_ > 0) wait_for_exit(std::exchange(mounter_, 0));
}

}  // namespace nosigbus
