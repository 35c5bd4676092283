#include "tests/mount/mount_table.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "lib/unique_fd.h"

namespace nosigbus::test {

namespace {

// Blanks, tabs, newlines and backslashes stand there as three octal digits.
std::string unescaped(const std::string& field) {
    std::string text;
    for (std::size_t i = 0; i < field.size(); ++i) {
        if (field[i] == '\\' && i + 3 < field.size()) {
            text += static_cast<char>(std::stoi(field.substr(i + 1, 3), nullptr, 8));
            i += 3;
        } else {
            text += field[i];
        }
    }
    return text;
}

Mount parsed(const std::string& line) {
    Mount mount;
    std::istringstream fields(line);
    std::string id;
    std::string parent;
    std::string device;
    std::string root;
    std::string field;
    fields >> id >> parent >> device >> root >> mount.mountpoint >> mount.options;
    while (fields >> field && field != "-") {
    }
    fields >> mount.type >> mount.source >> mount.super_options;
    const auto colon = device.find(':');
    mount.major = static_cast<unsigned>(std::stoul(device.substr(0, colon)));
    mount.minor = static_cast<unsigned>(std::stoul(device.substr(colon + 1)));
    mount.mountpoint = unescaped(mount.mountpoint);
    mount.source = unescaped(mount.source);
    return mount;
}

}  // namespace

std::vector<Mount> mount_table(const std::string& mountinfo) {
    std::ifstream file(mountinfo);
    std::vector<Mount> mounts;
    for (std::string line; std::getline(file, line);) mounts.push_back(parsed(line));
    return mounts;
}

std::optional<Mount> mounted_at(const std::string& mountpoint) {
    std::optional<Mount> top;
    for (const Mount& mount : mount_table()) {
        if (mount.mountpoint == mountpoint) top = mount;
    }
    return top;
}

std::vector<Mount> nosigbus_mounts() {
    std::vector<Mount> mounts = mount_table();
    std::erase_if(mounts, [](const Mount& mount) { return mount.type != "fuse.nosigbus"; });
    return mounts;
}

bool abort_connection(unsigned number) {
    const std::string control = fmt::format("/sys/fs/fuse/connections/{}/abort", number);
    UniqueFd file(::open(control.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file) {
        ::mount("fusectl", "/sys/fs/fuse/connections", "fusectl", 0, nullptr);
        file.reset(::open(control.c_str(), O_WRONLY | O_CLOEXEC));
    }
    return file && ::write(file.get(), "1", 1) == 1;
}

}  // namespace nosigbus::test
