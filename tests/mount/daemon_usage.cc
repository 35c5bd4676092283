#include "tests/mount/daemon_usage.h"

#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include <algorithm>

#include "tests/mount/files.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/view_mount.h"

namespace nosigbus::test {

Run run_daemon(const std::vector<std::string>& arguments, const Process::Setup& setup) {
    std::vector<std::string> command = {daemon_program};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return run(command, setup);
}

std::size_t mounts_at(const std::string& mountpoint) {
    const auto mounts = nosigbus_mounts();
    return static_cast<std::size_t>(std::count_if(mounts.begin(), mounts.end(),
                                                  [&](const Mount& mount) { return mount.mountpoint == mountpoint; }));
}

bool answers(const std::string& mountpoint) {
    struct statfs found {};
    return ::statfs(mountpoint.c_str(), &found) == 0 && found.f_type == FUSE_SUPER_MAGIC;
}

std::string wait_for_adopted(std::chrono::milliseconds deadline) {
    std::string endings;
    for (const pid_t pid : children()) endings += (endings.empty() ? "" : ", ") + wait_for(pid, deadline);
    return endings;
}

std::string unmount_and_wait(const std::string& mountpoint) {
    const std::string refused = answer(::umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW));
    return refused == "0" ? wait_for_adopted() : "umount: " + refused;
}

}  // namespace nosigbus::test
