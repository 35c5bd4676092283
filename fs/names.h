// From names to nodes.
#pragma once

#include <fuse_lowlevel.h>

#include <string_view>

#include "fs/file_system.h"
#include "fs/reply.h"
#include "lib/credentials.h"
#include "lib/deeds.h"
#include "lib/node_table.h"

namespace nosigbus {

// Throws std::system_error EINVAL for what is not a name in a directory: empty, "." or "..", or with a slash.
void check_name(std::string_view name);

// The same for a name in the directory `parent` that is to be made or removed; EPERM for the one that is ours.
void check_name_to_change(const FileSystem& fs, fuse_ino_t parent, std::string_view name);

// Who asks.
Caller caller_of(fuse_req_t request);

// A node found, the kernel's lookup of it counted, and what stat said of it then, see as_shown.
struct Found {
    Lookup lookup;
    struct statx attributes;
};

// The node behind `path`, an O_PATH descriptor. Throws std::system_error; ELOOP where it is our own mount.
Found find(FileSystem& fs, UniqueFd path);

// Before something is made in `parent`: throws std::system_error ENFILE where there are no descriptors for its node and
// an open file, and nothing is made in vain.
void check_room_to_make(FileSystem& fs, const Node& parent);

// Whether something of that type (S_IFMT bits) has been made at `name`, where nothing was before.
bool was_made(const Node& parent, const char* name, mode_t type, const Before& before);

// The node called `name` in the directory `parent`. A symbolic link is itself: whoever asked resolves it.
Found find(FileSystem& fs, const Node& parent, const char* name);

// The entry for a reply. Its attributes and its name expire at once, so that a change in the source shows at once.
fuse_entry_param to_entry(const Node& node, const struct statx& attributes, off_t size);

}  // namespace nosigbus
