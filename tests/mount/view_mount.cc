#include "tests/mount/view_mount.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <system_error>

#include "tests/mount/files.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/worker.h"

namespace nosigbus::test {

namespace {

std::vector<std::string> command(const Directories& directories, const std::vector<std::string>& options,
                                 const std::string& program) {
    std::vector<std::string> words = {program, directories.source(), directories.mountpoint(), "-f"};
    // First: a test that needs one says so.
    if (const char* const engine = std::getenv("NOSIGBUS_TEST_ENGINE"))
        words.insert(words.end(), {"-o", fmt::format("engine={}", engine)});
    if (!options.empty()) words.insert(words.end(), {"-o", fmt::format("{}", fmt::join(options, ","))});
    return words;
}

}  // namespace

ViewMount::ViewMount(const std::vector<std::string>& options, const std::string& program)
    : daemon_(command(*this, options, program)) {
    wait_until_it_answers();
}

void ViewMount::wait_until_it_answers() {
    const bool mounted = eventually([&] { return mounted_at(mountpoint()) || !daemon_.running(); });
    const auto mount = mounted_at(mountpoint());
    if (!mounted || !mount)
        throw std::runtime_error("the daemon did not mount: " + daemon_.wait({}) + ": " + daemon_.errors());
    connection_ = mount->minor;
    try {
        status(mountpoint());
    } catch (const std::system_error& failure) {
        throw std::runtime_error(std::string("the mount does not answer: ") + failure.what() + ": " + daemon_.errors());
    }
    // From here on somebody goes on where the supervisor dies.
    eventually([&] { return heir_of(pid()) != 0; });
}

ViewMount::~ViewMount() {
    if (mounted_at(mountpoint()) && unmount() == EBUSY) CHECK(unmount(MNT_DETACH) == 0);
    const std::string end = wait(std::chrono::seconds(20));
    if (end == "still running") abort_connection(connection_);
    const std::string output = daemon_.errors();
    CHECK_MESSAGE(end == expected_end_, "the daemon: ", end, "\n", output);
    CHECK_MESSAGE(complaint(output).empty(), "the daemon's output has \"", complaint(output), "\":\n", output);
}

std::string ViewMount::wait(std::chrono::milliseconds deadline) {
    if (successor_ == 0) return daemon_.wait(deadline);
    if (successor_end_ == "still running") successor_end_ = wait_for(successor_, deadline);
    return successor_end_;
}

void ViewMount::await_successor() {
    const pid_t before = pid();
    const bool found = eventually([&] { return supervisor_of(mountpoint()) != before; });
    if (!found) throw std::runtime_error("no supervisor has taken over: " + errors());
    wait();
    successor_ = supervisor_of(mountpoint());
    successor_end_ = "still running";
}

void ViewMount::kill_supervisor() {
    const auto workers = workers_of(pid());
    ::kill(pid(), SIGKILL);
    await_successor();
    // Its successor has ended it; by then it was ours.
    for (const pid_t worker : workers) {
        const std::string end = wait_for(worker);
        // Or it ended itself, to begin again: its former one was slow to go. Or it was the child that detaches the
        // mount.
        CHECK_MESSAGE((end == "killed by SIGKILL" || end == "exit 2" || end == "exit 0"), end);
    }
}

pid_t supervisor_of(const std::string& path) {
    std::array<char, 32> value{};
    const ssize_t length = ::getxattr(path.c_str(), "user.nosigbus.supervisor", value.data(), value.size() - 1);
    if (length < 0) throw std::system_error(errno, std::generic_category(), path);
    return std::atoi(value.data());
}

int ViewMount::unmount(int flags) const {
    return ::umount2(mountpoint().c_str(), flags | UMOUNT_NOFOLLOW) == 0 ? 0 : errno;
}

std::string complaint(const std::string& errors) {
    for (const char* word :
         {"ERROR", "WARNING: ThreadSanitizer", "AddressSanitizer", "LeakSanitizer", "runtime error", "terminate"}) {
        if (errors.find(word) != std::string::npos) return word;
    }
    return {};
}

}  // namespace nosigbus::test
