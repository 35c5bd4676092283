// What the daemon takes of the machine.
#pragma once

#include <sys/types.h>

#include <cstddef>

#include "tests/mount/tested_build.h"

namespace nosigbus::test {

// Not where a sanitizer keeps what was freed.
inline bool memory_is_ours() {
    return !daemon_is_sanitized();
}

// Of `pid` and every process it started: bytes in memory.
std::size_t resident_memory(pid_t pid);
// The same, without what they map of files: of shadows, too.
std::size_t anonymous_memory(pid_t pid);
// Open descriptors, of which supervisor and worker share one table.
std::size_t open_descriptors(pid_t pid);

}  // namespace nosigbus::test
