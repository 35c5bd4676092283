// `.nosigbus/fd` below the mount point: open(2) of the name 7 there gives the caller a view of its own descriptor 7.
//
// What it opens is a node of its own, apart from that of a name in the source or of a descriptor with other rights: its
// mode says what the caller's descriptor allows, so that the kernel checks the right thing; what is the
// inode's alone (attributes, names) is not to be had by it. The two directories are not in the table of nodes: nothing
// is behind them.
#pragma once

#include <fuse_lowlevel.h>

#include <cstddef>
#include <string_view>

#include "fs/names.h"
#include "fs/reply.h"
#include "lib/node_table.h"

namespace nosigbus::fd_views {

inline constexpr std::string_view name = ".nosigbus";

inline constexpr NodeId top = id_outside_table(0);
inline constexpr NodeId descriptors = id_outside_table(1);

constexpr bool is_directory(NodeId id) {
    return id == top || id == descriptors;
}

// Answers a lookup that leads to one of the two directories, or in `top` to nothing. Returns whether it did.
bool look_up_directory(const FileSystem& fs, Reply& reply, fuse_ino_t parent, std::string_view entry);

// The view of the descriptor called `entry` of whoever asks. Throws std::system_error: see descriptor_of; ENOENT where
// `entry` is no number as the kernel writes it; ELOOP where it is a view of ours already. Asks nobody who may not
// answer: the kernel holds the directory meanwhile.
Found find(FileSystem& fs, fuse_req_t request, std::string_view entry);

// Whether what is open as `descriptor` is a file whose file system may never answer: one that stands neither on a block
// device nor is memory. Asks nobody. False where that cannot be told.
bool may_be_slow(int descriptor);

// To be called before a view of a descriptor is opened or changed. Throws std::system_error EOPNOTSUPP where there can
// be none: in hugetlbfs a page is not what it is elsewhere; memory of memfd_secret(2) cannot be read; what a write to a
// file in /proc or /sys does depends on who writes, and that would be us. May wait for the file's server.
void check_file_system(const Node& node);

// The rest of what the two directories are asked for.
void answer_attributes(Reply& reply, NodeId directory);
void answer_opening(Reply& reply, const fuse_file_info& info);
void answer_entries(Reply& reply, NodeId directory, std::size_t size, off_t offset, bool plus);

}  // namespace nosigbus::fd_views
