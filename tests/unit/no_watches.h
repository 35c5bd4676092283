// A shortage of inotify(7) watches, for this process alone.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "lib/syscalls.h"
#include "lib/unique_fd.h"

namespace nosigbus::test {

// While it lives every descriptor of inotify that there was is something else, which takes no watch.
class NoWatches {
  public:
    NoWatches() {
        std::vector<int> found;
        for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
            std::error_code gone;
            if (std::filesystem::read_symlink(entry.path(), gone) == "anon_inode:inotify")
                found.push_back(std::stoi(entry.path().filename()));
        }
        const UniqueFd other = sys::open_at(AT_FDCWD, "/dev/null", O_RDONLY);
        for (const int fd : found) {
            replaced_.emplace_back(fd, UniqueFd(sys::check(::fcntl(fd, F_DUPFD_CLOEXEC, 0), "fcntl")));
            sys::check(::dup3(other.get(), fd, O_CLOEXEC), "dup3");
        }
    }
    NoWatches(const NoWatches&) = delete;
    NoWatches& operator=(const NoWatches&) = delete;
    ~NoWatches() {
        for (const auto& [fd, inotify] : replaced_) ::dup3(inotify.get(), fd, O_CLOEXEC);
    }

  private:
    std::vector<std::pair<int, UniqueFd>> replaced_;
};

}  // namespace nosigbus::test
