// From a command line to a supervisor that has something to supervise.
#pragma once

#include <string>

#include "fs/command_line.h"
#include "fs/daemon.h"
#include "lib/unique_fd.h"

namespace nosigbus {

// Serves the directory behind `source`, an O_PATH descriptor, at `mount_point`, an absolute path. Calls daemon.ready()
// once the mount answers. Returns the exit status when nobody has a file of it open or mapped any more. Throws
// MountFailed or std::system_error, and then nothing is mounted.
int supervise_new_mount(UniqueFd source, const std::string& mount_point, const CommandLine& line, Daemon daemon);

// Takes over from another supervisor: `line` names the state. Throws UnreadableState or std::system_error.
int supervise_again(const CommandLine& line);

// Tells a supervisor that asks that this program could take over. Throws UnreadableState or std::system_error where it
// could not.
void check_state(const CommandLine& line);

}  // namespace nosigbus
