// The set-user-ID and set-group-ID bits, which go from a file when somebody changes it who may not keep them. Most of
// that the kernel does (fuse_setattr), what it leaves to the server is done here.
#pragma once

#include <fuse_lowlevel.h>
#include <sys/types.h>

#include <vector>

#include "lib/node_table.h"

namespace nosigbus {

// The supplementary groups of whoever asks. None where they cannot be told: proc(5) hides the process, or it has ended.
std::vector<gid_t> groups_of(fuse_req_t request);

// Whether who asks is neither of the file's group nor root.
bool is_stranger(const Node& node, fuse_req_t request);

// Before a write(2): both, where the kernel says so (CurrentRequest::kills_set_ids).
void drop_set_ids(const Node& node, fuse_req_t request);

// Before another change of a regular file: the set-group-ID bit that does not go with a right to execute, when somebody
// asks who is not of that group. The kernel takes that away by itself only where both bits are there (fuse_setattr),
// unlike for other file systems (setattr_should_drop_sgid). Returns whether it went.
bool drop_group_id_of_strangers(const Node& node, fuse_req_t request);

}  // namespace nosigbus
