// The mounts of this mount namespace, read from /proc/self/mountinfo: asking it never asks a file system.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace nosigbus::test {

struct Mount {
    unsigned major = 0;
    unsigned minor = 0;  // of a FUSE mount: the number of its connection below /sys/fs/fuse/connections
    std::string mountpoint;
    std::string options;  // of this mount: ro, nosuid, ...
    std::string type;
    std::string source;
    std::string super_options;
};

// Another process's with its /proc/PID/mountinfo.
std::vector<Mount> mount_table(const std::string& mountinfo = "/proc/self/mountinfo");

// What stands on top at `mountpoint`, if anything is mounted there.
std::optional<Mount> mounted_at(const std::string& mountpoint);

// Every nosigbus mount.
std::vector<Mount> nosigbus_mounts();

// Ends FUSE connection `number` by fusectl, which answers each waiting request with an error. The last resort against
// processes that hang in a mount: nothing here touches the mount itself.
bool abort_connection(unsigned number);

}  // namespace nosigbus::test
