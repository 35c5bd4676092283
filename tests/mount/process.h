// Programs that the tests run. None outlives its object, nor the thread that started it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lib/unique_fd.h"
#include "tests/mount/eventually.h"

namespace nosigbus::test {

// A wait status in words: "exit 0", "killed by SIGBUS".
std::string ending(int wait_status);

// The direct children of this process, and the name of the program that `pid` runs.
std::vector<pid_t> children(pid_t parent = 0);
std::string command_name(pid_t pid);

// A descriptor that poll(2) reports as readable when `pid` has ended.
UniqueFd end_of(pid_t pid);

// Waits until `pid`, a child of ours, ends. "still running" when it does not within `deadline`.
std::string wait_for(pid_t pid, std::chrono::milliseconds deadline = patience);

// fork(2), so that the child does not print again what waits in a buffer here.
pid_t fork_process();

class Process {
  public:
    struct Setup {
        std::string directory{};                 // where it starts, if not here
        std::vector<std::string> environment{};  // NAME=value, on top of ours
        std::function<void()> before_exec{};     // runs in the new process
    };

    // Starts the program, looked up in PATH. Its output goes to files in memory, never to a pipe that could fill.
    explicit Process(const std::vector<std::string>& command) : Process(command, Setup()) {}
    Process(const std::vector<std::string>& command, const Setup& setup);
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;
    ~Process();

    [[nodiscard]] pid_t pid() const { return pid_; }

    // How it ended, as ending() says it; "still running" where it did not end within `deadline`.
    std::string wait(std::chrono::milliseconds deadline = patience);
    bool running() { return wait(std::chrono::milliseconds(0)) == "still running"; }

    [[nodiscard]] std::string output() const;  // what it wrote to its standard output so far
    [[nodiscard]] std::string errors() const;  // and to its standard error

  private:
    UniqueFd output_;
    UniqueFd errors_;
    pid_t pid_ = -1;
    std::string ending_;
};

// What a program that ran to its end left.
struct Run {
    std::string ending;
    std::string output;
    std::string errors;
};
inline constexpr std::chrono::seconds run_patience{60};
Run run(const std::vector<std::string>& command, const Process::Setup& setup = {},
        std::chrono::milliseconds deadline = run_patience);

struct User {
    std::string name;
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<gid_t> groups{};
    std::optional<std::uint64_t> capabilities{};  // these and no others, if said: a bit for each
};

// The caller becomes `user`; or `uid`, with a group of the same number and no others. For a process that is to end
// soon.
void become(const User& user);
void become(uid_t uid);

// What the caller executes next has no capabilities, whoever runs it: so whoever runs as the same user may look into it
// (ptrace(2)), as the confined worker may.
void give_up_capabilities();

// What `question` says when that user asks it: in a process of its own.
std::string as_user(const User& user, const std::function<std::string()>& question);
std::string as_user(uid_t uid, const std::function<std::string()>& question);

inline constexpr uid_t nobody = 65534;

}  // namespace nosigbus::test
