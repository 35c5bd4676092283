#include "fs/supervise.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "fs/exit_status.h"
#include "fs/mount.h"
#include "fs/oom.h"
#include "fs/session.h"
#include "fs/supervisor.h"
#include "lib/credentials.h"
#include "lib/descriptor_table.h"
#include "lib/log.h"
#include "lib/shared_state.h"
#include "lib/syscalls.h"

namespace nosigbus {

int supervise_new_mount(UniqueFd source, const std::string& mount_point, const CommandLine& line, Daemon daemon) {
    raise_descriptor_limit();
    ::umask(0);
    keep_capabilities_across_ids();
    be_spared_by_oom_killer(OomRank::supervisor);
    SharedState state;
    // Of this session only the mount is used; each worker has its own. It is never destroyed: that would close
    // /dev/fuse, and forget to free the name of the mount point.
    static fuse_session* const session =
        make_session(session_arguments(line.source, line.options, line.debug)).release();
    if (session == nullptr) throw MountFailed("libfuse does not take our options", exit_status::system_error);
    state.lifeline().device = mount_at(mount_point, session);
    state.lifeline().mount_device = device_of_mount(mount_point);
    try {
        Supervisor supervisor(state, line, mount_point, std::move(daemon));
        return supervisor.supervise(source.release());
    } catch (...) {
        detach_mount(mount_point, state.lifeline().mount_device);
        throw;
    }
}

int supervise_again(const CommandLine& line) {
    if (!line.foreground) log::use_syslog();
    // Executed by way of a descriptor's name, it would be called that: execve(2).
    ::prctl(PR_SET_NAME, "nosigbus");
    keep_capabilities_across_ids();
    SharedState state{UniqueFd(line.resume)};
    state.for_each_descriptor([](int descriptor) { ::fcntl(descriptor, F_SETFD, FD_CLOEXEC); });
    ++state.counters().reloads;
    log::info("{}: nosigbus {} has taken over", line.mount_point, NOSIGBUS_VERSION);
    Supervisor supervisor(state, line, line.mount_point, Daemon());
    return supervisor.supervise(-1);
}

void check_state(const CommandLine& line) {
    if (!line.foreground) log::use_syslog();
    const SharedState state{UniqueFd(line.check)};
    state.lifeline().checked = ~state.lifeline().checked.load();
}

}  // namespace nosigbus
