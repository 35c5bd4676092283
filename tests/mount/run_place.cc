#include "tests/mount/run_place.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "tests/mount/files.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/view_mount.h"

namespace nosigbus::test {

RunPlace::RunPlace() {
    must(::mkdir(runtime().c_str(), 0755), "mkdir");
}

RunPlace::~RunPlace() {
    check_nothing_left();
}

std::vector<std::string> RunPlace::command(const std::vector<std::string>& words,
                                           const std::vector<std::string>& options) const {
    std::vector<std::string> all = {daemon_program, "run", "--dir", source()};
    all.insert(all.end(), options.begin(), options.end());
    all.emplace_back("--");
    all.insert(all.end(), words.begin(), words.end());
    return all;
}

pid_t RunPlace::server(const Process& running) {
    pid_t found = 0;
    eventually([&] {
        auto adopted = children();
        std::erase(adopted, running.pid());
        if (adopted.size() == 1) found = adopted.front();
        return found != 0;
    });
    return found;
}

void RunPlace::check_nothing_left() {
    for (const pid_t pid : children()) {
        const std::string end = wait_for(pid);
        CHECK_MESSAGE(std::ranges::count(expected_ends_, end) > 0, "a server: ", end);
    }
    CHECK(nosigbus_mounts().empty());
    CHECK(std::filesystem::is_empty(runtime()));
}

Gate::Gate(std::string path) : path_(std::move(path)) {
    must(::mkfifo(path_.c_str(), 0666), "mkfifo");
    must(::chmod(path_.c_str(), 0666), "chmod");
}

void Gate::open() const {
    UniqueFd end;
    // Without a reader: ENXIO, fifo(7).
    const bool is_awaited = eventually([&] {
        end.reset(::open(path_.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
        return static_cast<bool>(end);
    });
    REQUIRE(is_awaited);
    must(::write(end.get(), "go\n", 3), "write");
}

}  // namespace nosigbus::test
