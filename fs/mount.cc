#include "fs/mount.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string_view>

#include "fs/exit_status.h"
#include "fs/request_threads.h"
#include "lib/log.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// fuse_set_log_func has no user data. While we mount, libfuse's reason is kept for our one line.
std::string* mount_complaint = nullptr;

void log_for_libfuse(fuse_log_level level, const char* format, va_list arguments) {
    std::array<char, 512> line{};
    static_cast<void>(std::vsnprintf(line.data(), line.size(), format, arguments));
    // No string: libfuse may have called because there is no memory.
    std::string_view text = line.data();
    constexpr std::string_view prefix = "fuse: ";
    while (text.ends_with('\n')) text.remove_suffix(1);
    if (text.starts_with(prefix)) text.remove_prefix(prefix.size());
    if (mount_complaint != nullptr) {
        *mount_complaint = text;
    } else if (level <= FUSE_LOG_ERR) {
        log::error("libfuse: {}", text);
    } else {
        log::info("libfuse: {}", text);
    }
}

// As libfuse's option parser wants a value that may hold commas.
std::string escaped(const std::string& value) {
    std::string result;
    for (const char c : value) {
        if (c == ',' || c == '\\') result += '\\';
        result += c;
    }
    return result;
}

// Returns the wait status, or -1 where there is no such program.
int run_fusermount(std::array<std::string, 5> words) {
    std::array<char*, 6> arguments{};
    for (std::size_t i = 0; i < words.size(); ++i) arguments[i] = words[i].data();
    // Where PATH leads nowhere, libfuse has found it in the place of its own installation.
    pid_t child = 0;
    if (::posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments.data(), environ) != 0 &&
        ::posix_spawn(&child, "/usr/bin/fusermount3", nullptr, nullptr, arguments.data(), environ) != 0)
        return -1;
    int status = 0;
    return ::waitpid(child, &status, 0) < 0 ? -1 : status;
}

// libfuse tells why only in words, which end with those of errno.
[[noreturn]] void fail_for(const std::string& mount_point, const std::string& complaint) {
    // Where libfuse says nothing, fusermount3 has been tried and has said on stderr why it would not.
    if (complaint.empty()) throw MountFailed("", exit_status::usage);
    if (complaint.starts_with("device not found")) {
        throw MountFailed(fmt::format("cannot mount on {}: /dev/fuse: {}", mount_point, complaint),
                          exit_status::system_error);
    }
    int status = exit_status::mount_failed;
    if (complaint.ends_with(std::strerror(EACCES)) || complaint.ends_with(std::strerror(EPERM))) {
        status = exit_status::usage;
    } else if (complaint.find("/dev/fuse") != std::string::npos) {
        status = exit_status::system_error;
    }
    throw MountFailed(fmt::format("cannot mount on {}: {}", mount_point, complaint), status);
}

}  // namespace

std::vector<std::string> session_arguments(const std::string& source, const Options& options, bool debug) {
    std::string list =
        fmt::format("fsname={},subtype=nosigbus,default_permissions,max_read={}", escaped(source), max_read);
    if (options.allow_other) list += ",allow_other";
    if (debug) list += ",debug";
    for (const std::string& option : options.kernel) list += ',' + escaped(option);
    return {"nosigbus", "-o", list};
}

void take_log_of_libfuse() {
    fuse_set_log_func(log_for_libfuse);
}

int mount_at(const std::string& mount_point, fuse_session* session) {
    std::string complaint;
    mount_complaint = &complaint;
    take_log_of_libfuse();
    const int result = fuse_session_mount(session, mount_point.c_str());
    mount_complaint = nullptr;
    if (result != 0) fail_for(mount_point, complaint);
    return fuse_session_fd(session);
}

dev_t device_of_mount(const std::string& mount_point) {
    struct statx attributes {};
    sys::check(
        ::statx(AT_FDCWD, mount_point.c_str(), AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC, STATX_TYPE, &attributes),
        "statx");
    return makedev(attributes.stx_dev_major, attributes.stx_dev_minor);
}

void try_mount(int root) {
    struct statvfs statistics {};
    sys::check(::fstatvfs(root, &statistics), "fstatvfs");
}

void detach_mount(const std::string& mount_point, dev_t device) noexcept {
    try {
        if (device_of_mount(mount_point) != device) {
            log::warning("{}: our mount is not, or not topmost, there any more", mount_point);
            return;
        }
        if (::umount2(mount_point.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) return;
        if (run_fusermount({"fusermount3", "-u", "-z", "--", mount_point}) != 0)
            log::error("cannot unmount {}", mount_point);
    } catch (const std::exception& failure) {
        log::warning("{}: {}", mount_point, failure.what());
    }
}

UniqueFd open_readahead(dev_t device) {
    const auto path = fmt::format("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device));
    return UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
}

void raise_readahead(const UniqueFd& readahead) {
    constexpr std::string_view wanted_kib = "256";
    std::array<char, 16> kib{};
    if (!readahead || ::pread(readahead.get(), kib.data(), kib.size() - 1, 0) <= 0) return;
    if (std::atoi(kib.data()) >= std::atoi(wanted_kib.data())) return;  // NOLINT(cert-err34-c): the kernel's own digits
    [[maybe_unused]] const ssize_t written = ::pwrite(readahead.get(), wanted_kib.data(), wanted_kib.size(), 0);
}

void warn_of_request_timeouts() {
    for (const char* name : {"default_request_timeout", "max_request_timeout"}) {
        std::ifstream file(fmt::format("/proc/sys/fs/fuse/{}", name));
        unsigned seconds = 0;
        if (file >> seconds && seconds != 0) {
            log::warning(
                "fs.fuse.{} is {}: the kernel ends this mount, and mapped readers get SIGBUS, when a request takes "
                "that "
                "many seconds; 0 is safe",
                name, seconds);
        }
    }
}

}  // namespace nosigbus
