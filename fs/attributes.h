// What stat shows of a view.
#pragma once

#include <linux/stat.h>
#include <sys/stat.h>

#include "lib/node_table.h"
#include "lib/shared_state.h"

namespace nosigbus {

class FileSystem;

// What attributes, and with them a node, are made of.
inline constexpr unsigned attribute_mask = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID;

// The number by which the mount shows inode `inode` of the file system `device`: inside the source there may be
// several, and in the mount one device number stands for all.
ino_t shown_inode(const FileSystem& fs, dev_t device, ino_t inode);

// `attributes` of a backing file as the mount shows them, but for its size. The mode of a view of a descriptor says
// what that descriptor allows.
struct statx as_shown(const FileSystem& fs, struct statx attributes, NodeAccess access);

// These, with `size` in place of a regular file's own.
struct stat to_stat(const struct statx& attributes, off_t size);

// What a worker has answered and had no time to do, see Truncations. Throws std::system_error.
void truncate_late(FileSystem& fs, const Node& node, const TruncationSlot& slot);

}  // namespace nosigbus
