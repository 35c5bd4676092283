#include "fs/set_ids.h"

#include <linux/stat.h>
#include <sys/stat.h>

#include <algorithm>

#include "fs/current_request.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

bool is_in_group(fuse_req_t request, gid_t group) {
    if (fuse_req_ctx(request)->gid == group) return true;
    const std::vector<gid_t> groups = groups_of(request);
    return std::ranges::find(groups, group) != groups.end();
}

bool has_bare_group_id(mode_t mode) {
    return (mode & (S_ISGID | S_IXGRP)) == S_ISGID;
}

// fchmod(2) does not take an O_PATH descriptor.
void drop(const Node& node, mode_t mode, mode_t bits) {
    sys::check(::chmod(sys::proc_path(node.descriptor()).c_str(), mode & 07777 & ~bits), "chmod");
}

}  // namespace

std::vector<gid_t> groups_of(fuse_req_t request) {
    std::vector<gid_t> groups(64);
    int count = fuse_req_getgroups(request, static_cast<int>(groups.size()), groups.data());
    if (count > static_cast<int>(groups.size())) {
        groups.resize(static_cast<std::size_t>(count));
        count = fuse_req_getgroups(request, count, groups.data());
    }
    groups.resize(std::min(groups.size(), static_cast<std::size_t>(std::max(count, 0))));
    return groups;
}

bool is_stranger(const Node& node, fuse_req_t request) {
    return fuse_req_ctx(request)->uid != 0 && !is_in_group(request, sys::stat_fd(node.descriptor(), STATX_GID).stx_gid);
}

void drop_set_ids(const Node& node, fuse_req_t request) {
    // The kernel does not know the bits behind a view of a descriptor, which shows a mode of its own.
    const bool kills = node.access().is_fd_view ? fuse_req_ctx(request)->uid != 0 : current_request().kills_set_ids;
    if (!kills) return;
    const auto attributes = sys::stat_fd(node.descriptor(), STATX_MODE | STATX_GID);
    mode_t bits = attributes.stx_mode & S_ISUID;
    if ((attributes.stx_mode & S_ISGID) != 0 &&
        (!has_bare_group_id(attributes.stx_mode) || !is_in_group(request, attributes.stx_gid)))
        bits |= S_ISGID;
    if (bits != 0) drop(node, attributes.stx_mode, bits);
}

bool drop_group_id_of_strangers(const Node& node, fuse_req_t request) {
    if (!node.is_regular() || fuse_req_ctx(request)->uid == 0) return false;
    if (node.access().is_fd_view) {
        drop_set_ids(node, request);
        return false;
    }
    const auto attributes = sys::stat_fd(node.descriptor(), STATX_MODE | STATX_GID);
    if (!has_bare_group_id(attributes.stx_mode) || is_in_group(request, attributes.stx_gid)) return false;
    drop(node, attributes.stx_mode, S_ISGID);
    return true;
}

}  // namespace nosigbus
