// Faults of the worker, asked for by name (lib/fault_point.h), and what becomes of it. For builds with
// NOSIGBUS_FAULT_POINTS.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <thread>

#include "lib/unique_fd.h"
#include "tests/mount/eventually.h"
#include "tests/mount/view_mount.h"

namespace nosigbus::test {

// "NAME ACTION [PASSES]": so often the worker passes that place unharmed, and then it does that, once.
void ask_for_fault(const ViewMount& mount, const std::string& fault);

// How often a worker has been replaced.
std::uint64_t restarts(const ViewMount& mount);

// How often `part` stands in `text`.
std::size_t count_of(const std::string& text, const std::string& part);

// How often a worker has been replaced since this was made. One that began before another was gone, and begins again,
// is none; but where it does not go at once the supervisor cannot tell.
class Replacements {
  public:
    explicit Replacements(const ViewMount& mount)
        : mount_(mount), before_(restarts(mount)), log_before_(mount.errors().size()) {}

    // Waits until there are so many. False where there are not within our patience, or more.
    [[nodiscard]] bool are(std::uint64_t wanted) const;

    // What the log says since then.
    [[nodiscard]] std::string log() const { return mount_.errors().substr(log_before_); }

  private:
    const ViewMount& mount_;
    const std::uint64_t before_;
    const std::size_t log_before_;
};

// The worker that serves now.
class Worker {
  public:
    explicit Worker(const ViewMount& mount);

    [[nodiscard]] pid_t pid() const { return pid_; }
    void kill() const;

    // Waits until it is gone, without asking the mount for anything. False where it is not within `deadline`.
    [[nodiscard]] bool ends(std::chrono::milliseconds deadline = patience) const;

    // Whether a thread of it hangs at a place where it was asked to.
    [[nodiscard]] bool hangs() const;

    // Whether SIGSTOP has reached all its threads.
    [[nodiscard]] bool is_stopped() const;

  private:
    pid_t pid_;
    UniqueFd end_;
};

// While this exists the worker that serves at first is not young when it ends: of those that die young too many in a
// row are followed by a pause.
class GrowsUp {
  public:
    GrowsUp() = default;
    GrowsUp(const GrowsUp&) = delete;
    GrowsUp& operator=(const GrowsUp&) = delete;
    ~GrowsUp() { std::this_thread::sleep_until(begun_ + std::chrono::milliseconds(25)); }

  private:
    const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

}  // namespace nosigbus::test
