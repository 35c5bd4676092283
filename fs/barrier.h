// The barrier: fsync(2), fdatasync(2), and our own ioctl(2) for a part of a view.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>

#include "fs/file_system.h"
#include "lib/node_table.h"

namespace nosigbus {

struct ByteRange {
    off_t offset;
    off_t length;
};

// Whether the kernel has just written back what was stored in that view's own pages.
enum class Stores { written_back, perhaps_not };

// Calls `done` when the view, and every other one of its file, shows what happened to the file before: all of it, or in
// that range. That includes what clients have stored in the pages of another view of the file. `done` is told whether
// they do, and does not throw. Throws std::bad_alloc, and has not called it then.
void wait_for_views(FileSystem& fs, const NodePtr& node, std::optional<ByteRange> range, Stores stores,
                    std::function<void(bool shows)> done);

}  // namespace nosigbus
