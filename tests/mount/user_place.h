// A mount of an ordinary user's, through fusermount3, and what such a user says of it.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <string>
#include <vector>

#include "tests/mount/daemon_usage.h"
#include "tests/mount/files.h"
#include "tests/mount/installed.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"

namespace nosigbus::test {

// What does not hold, in words; empty where all does. For a child process, which cannot CHECK.
class Wrong {
  public:
    void unless(bool holds, const std::string& what) {
        if (!holds) text_ += what + "; ";
    }
    void unless_same(const std::string& got, const std::string& wanted, const std::string& what) {
        unless(got == wanted, fmt::format("{}: {} instead of {}", what, got, wanted));
    }
    [[nodiscard]] const std::string& text() const { return text_; }

  private:
    std::string text_;
};

// A source and a mount point of an ordinary user, and a /dev/fuse that all may open, as udev makes it.
class UserPlace : public Installed {
  public:
    UserPlace() {
        for (const std::string& directory : {source(), mountpoint()})
            must(::chown(directory.c_str(), nobody, nobody), "chown");
        const std::string device = root() + "/fuse";
        must(::mknod(device.c_str(), S_IFCHR | 0600, makedev(10, 229)), "mknod");
        must(::chmod(device.c_str(), 0666), "chmod");
        must(::mount(device.c_str(), "/dev/fuse", nullptr, MS_BIND, nullptr), "mount --bind");
    }
    UserPlace(const UserPlace&) = delete;
    UserPlace& operator=(const UserPlace&) = delete;
    ~UserPlace() { ::umount2("/dev/fuse", MNT_DETACH); }

    // As this user, with the output.
    [[nodiscard]] static Run run(const std::vector<std::string>& command, uid_t user = nobody) {
        return test::run(command, {.before_exec = [user] { become(user); }});
    }

    // Mounts, and checks that it is there.
    void mount(const std::string& options = "max_size=1M") const {
        const Run mounted = run({program(), source(), mountpoint(), "-o", options});
        CHECK_MESSAGE(mounted.ending == "exit 0", mounted.ending, ": ", mounted.errors);
        REQUIRE(mounts_at(mountpoint()) == 1);
    }

    // Unmounts by what `end` does, and waits until all is gone.
    template <typename End>
    void unmount(End end) const {
        end();
        CHECK(eventually([&] { return mounts_at(mountpoint()) == 0; }));
        CHECK(wait_for_adopted() == "exit 0");
    }
    void unmount() const {
        unmount([&] { CHECK(run({"fusermount3", "-u", mountpoint()}).ending == "exit 0"); });
    }

    [[nodiscard]] pid_t supervisor() const {
        return std::stoi(as_user(nobody, [&] { return std::to_string(supervisor_of(mountpoint())); }));
    }

    // A file of the user's in the source.
    void make(const std::string& name, const std::string& content) const {
        make_file(raw(name), content);
        must(::chown(raw(name).c_str(), nobody, nobody), "chown");
    }
};

// The line that begins with this name in /proc/PID/status, without it.
std::string status_line(pid_t pid, const std::string& name);

// The one line of sh in README.md that is marked with this name, see tests/readme-command.
std::string readme_command(const std::string& name);

}  // namespace nosigbus::test
