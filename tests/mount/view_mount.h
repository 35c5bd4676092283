// A mounted source directory: the daemon in the foreground, as a child of the test.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "tests/mount/directories.h"
#include "tests/mount/process.h"
#include "tests/mount/tested_build.h"

namespace nosigbus::test {

// The daemon under test, and the script that mount(8) calls: from the build that the tests belong to.

// The end must be clean: the destructor unmounts (detaching the mount where it is in use), waits for the daemon and
// checks that it left with status 0 and that neither it nor a sanitizer had anything to complain about.
class ViewMount : public Directories {
  public:
    // Mounts with `options`, such as "max_size=1M"; with engine=$NOSIGBUS_TEST_ENGINE unless they say another. Returns
    // when the mount answers; throws where it never does. `program` is the daemon.
    explicit ViewMount(const std::vector<std::string>& options = {}, const std::string& program = daemon_program);
    ViewMount(const ViewMount&) = delete;
    ViewMount& operator=(const ViewMount&) = delete;
    ~ViewMount();

    // The supervisor.
    [[nodiscard]] pid_t pid() const { return successor_ > 0 ? successor_ : daemon_.pid(); }
    [[nodiscard]] std::string errors() const { return daemon_.errors(); }

    // How the daemon ended: "exit 0", or "still running".
    std::string wait(std::chrono::milliseconds deadline = patience);
    bool running() { return wait(std::chrono::milliseconds(0)) == "still running"; }

    // Kills the supervisor and waits for its successor, which is the daemon from then on.
    void kill_supervisor();
    // The supervisor has ended, or soon will, and another is the daemon from then on. Throws where there is none.
    void await_successor();
    // The daemon's end is not to be a clean one.
    void expect_end(const std::string& end) { expected_end_ = end; }

    // umount2(2): 0, or the errno with which it was refused.
    [[nodiscard]] int unmount(int flags = 0) const;

  private:
    void wait_until_it_answers();

    Process daemon_;
    pid_t successor_ = 0;  // adopted: see guard.cc
    std::string successor_end_ = "still running";
    std::string expected_end_ = "exit 0";
    unsigned connection_ = 0;
};

// The supervisor of the mount at `path`: the extended attribute user.nosigbus.supervisor.
pid_t supervisor_of(const std::string& path);

// Words in the daemon's output that no test may cause; empty where there is none.
std::string complaint(const std::string& errors);

}  // namespace nosigbus::test
