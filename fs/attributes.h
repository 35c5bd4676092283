// What stat shows of a view.
#pragma once

#include <linux/stat.h>
#include <sys/stat.h>

#include "lib/node_table.h"

namespace nosigbus {

// What attributes, and with them a node, are made of.
inline constexpr unsigned attribute_mask = STATX_BASIC_STATS | STATX_MNT_ID;

// The backing file's attributes, with `size` in place of a regular file's own.
struct stat to_stat(const struct statx& attributes, off_t size);

}  // namespace nosigbus
