// What a client can do, and the places where its server can die meanwhile.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lib/unique_fd.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

namespace nosigbus::test {

// A directory for one time that something is done.
struct Place {
    Place(const ViewMount& mount, const std::string& name);

    const ViewMount& mount;
    std::string raw;     // in the source
    std::string view;    // the same in the mount
    UniqueFd directory;  // of `view`, O_PATH: so no lookup comes before that of a name in it
    // What was prepared, through the mount.
    UniqueFd file;
    UniqueFd other;
    std::optional<Mapping> mapping;
};

// ioctl_iflags(2): whether the source refuses to change what is in `directory`. The mount's kernel does not know of it.
void set_immutable(const std::string& directory, bool is_immutable);

struct Operation {
    std::string name;
    void (*prepare)(Place& place);
    // Says what the client sees of it.
    std::string (*act)(Place& place);
    // The points that it passes, "NAME [PASSES]".
    std::vector<std::string> points;
};

// What takes names, and what takes open files.
std::vector<Operation> operations_on_names();
std::vector<Operation> operations_on_files();

}  // namespace nosigbus::test
