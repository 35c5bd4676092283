// How a node was come by, and what that allows.
#pragma once

namespace nosigbus {

// All false: by a name in the source directory. Nothing but this is in shared memory, so it has no pointers.
struct NodeAccess {
    bool is_fd_view : 1;  // by a descriptor of somebody's
    bool may_read : 1;    // of such a one: what that descriptor allows
    bool may_write : 1;
    bool is_slow : 1;    // its file system may make us wait, for ever even
    bool is_shared : 1;  // our descriptor is of the very open file that somebody else has, and not O_PATH
    bool is_twin : 1;    // another node of the same file, for who cannot have the first one, see NodeTable::look_up

    bool operator==(const NodeAccess&) const = default;
};
static_assert(sizeof(NodeAccess) == 1);

}  // namespace nosigbus
