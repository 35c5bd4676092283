// The daemon as it is used from a shell: it leaves its caller when the mount answers.
#pragma once

#include <string>
#include <vector>

#include "tests/mount/directories.h"
#include "tests/mount/process.h"

namespace nosigbus::test {

// Runs the daemon with these arguments until it returns.
Run run_daemon(const std::vector<std::string>& arguments, const Process::Setup& setup = {});

// How many nosigbus mounts stand at `mountpoint`, one over the other.
std::size_t mounts_at(const std::string& mountpoint);

// Whether a FUSE file system answers at `mountpoint`.
bool answers(const std::string& mountpoint);

// Waits until the daemons that left their callers have ended. They are children of ours by adoption (guard.cc). Says
// how they ended: "exit 0" for one that ended well.
std::string wait_for_adopted(std::chrono::milliseconds deadline = patience);

// Unmounts, and waits for the daemon.
std::string unmount_and_wait(const std::string& mountpoint);

}  // namespace nosigbus::test
