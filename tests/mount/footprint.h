// What the daemon takes of the machine.
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace nosigbus::test {

#ifdef NOSIGBUS_DAEMON_IS_SANITIZED
inline constexpr bool memory_is_ours = false;  // a sanitizer keeps what was freed
#else
inline constexpr bool memory_is_ours = true;
#endif

// Of `pid` and every process it started: bytes in memory.
std::size_t resident_memory(pid_t pid);
// Open descriptors, of which supervisor and worker share one table.
std::size_t open_descriptors(pid_t pid);

}  // namespace nosigbus::test
