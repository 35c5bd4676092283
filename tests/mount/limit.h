// A resource limit of the daemon, changed while it runs: prlimit(2).
#pragma once

#include <sys/resource.h>

#include "tests/mount/files.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

namespace nosigbus::test {

// The one of a process as it is now.
inline rlimit limit_of(pid_t pid, __rlimit_resource resource) {
    rlimit limit{};
    must(::prlimit(pid, resource, nullptr, &limit), "prlimit");
    return limit;
}

// The soft limit alone: who lowers the hard one may not be able to raise it again.
inline void set_limit(pid_t pid, __rlimit_resource resource, rlim_t value) {
    rlimit limit = limit_of(pid, resource);
    limit.rlim_cur = std::min(value, limit.rlim_max);
    must(::prlimit(pid, resource, &limit, nullptr), "prlimit");
}

// Of the supervisor, whose later workers and successors inherit it, and of the worker; while this lives.
class DaemonLimit {
  public:
    DaemonLimit(const ViewMount& mount, __rlimit_resource resource, rlim_t value) : mount_(mount), resource_(resource) {
        set(value);
    }
    DaemonLimit(const DaemonLimit&) = delete;
    DaemonLimit& operator=(const DaemonLimit&) = delete;
    ~DaemonLimit() { set(RLIM_INFINITY); }

    void set(rlim_t value) const {
        set_limit(mount_.pid(), resource_, value);
        for (const pid_t child : children(mount_.pid())) set_limit(child, resource_, value);  // the worker and the heir
    }

  private:
    const ViewMount& mount_;
    __rlimit_resource resource_;
};

}  // namespace nosigbus::test
