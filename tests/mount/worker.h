// The children of the daemon: the worker, which serves its mount and is replaced when it dies, and the heir, which goes
// on in the daemon's place when that dies.
#pragma once

#include <sys/types.h>

#include <vector>

namespace nosigbus::test {

// The heir that `supervisor` has now; 0 where there is none at the moment.
pid_t heir_of(pid_t supervisor);

// All its other children.
std::vector<pid_t> workers_of(pid_t supervisor);

// The worker that `supervisor` has now; 0 where there is none at the moment.
pid_t worker_of(pid_t supervisor);

// Kills the worker by SIGKILL, and returns its pid when it is dead, so that nobody takes it for the next one. 0 where
// there was none. Throws where it does not die.
pid_t kill_worker(pid_t supervisor);

}  // namespace nosigbus::test
