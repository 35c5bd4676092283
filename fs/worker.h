// The process that serves. It shares the descriptor table of the supervisor that started it, so that whatever it opens
// outlives it: the next worker finds it by SharedState.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fs/command_line.h"
#include "fs/confinement.h"
#include "lib/shared_state.h"
#include "lib/unique_fd.h"

namespace nosigbus {

// What became of a worker.
struct Obituary {
    pid_t pid = 0;
    int status = 0;       // as waitpid(2) tells it
    bool is_gone = true;  // else the status is not known yet
    bool hung = false;
    std::uint64_t number = 0;            // so many have died with this one
    std::chrono::milliseconds pause{0};  // that the supervisor made before it started another
};

struct Job {
    SharedState& state;
    const CommandLine& line;
    const std::string& mount_point;
    int source;                           // O_PATH, for the first worker
    const std::vector<int>& supervisors;  // descriptors that are not the state's
    const Confinement& confinement;
    pid_t supervisor;
    std::span<const Obituary> obituaries;  // that nobody has logged yet
};

// Serves until the connection ends, then exits with 0. Exits with another status of exit_status.h, having said why,
// where it cannot.
[[noreturn]] void work(const Job& job);

}  // namespace nosigbus
