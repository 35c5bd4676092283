// What the daemon has counted since it mounted: the extended attribute user.nosigbus.counters.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "tests/mount/view_mount.h"

namespace nosigbus::test {

// Of the mount that `path` is in, or of `mount`.
std::map<std::string, std::uint64_t> counters(const std::string& path);
inline auto counters(const ViewMount& mount) {
    return counters(mount.mountpoint());
}

// The numbers of the extended attribute user.nosigbus.stats, of a view or, where `path` is a directory, of its mount.
std::map<std::string, std::uint64_t> stats(const std::string& path);

// Which engine the view has, and why: "shadow: opened_for_reading".
std::string engine_of(const std::string& path);

}  // namespace nosigbus::test
