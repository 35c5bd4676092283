#include "lib/peer_descriptor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <string>
#include <string_view>

#include "lib/syscalls.h"

namespace nosigbus {
namespace {

constexpr unsigned pidfd_thread = O_EXCL;  // linux/pidfd.h of Linux 6.9: PIDFD_THREAD

// The process that `thread` belongs to; 0 where it has ended.
pid_t process_of(pid_t thread) {
    std::ifstream status(fmt::format("/proc/{}/status", thread));
    for (std::string line; std::getline(status, line);) {
        constexpr std::string_view start = "Tgid:";
        if (line.starts_with(start)) return std::stoi(line.substr(start.size()));
    }
    return 0;
}

// Before Linux 6.9 there is a pidfd of a process only, and its first thread may have other descriptors.
UniqueFd open_process_of(pid_t thread) {
    const pid_t process = process_of(thread);
    if (process == 0) sys::fail(EACCES, "the caller's process");
    UniqueFd pidfd(static_cast<int>(sys::check(::syscall(SYS_pidfd_open, process, 0), "pidfd_open")));
    if (process != thread && ::syscall(SYS_kcmp, process, thread, KCMP_FILES, 0, 0) != 0)
        sys::fail(EACCES, "a thread with descriptors of its own");
    return pidfd;
}

UniqueFd open_thread(pid_t thread) {
    UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, thread, pidfd_thread)));
    if (pidfd) return pidfd;
    if (errno == EINVAL) return open_process_of(thread);
    sys::fail(errno == ESRCH ? EACCES : errno, "pidfd_open");
}

Rights rights_of(const UniqueFd& descriptor) {
    const int flags = sys::check(::fcntl(descriptor.get(), F_GETFL), "F_GETFL");
    if ((flags & O_PATH) != 0) return {};
    const int mode = flags & O_ACCMODE;
    return {.read = mode == O_RDONLY || mode == O_RDWR, .write = mode == O_WRONLY || mode == O_RDWR};
}

// By what /proc shows, for which a right to look is enough, where to take is forbidden (Yama, ptrace(2)). Between two
// looks another file may have come to that number. What comes of it is O_PATH: who opens that again is checked, and we
// may no more than who asks, or he could not have been let look. So not for root.
PeerDescriptor look_at(pid_t thread, int number) {
    const std::string path = fmt::format("/proc/{}/fd/{}", thread, number);
    struct stat link {};
    if (::lstat(path.c_str(), &link) != 0) sys::fail(errno == ENOENT ? ENOENT : EACCES, path.c_str());
    const int found = ::open(path.c_str(), O_PATH | O_CLOEXEC);
    if (found < 0) sys::fail(errno == ENOENT ? ENOENT : EACCES, path.c_str());
    return {UniqueFd(found), {.read = (link.st_mode & S_IRUSR) != 0, .write = (link.st_mode & S_IWUSR) != 0}};
}

// Whether it is known to be none, before anything is taken: of some that could be the last descriptor then.
void refuse_other_kinds(pid_t thread, int number) {
    struct statx file {};
    const std::string path = fmt::format("/proc/{}/fd/{}", thread, number);
    if (::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_TYPE, &file) != 0) return;
    if (!S_ISREG(file.stx_mode)) sys::fail(EOPNOTSUPP, "not a regular file");
}

// The last close of a socket may take as long as its owner likes (SO_LINGER, socket(7)): by a child, which whoever runs
// errands reaps.
void close_elsewhere(UniqueFd descriptor) {
    const int number = descriptor.release();
    const long child = ::syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
    if (child == 0) {
        ::close(number);
        ::syscall(SYS_exit_group, 0);
    }
    if (child < 0) ::close(number);
}

PeerDescriptor take(pid_t thread, int number) {
    refuse_other_kinds(thread, number);
    const UniqueFd pidfd = open_thread(thread);
    UniqueFd descriptor(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), number, 0)));
    if (descriptor) {
        const Rights rights = rights_of(descriptor);
        return {std::move(descriptor), rights};
    }
    if (errno == EBADF) sys::fail(ENOENT, "no such descriptor");
    const bool is_forbidden = errno == EPERM || errno == ENOSYS;
    if (is_forbidden && ::geteuid() != 0) return look_at(thread, number);
    sys::fail(is_forbidden || errno == ESRCH ? EACCES : errno, "pidfd_getfd");
}

}  // namespace

PeerDescriptor descriptor_of(pid_t thread, int number) {
    // Who cannot be seen from here has no number here (fuse_get_req).
    if (thread <= 0) sys::fail(EACCES, "a caller in a pid namespace out of sight");
    PeerDescriptor found = take(thread, number);
    // Without asking whoever serves it, who may be the caller's enemy, or ourselves.
    const auto attributes = sys::stat_fd(found.descriptor.get(), STATX_TYPE, AT_STATX_DONT_SYNC);
    if (S_ISREG(attributes.stx_mode)) return found;
    close_elsewhere(std::move(found.descriptor));
    sys::fail(EOPNOTSUPP, "not a regular file");
}

}  // namespace nosigbus
