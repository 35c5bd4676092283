// Descriptors of other processes.
#pragma once

#include <sys/types.h>

#include "lib/unique_fd.h"

namespace nosigbus {

// What a process may do with a descriptor of its own.
struct Rights {
    bool read = false;
    bool write = false;

    bool operator==(const Rights&) const = default;
};

struct PeerDescriptor {
    UniqueFd descriptor;  // the same open file, or where that cannot be had, O_PATH of its inode
    Rights rights;        // the peer's, not ours
};

// What `thread`, a thread's id, has open as `number` now: a regular file. Throws std::system_error: ENOENT, there is no
// such descriptor; EOPNOTSUPP, it is no regular file; EACCES, we may not look into that process (ptrace(2)), or there
// is none. Who calls may have a child to reap afterwards.
PeerDescriptor descriptor_of(pid_t thread, int number);

}  // namespace nosigbus
