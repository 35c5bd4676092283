// What we exit with: mount(8)'s codes, since it hands on those of its helpers.
#pragma once

namespace nosigbus::exit_status {

inline constexpr int success = 0;
inline constexpr int usage = 1;         // a wrong command line or option, or no permission
inline constexpr int system_error = 2;  // no /dev/fuse, no memory, a kernel without what we need
inline constexpr int mount_failed = 32;

// Those of `nosigbus run`, where they are not the command's own: env(1)'s.
inline constexpr int run_failed = 125;
inline constexpr int not_executable = 126;
inline constexpr int not_found = 127;

}  // namespace nosigbus::exit_status
