// nosigbus --reload MOUNTPOINT
#pragma once

#include <string>

namespace nosigbus {

// Has the nosigbus that is installed where the server of `mount_point` was take over from it, and waits for that.
// Returns the exit status, having said why where it is not 0. Throws std::system_error where there is no such mount.
int reload(const std::string& mount_point);

}  // namespace nosigbus
