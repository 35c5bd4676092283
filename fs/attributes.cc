#include "fs/attributes.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "fs/current_request.h"
#include "fs/fd_views.h"
#include "fs/file_system.h"
#include "fs/handlers.h"
#include "fs/names.h"
#include "fs/newer_requests.h"
#include "fs/reply.h"
#include "fs/set_ids.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

timespec to_timespec(const statx_timestamp& time) {
    return sys::to_timespec(time.tv_sec, time.tv_nsec);
}

timespec wanted_time(const timespec& time, int which, int set, int now) {
    if ((which & now) != 0) return {.tv_sec = 0, .tv_nsec = UTIME_NOW};
    if ((which & set) != 0) return time;
    return {.tv_sec = 0, .tv_nsec = UTIME_OMIT};
}

// fchmod(2) does not take an O_PATH descriptor.
void change_mode(const Node& node, mode_t mode) {
    sys::check(::chmod(sys::proc_path(node.descriptor()).c_str(), mode & ~S_IFMT), "chmod");
}

void change_owner(const Node& node, uid_t user, gid_t group) {
    sys::check(::fchownat(node.descriptor(), "", user, group, AT_EMPTY_PATH), "fchownat");
}

// By the handle when the kernel names one: it may still write where a new open could not. 0: none.
void change_size(FileSystem& fs, const Node& node, off_t size, SlotId handle) {
    if (handle != 0) {
        const OpenFilePtr file = fs.open_files().get(handle);
        if (size >= file->node()->view_size() && file->node()->has_failed_past_view()) return;
        if (file->is_writable()) {
            sys::check(::ftruncate(file->descriptor(), size), "ftruncate");
            fs.show_truncation(node);
            return;
        }
    }
    if (node.access().is_fd_view && !node.access().may_write) sys::fail(EACCES, "not open for writing");
    const UniqueFd file = node.open(O_WRONLY);
    sys::check(::ftruncate(file.get(), size), "ftruncate");
    fs.show_truncation(node);
}

void change_times(const Node& node, const timespec& accessed, const timespec& modified, int which) {
    constexpr int times = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW;
    if ((which & times) == 0) return;
    const std::array<timespec, 2> when = {wanted_time(accessed, which, FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW),
                                          wanted_time(modified, which, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW)};
    sys::check(::utimensat(node.descriptor(), "", when.data(), AT_EMPTY_PATH), "utimensat");
}

// chown(2) to the owner and group that a file has. The kernel sends it as a change of nothing, and has not asked
// whether the caller may take the set-group-ID bit away that goes with it. It sends the same where it has taken away
// capabilities only (ATTR_KILL_PRIV), or where it thinks that a bit has to go and then does not take it (fuse_setattr):
// before a change by somebody who need not be the owner, or of a file that keeps its set-id bits. That must not fail,
// nor take more away.
void date_by_chown(const Node& node, fuse_req_t request) {
    constexpr mode_t executable_group = S_ISGID | S_IXGRP;
    const auto attributes = sys::stat_fd(node.descriptor(), STATX_TYPE | STATX_MODE | STATX_UID);
    const mode_t mode = attributes.stx_mode;
    const uid_t user = fuse_req_ctx(request)->uid;
    if (user != 0 && user != attributes.stx_uid) return;
    if (S_ISREG(mode) && ((mode & S_ISUID) != 0 || (mode & executable_group) == executable_group)) return;
    Caller caller = caller_of(request);
    caller.groups = groups_of(request);
    const ActAs as(caller, ActAs::Rights::callers);
    change_owner(node, static_cast<uid_t>(-1), static_cast<gid_t>(-1));
}

constexpr int owners = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;

// What is `wanted`, less what the kernel should have taken away with it, see drop_group_id_of_strangers.
struct stat without_strangers_group_id(const Node& node, fuse_req_t request, struct stat wanted, int which) {
    if ((which & (owners | FUSE_SET_ATTR_SIZE)) == 0) return wanted;
    // A mode comes with an owner or a size only where the kernel takes bits away.
    if (drop_group_id_of_strangers(node, request)) wanted.st_mode &= ~static_cast<mode_t>(S_ISGID);
    return wanted;
}

void change_attributes(FileSystem& fs, const Node& node, const struct stat& wanted, int which,
                       const fuse_file_info* info) {
    if ((which & owners) != 0) {
        change_owner(node, (which & FUSE_SET_ATTR_UID) != 0 ? wanted.st_uid : static_cast<uid_t>(-1),
                     (which & FUSE_SET_ATTR_GID) != 0 ? wanted.st_gid : static_cast<gid_t>(-1));
    }
    // After the owner, which clears the set-user-ID bit that the kernel may want to keep here.
    if ((which & FUSE_SET_ATTR_MODE) != 0) change_mode(node, wanted.st_mode);
    if ((which & FUSE_SET_ATTR_SIZE) != 0) change_size(fs, node, wanted.st_size, info != nullptr ? info->fh : 0);
    change_times(node, wanted.st_atim, wanted.st_mtim, which);
}

// What is still to be done of a change that includes the size when it waits: the size, then the times.
void note_truncation(TruncationSlot& slot, const struct stat& wanted, int which, const fuse_file_info* info) {
    slot.handle = info != nullptr ? info->fh : 0;
    slot.size = wanted.st_size;
    slot.which = which;
    slot.times = {wanted.st_atim.tv_sec, wanted.st_atim.tv_nsec, wanted.st_mtim.tv_sec, wanted.st_mtim.tv_nsec};
}

struct statx shown_attributes_of(const FileSystem& fs, const Node& node) {
    return as_shown(fs, sys::stat_fd(node.descriptor(), attribute_mask), node.access());
}

// What is known of a slow node without asking anybody; not its size.
struct statx attributes_at_hand(const FileSystem& fs, const Node& node) {
    auto attributes = sys::stat_fd(node.descriptor(), attribute_mask, AT_STATX_DONT_SYNC);
    attributes.stx_size = 0;
    return as_shown(fs, attributes, node.access());
}

struct statx with_size(struct statx attributes, off_t size) {
    if (S_ISREG(attributes.stx_mode)) attributes.stx_size = static_cast<std::uint64_t>(size);
    return attributes;
}

void answer_attributes(FileSystem& fs, Reply& reply, const NodePtr& node, const struct statx& attributes,
                       bool is_statx) {
    const auto real_size = static_cast<off_t>(attributes.stx_size);
    const auto answer_with = [&fs, node, attributes, real_size, is_statx](Reply& given) {
        // The kernel keeps no size of a reply whose attributes expired while it was under way (fuse_change_attributes),
        // but hands it to stat(2) all the same (fuse_do_getattr): i_size stays V. Where that cannot be had, nobody may
        // be told less than V.
        const bool tells_real_size = fs.options().stat == Options::Stat::real && node->is_regular() &&
                                     fs.page_cache().expire_attributes(node->id());
        const off_t size = tells_real_size ? real_size : node->view_size();
        if (is_statx) return given.statx(with_size(attributes, size));
        given.attributes(to_stat(attributes, size), 0);
    };
    fs.when_view_holds(node, real_size, [reply = std::move(reply), answer_with]() mutable { answer_with(reply); });
}

}  // namespace

ino_t shown_inode(const FileSystem& fs, dev_t device, ino_t inode) {
    if (device == fs.source_device()) return inode;
    // Far from those of the source itself, which are small or random: what a file system in it has as 1, 2, 3.
    constexpr std::uint64_t golden_ratio = 0x9e37'79b9'7f4a'7c15U;
    return inode ^ (device * golden_ratio | std::uint64_t{1} << 63);
}

struct statx as_shown(const FileSystem& fs, struct statx attributes, NodeAccess access) {
    attributes.stx_ino =
        shown_inode(fs, makedev(attributes.stx_dev_major, attributes.stx_dev_minor), attributes.stx_ino);
    if (!access.is_fd_view) return attributes;
    const unsigned rights = (access.may_read ? 4U : 0U) | (access.may_write ? 2U : 0U);
    attributes.stx_ino ^= std::uint64_t{8 | rights} << 57;  // apart from that of the name, and of other rights
    attributes.stx_mode = static_cast<std::uint16_t>(S_IFREG | rights << 6 | rights << 3 | rights);
    return attributes;
}

struct stat to_stat(const struct statx& attributes, off_t size) {
    struct stat result {};
    result.st_ino = attributes.stx_ino;
    result.st_mode = attributes.stx_mode;
    result.st_nlink = attributes.stx_nlink;
    result.st_uid = attributes.stx_uid;
    result.st_gid = attributes.stx_gid;
    result.st_rdev = makedev(attributes.stx_rdev_major, attributes.stx_rdev_minor);
    result.st_size = S_ISREG(attributes.stx_mode) ? size : static_cast<off_t>(attributes.stx_size);
    result.st_blksize = attributes.stx_blksize;
    result.st_blocks = static_cast<blkcnt_t>(attributes.stx_blocks);
    result.st_atim = to_timespec(attributes.stx_atime);
    result.st_mtim = to_timespec(attributes.stx_mtime);
    result.st_ctim = to_timespec(attributes.stx_ctime);
    return result;
}

void truncate_late(FileSystem& fs, const Node& node, const TruncationSlot& slot) {
    try {
        change_size(fs, node, slot.size, slot.handle);
    } catch (const std::system_error& failure) {
        if (failure.code().value() != EBADF) throw;
        change_size(fs, node, slot.size, 0);  // closed meanwhile
    }
    const auto& [accessed, accessed_ns, modified, modified_ns] = slot.times;
    change_times(node, sys::to_timespec(accessed, accessed_ns), sys::to_timespec(modified, modified_ns), slot.which);
}

namespace handlers {

void getattr(fuse_req_t request, fuse_ino_t id, fuse_file_info* /*info*/) {
    answer(request, [&](Reply& reply) {
        if (fd_views::is_directory(id)) return fd_views::answer_attributes(reply, id);
        FileSystem& fs = FileSystem::of(request);
        const NodePtr node = fs.nodes().get(id);
        const bool is_statx = current_request().opcode == statx_opcode;
        if (!node->access().is_slow)
            return answer_attributes(fs, reply, node, shown_attributes_of(fs, *node), is_statx);
        // The kernel asks before each open, see fuse_permission.
        const auto work = [&fs, node, is_statx]() -> SlowWork::Give {
            return [&fs, node, is_statx, attributes = shown_attributes_of(fs, *node)](Reply& given) {
                answer_attributes(fs, given, node, attributes, is_statx);
            };
        };
        fs.slow_work().run(node, reply, SlowWork::telling_errors(work), [&fs, node, is_statx](Reply& late) {
            answer_attributes(fs, late, node, attributes_at_hand(fs, *node), is_statx);
        });
    });
}

void setattr(fuse_req_t request, fuse_ino_t id, struct stat* wanted, int which, fuse_file_info* info) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        const NodePtr node = fs.nodes().get(id);
        if (node->access().is_fd_view) fd_views::check_file_system(*node);
        if (which == 0) date_by_chown(*node, request);
        const struct stat changed = without_strangers_group_id(*node, request, *wanted, which);
        const auto change = [&] { change_attributes(fs, *node, changed, which, info); };
        const auto give = [&](Reply& given) {
            const auto attributes = shown_attributes_of(fs, *node);
            const struct stat result = to_stat(attributes, fs.size_for_unversioned_reply(node, attributes));
            const bool is_truncation = (which & FUSE_SET_ATTR_SIZE) != 0;
            FileSystem::after_push(*node, [node, given = std::move(given), result, is_truncation]() mutable {
                given.attributes(result, 0);
                if (is_truncation) node->forget_failed_past_view();
            });
        };
        const auto note = [&](TruncationSlot& slot) { note_truncation(slot, *wanted, which, info); };
        if ((which & FUSE_SET_ATTR_SIZE) != 0) return fs.truncations().run(node, reply, note, change, give);
        change();
        give(reply);
    });
}

void statfs(fuse_req_t request, fuse_ino_t id) {
    answer(request, [&](Reply& reply) {
        const NodePtr node = FileSystem::of(request).nodes().get(fd_views::is_directory(id) ? FUSE_ROOT_ID : id);
        struct statvfs statistics {};
        sys::check(::fstatvfs(node->descriptor(), &statistics), "fstatvfs");
        reply.statistics(statistics);
    });
}

}  // namespace handlers
}  // namespace nosigbus
