#include "tests/mount/view_mount.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mount.h>

#include <cerrno>
#include <stdexcept>

#include "tests/mount/files.h"
#include "tests/mount/mount_table.h"

namespace nosigbus::test {

const std::string daemon_program = NOSIGBUS_DAEMON;
const std::string mount_script = NOSIGBUS_MOUNT_SCRIPT;

namespace {

std::vector<std::string> command(const Directories& directories, const std::vector<std::string>& options) {
    std::vector<std::string> words = {daemon_program, directories.source(), directories.mountpoint(), "-f"};
    if (!options.empty()) words.insert(words.end(), {"-o", fmt::format("{}", fmt::join(options, ","))});
    return words;
}

}  // namespace

ViewMount::ViewMount(const std::vector<std::string>& options) : daemon_(command(*this, options)) {
    wait_until_it_answers();
}

void ViewMount::wait_until_it_answers() {
    const bool mounted = eventually([&] { return mounted_at(mountpoint()) || !daemon_.running(); });
    const auto mount = mounted_at(mountpoint());
    if (!mounted || !mount)
        throw std::runtime_error("the daemon did not mount: " + daemon_.wait({}) + ": " + daemon_.errors());
    connection_ = mount->minor;
    status(mountpoint());
}

ViewMount::~ViewMount() {
    if (mounted_at(mountpoint()) && unmount() == EBUSY) CHECK(unmount(MNT_DETACH) == 0);
    const std::string end = daemon_.wait(std::chrono::seconds(20));
    if (end == "still running") abort_connection(connection_);
    const std::string output = daemon_.errors();
    CHECK_MESSAGE(end == "exit 0", "the daemon: ", end, "\n", output);
    CHECK_MESSAGE(complaint(output).empty(), "the daemon's output has \"", complaint(output), "\":\n", output);
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
