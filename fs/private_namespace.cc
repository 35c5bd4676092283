#include "fs/private_namespace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <string_view>
#include <system_error>

#include "fs/exit_status.h"
#include "fs/mount.h"
#include "lib/syscalls.h"
#include "lib/unique_fd.h"

namespace nosigbus {
namespace {

void write_to(const char* path, std::string_view text) {
    const UniqueFd file = sys::open_at(AT_FDCWD, path, O_WRONLY);
    // These files of proc(5) take one write(2).
    sys::check(::write(file.get(), text.data(), text.size()), path);
}

// user_namespaces(7)
void map_own_ids(uid_t user, gid_t group) {
    write_to("/proc/self/uid_map", fmt::format("{} {} 1", user, user));
    write_to("/proc/self/setgroups", "deny");
    write_to("/proc/self/gid_map", fmt::format("{} {} 1", group, group));
}

void make_all_private() {
    sys::check(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "a private mount namespace");
}

void enter_user_namespace() {
    const uid_t user = ::geteuid();
    const gid_t group = ::getegid();
    try {
        sys::check(::unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare");
        map_own_ids(user, group);
        make_all_private();
    } catch (const std::system_error& failure) {
        throw MountFailed(fmt::format("a user namespace, without which only root can do this, is refused: {}; see "
                                      "user.max_user_namespaces, kernel.unprivileged_userns_clone and "
                                      "kernel.apparmor_restrict_unprivileged_userns, as far as this system has them",
                                      failure.code().message()),
                          exit_status::usage);
    }
}

bool is_same(int one, int other) {
    const struct statx a = sys::stat_fd(one, STATX_INO, AT_STATX_DONT_SYNC);
    const struct statx b = sys::stat_fd(other, STATX_INO, AT_STATX_DONT_SYNC);
    return a.stx_ino == b.stx_ino && a.stx_dev_major == b.stx_dev_major && a.stx_dev_minor == b.stx_dev_minor;
}

}  // namespace

void enter_private_namespace() {
    if (::unshare(CLONE_NEWNS) == 0) return make_all_private();
    if (errno != EPERM) sys::fail(errno, "a mount namespace");
    enter_user_namespace();
}

void cover(const std::string& directory, int expected, const std::string& mounted) {
    // Opened anew: mount(2) takes no directory of another mount namespace.
    const UniqueFd from = sys::open_at(AT_FDCWD, mounted.c_str(), O_PATH | O_DIRECTORY);
    const UniqueFd to = sys::open_at(AT_FDCWD, directory.c_str(), O_PATH | O_DIRECTORY);
    if (!is_same(to.get(), expected)) {
        throw MountFailed(fmt::format("{} has been replaced by another directory meanwhile", directory),
                          exit_status::mount_failed);
    }
    sys::check(::mount(sys::proc_path(from.get()).c_str(), sys::proc_path(to.get()).c_str(), nullptr, MS_BIND, nullptr),
               directory.c_str());
}

}  // namespace nosigbus
