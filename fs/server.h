// Mounts and serves until the kernel ends the connection.
#pragma once

#include <string>

#include "fs/command_line.h"
#include "fs/daemon.h"
#include "lib/unique_fd.h"

namespace nosigbus {

// Serves the directory behind `source`, an O_PATH descriptor, at `mount_point`, an absolute path. Calls daemon.ready()
// once the mount answers. SIGTERM, SIGINT and SIGHUP detach the mount; serving ends when nobody has a file of it open
// or mapped any more. Throws MountFailed or std::system_error, and then nothing is mounted.
void serve(UniqueFd source, const std::string& mount_point, const CommandLine& line, Daemon& daemon);

}  // namespace nosigbus
