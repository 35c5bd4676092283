// How another program becomes the supervisor of what is being served: this process executes it, and hands it the state
// and all descriptors that it names.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "fs/command_line.h"
#include "lib/shared_state.h"

namespace nosigbus {

class Succession {
  public:
    // The command line of the successors: that of this process. Throws std::bad_alloc.
    Succession(const CommandLine& line, const std::string& mount_point, const SharedState& state);
    Succession(const Succession&) = delete;
    Succession& operator=(const Succession&) = delete;
    ~Succession() = default;

    // What is installed where this program was when it started.
    [[nodiscard]] const char* installed() const { return installed_.c_str(); }

    // What is installed becomes the supervisor, as this process. Returns, with errno, only where it cannot be executed.
    void execute(const SharedState& state) const noexcept;

    // Starts what is installed to say whether it could take over: it stores `answer` in Lifeline::checked and exits
    // with 0. Returns its pid, or -1 with errno.
    [[nodiscard]] pid_t start_check(const SharedState& state) const noexcept;

  private:
    std::string installed_;
    std::vector<std::string> words_;
    std::vector<char*> resume_;  // argv
    std::vector<char*> check_;
};

// clone(2) of this process with CLONE_FILES: as fork(2), but for the descriptor table, which both share. The child may
// do what it likes where this process has one thread only, else what is async-signal-safe. Returns -1 with errno.
pid_t fork_sharing_descriptors() noexcept;

}  // namespace nosigbus
