// A mounted source directory: the daemon in the foreground, as a child of the test.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "tests/mount/directories.h"
#include "tests/mount/process.h"

namespace nosigbus::test {

// The daemon under test, and the script that mount(8) calls: from the build that the tests belong to.
extern const std::string daemon_program;
extern const std::string mount_script;

// The end must be clean: the destructor unmounts (detaching the mount where it is in use), waits for the daemon and
// checks that it left with status 0 and that neither it nor a sanitizer had anything to complain about.
class ViewMount : public Directories {
  public:
    // Mounts with `options`, such as "max_size=1M". Returns when the mount answers; throws where it never does.
    explicit ViewMount(const std::vector<std::string>& options = {});
    ViewMount(const ViewMount&) = delete;
    ViewMount& operator=(const ViewMount&) = delete;
    ~ViewMount();

    [[nodiscard]] pid_t pid() const { return daemon_.pid(); }
    [[nodiscard]] std::string errors() const { return daemon_.errors(); }

    // How the daemon ended: "exit 0", or "still running".
    std::string wait(std::chrono::milliseconds deadline = patience) { return daemon_.wait(deadline); }
    bool running() { return daemon_.running(); }

    // umount2(2): 0, or the errno with which it was refused.
    [[nodiscard]] int unmount(int flags = 0) const;

  private:
    void wait_until_it_answers();

    Process daemon_;
    unsigned connection_ = 0;
};

// Words in the daemon's output that no test may cause; empty where there is none.
std::string complaint(const std::string& errors);

}  // namespace nosigbus::test
