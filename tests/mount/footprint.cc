#include "tests/mount/footprint.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/mount/files.h"
#include "tests/mount/process.h"

namespace nosigbus::test {
namespace {

std::vector<pid_t> process_tree(pid_t pid) {
    std::vector<pid_t> tree = {pid};
    for (std::size_t i = 0; i < tree.size(); ++i) {
        for (const pid_t child : children(tree[i])) tree.push_back(child);
    }
    return tree;
}

// The sum of these numbers of `field` of /proc/PID/status, which are kB.
std::size_t in_status(pid_t pid, const std::string& field) {
    std::size_t kilobytes = 0;
    for (const pid_t process : process_tree(pid)) {
        std::ifstream file(fmt::format("/proc/{}/status", process));
        for (std::string line; std::getline(file, line);) {
            if (line.starts_with(field)) kilobytes += std::stoul(line.substr(field.size()));
        }
    }
    return kilobytes * KiB;
}

}  // namespace

std::size_t resident_memory(pid_t pid) {
    return in_status(pid, "VmRSS:");
}

std::size_t anonymous_memory(pid_t pid) {
    return in_status(pid, "RssAnon:");
}

std::size_t open_descriptors(pid_t pid) {
    const std::filesystem::directory_iterator descriptors(fmt::format("/proc/{}/fd", pid));
    return static_cast<std::size_t>(std::distance(begin(descriptors), end(descriptors)));
}

}  // namespace nosigbus::test
