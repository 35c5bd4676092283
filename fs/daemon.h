// Leaving the terminal once the mount answers.
#pragma once

#include "lib/unique_fd.h"

namespace nosigbus {

class Daemon {
  public:
    // Forks. In the parent this returns only through exit(3): with 0 once the child has called ready, else with the
    // child's exit status. In the child it returns. Throws std::system_error.
    static Daemon fork_off();

    // Stays where it is: ready does nothing.
    Daemon() = default;

    // The mount answers: from here on the log goes to syslog(3), the terminal is let go, and the parent ends with 0.
    void ready();

  private:
    explicit Daemon(UniqueFd parent) : parent_(std::move(parent)) {}

    UniqueFd parent_;  // a pipe
};

}  // namespace nosigbus
