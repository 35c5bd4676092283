#include "lib/source_dir.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <system_error>

#include "lib/syscalls.h"

namespace nosigbus {
namespace {

UniqueFd open_directory(const std::string& path, const char* role) {
    try {
        return sys::open_at(AT_FDCWD, path.c_str(), O_PATH | O_DIRECTORY);
    } catch (const std::system_error& failure) {
        throw BadDirectory(
            fmt::format("{} {}: {}; a {} is an existing directory", role, path, failure.code().message(), role));
    }
}

std::string resolve(const std::string& path, const char* role) {
    std::array<char, PATH_MAX> resolved{};
    if (::realpath(path.c_str(), resolved.data()) == nullptr)
        throw BadDirectory(fmt::format("{} {}: {}", role, path, std::system_category().message(errno)));
    return resolved.data();
}

struct Place {
    std::uint32_t major, minor;
    std::uint64_t inode;
    std::uint64_t mount;

    // The same directory, by whatever mount it is reached.
    [[nodiscard]] bool is(const Place& other) const {
        return major == other.major && minor == other.minor && inode == other.inode;
    }
};

// Without asking the file system (AT_STATX_DONT_SYNC): it may be one whose server is gone.
Place place_of(int fd) {
    const auto s = sys::stat_fd(fd, STATX_INO | STATX_MNT_ID, AT_STATX_DONT_SYNC);
    return {s.stx_dev_major, s.stx_dev_minor, s.stx_ino, s.stx_mnt_id};
}

// Whether `directory`, given as `name`, lies below `outer`, at any depth; it is not below itself.
bool is_below(int directory, const Place& outer, const char* role, const std::string& name) try {
    Place here = place_of(directory);
    UniqueFd parent = sys::open_at(directory, "..", O_PATH | O_DIRECTORY);
    for (;;) {
        const Place above = place_of(parent.get());
        if (above.is(here) && above.mount == here.mount) return false;  // the root directory is its own parent
        if (above.is(outer)) return true;
        here = above;
        parent = sys::open_at(parent.get(), "..", O_PATH | O_DIRECTORY);
    }
} catch (const std::system_error& failure) {
    throw BadDirectory(fmt::format("{} {}: {} on the way up from it", role, name, failure.code().message()));
}

}  // namespace

UniqueFd open_source(const std::string& path) {
    return open_directory(path, "source");
}

std::string absolute_source(const std::string& path) {
    return path.starts_with('/') ? path : resolve(path, "source");
}

std::string check_mount_point(const std::string& mount_point, const std::string& source_name, const UniqueFd& source) {
    const UniqueFd target = open_directory(mount_point, "mount point");
    const Place from = place_of(source.get());
    const Place to = place_of(target.get());
    if (to.is(from)) return resolve(mount_point, "mount point");
    if (is_below(target.get(), from, "mount point", mount_point)) {
        throw BadDirectory(
            fmt::format("mount point {} is inside the source {}: mount beside it, or on the source itself", mount_point,
                        source_name));
    }
    if (is_below(source.get(), to, "source", source_name)) {
        throw BadDirectory(fmt::format(
            "source {} is inside the mount point {}, which would hide it: mount beside it, or on the source itself",
            source_name, mount_point));
    }
    return resolve(mount_point, "mount point");
}

bool is_within(const std::string& path, const std::string& directory) {
    if (directory == "/") return path.starts_with('/');
    return path.starts_with(directory) && (path.size() == directory.size() || path[directory.size()] == '/');
}

}  // namespace nosigbus
