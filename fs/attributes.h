// What stat shows of a view.
#pragma once

#include <linux/stat.h>
#include <sys/stat.h>

#include "lib/node_table.h"
#include "lib/shared_state.h"

namespace nosigbus {

class FileSystem;

// What attributes, and with them a node, are made of.
inline constexpr unsigned attribute_mask = STATX_BASIC_STATS | STATX_MNT_ID;

// The backing file's attributes, with `size` in place of a regular file's own.
struct stat to_stat(const struct statx& attributes, off_t size);

// What a worker has answered and had no time to do, see Truncations. Throws std::system_error.
void truncate_late(FileSystem& fs, const Node& node, const TruncationSlot& slot);

}  // namespace nosigbus
