// Where `nosigbus run` is tried.
#pragma once

#include <string>
#include <vector>

#include "tests/mount/directories.h"
#include "tests/mount/process.h"

namespace nosigbus::test {

// The end must leave nothing: the destructor waits for the servers and checks that they have left with status 0, and
// that the directory in which the mounts were made is empty.
class RunPlace : public Directories {
  public:
    RunPlace();
    RunPlace(const RunPlace&) = delete;
    RunPlace& operator=(const RunPlace&) = delete;
    ~RunPlace();

    // Where the mounts are made: a directory that programs are told of by XDG_RUNTIME_DIR.
    [[nodiscard]] std::string runtime() const { return root() + "/runtime"; }

    // `nosigbus run` of `words` where the source is covered by its views, with these arguments before the command.
    [[nodiscard]] std::vector<std::string> command(const std::vector<std::string>& words,
                                                   const std::vector<std::string>& options = {}) const;
    [[nodiscard]] Process::Setup setup() const { return {.environment = {"XDG_RUNTIME_DIR=" + runtime()}}; }
    [[nodiscard]] Run run(const std::vector<std::string>& words, const std::vector<std::string>& options = {}) const {
        return test::run(command(words, options), setup());
    }

    // The server's supervisor, while there is one server and nothing else is a child of ours by adoption.
    [[nodiscard]] static pid_t server(const Process& running);

    // The servers are to end otherwise.
    void expect_ends(std::vector<std::string> ends) { expected_ends_ = std::move(ends); }

    // Checks that no server is left, nor a mount, nor a directory.
    void check_nothing_left();

  private:
    std::vector<std::string> expected_ends_ = {"exit 0"};
};

// A named pipe on which programs wait for a test.
class Gate {
  public:
    explicit Gate(std::string path);

    [[nodiscard]] const std::string& path() const { return path_; }
    // Whoever reads from it gets a line. Waits for somebody to.
    void open() const;

  private:
    std::string path_;
};

}  // namespace nosigbus::test
