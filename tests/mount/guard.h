// Keeps the machine safe from the tests: their mounts, their processes and their hangs end here.
#pragma once

#include <functional>

namespace nosigbus::test {

// What CTest takes for «skipped» (SKIP_RETURN_CODE).
inline constexpr int skipped = 77;

// Runs `tests` in a child process, inside a mount namespace that dies with it, and hands back its exit status. A FUSE
// bug can leave that child in an uninterruptible sleep, so the process that called is the watchdog: when
// NOSIGBUS_TEST_DEADLINE seconds (default 240) are over, or when the child was killed, it aborts every FUSE
// connection of the namespace by fusectl, says which, kills every process the tests left and returns failure. It also
// fails where the tests left a mount or a process behind. It never touches a mounted directory itself. Returns in the
// child too, with what `tests` returned.
int guarded(const std::function<int()>& tests);

}  // namespace nosigbus::test
