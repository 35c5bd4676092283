#include "fs/names.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <memory>
#include <optional>

#include "fs/attributes.h"
#include "fs/current_request.h"
#include "fs/fd_views.h"
#include "fs/handlers.h"
#include "fs/inbox.h"
#include "fs/once.h"
#include "lib/descriptor_table.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// Replies with what has just been made.
void answer_made(FileSystem& fs, Reply& reply, Found found) {
    const NodePtr node = found.lookup.node();
    reply.entry(found.lookup, to_entry(*node, found.attributes, fs.size_for_unversioned_reply(node, found.attributes)));
}

std::optional<std::int64_t> if_so(bool happened) {
    return happened ? std::optional<std::int64_t>(0) : std::nullopt;
}

// Makes something called `name` in the directory `parent`, as the caller: make(directory) is the system call.
template <typename Make>
void answer_making(fuse_req_t request, fuse_ino_t parent_id, const char* name, mode_t type, Make make) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        check_name_to_change(fs, parent_id, name);
        const NodePtr parent = fs.nodes().get(parent_id);
        check_room_to_make(fs, *parent);
        once(
            fs, reply, [&](Before& before) { before.names[0] = identity_at(parent->descriptor(), name); },
            [&](const Before& before) { return if_so(was_made(*parent, name, type, before)); },
            [&] {
                const ActAs as(caller_of(request));
                return sys::check(make(parent->descriptor()), name);
            });
        answer_made(fs, reply, find(fs, *parent, name));
    });
}

int link_to(const Node& node, const Node& new_parent, const char* new_name) {
    int result = ::linkat(node.descriptor(), "", new_parent.descriptor(), new_name, AT_EMPTY_PATH);
    if (result < 0 && errno == ENOENT) {
        // Without CAP_DAC_READ_SEARCH the kernel wants it by way of /proc: linkat(2).
        result = ::linkat(AT_FDCWD, sys::proc_path(node.descriptor()).c_str(), new_parent.descriptor(), new_name,
                          AT_SYMLINK_FOLLOW);
    }
    return sys::check(result, "linkat");
}

// Whether a rename that found `before` has been done since.
bool was_renamed(const Before& before, const Identity& old_now, const Identity& new_now, unsigned flags) {
    const auto& [old_then, new_then] = before.names;
    // Two names of one inode stay as they are: rename(2). To do that again does no harm.
    if (!old_then.is_there() || old_then == new_then || new_now != old_then) return false;
    return (flags & RENAME_EXCHANGE) != 0 ? old_now == new_then : old_now != old_then;
}

// The kernel looks for mounts on a name in the namespace of who asks only (is_local_mountpoint), in which we see none,
// and a name that goes takes them with it in all others (detach_mounts).
void refuse_mount_point(const Node& parent, const char* name) {
    struct statx found {};
    // Without asking it: it may be our own mount.
    constexpr int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
    if (::statx(parent.descriptor(), name, flags, STATX_TYPE, &found) != 0) return;
    if ((found.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0) sys::fail(EBUSY, name);
}

void remove(fuse_req_t request, fuse_ino_t parent_id, const char* name, int flags) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        check_name_to_change(fs, parent_id, name);
        const NodePtr parent = fs.nodes().get(parent_id);
        once(
            fs, reply, [&](Before& before) { before.names[0] = identity_at(parent->descriptor(), name); },
            [&](const Before& before) {
                const Identity& was = before.names[0];
                return if_so(was.is_there() && identity_at(parent->descriptor(), name) != was);
            },
            [&] {
                refuse_mount_point(*parent, name);
                const ActAs as(caller_of(request));
                return sys::check(::unlinkat(parent->descriptor(), name, flags), "unlinkat");
            });
        reply.ok();
    });
}

void begin_forget(std::size_t count) {
    if (Inbox* const inbox = Inbox::of_this_thread()) inbox->begin_forget(count);
}

}  // namespace

bool was_made(const Node& parent, const char* name, mode_t type, const Before& before) {
    struct stat now {};
    return !before.names[0].is_there() && ::fstatat(parent.descriptor(), name, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
           (now.st_mode & S_IFMT) == type && is_new_since(before, identity_at(parent.descriptor(), name));
}

void check_name(std::string_view name) {
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string_view::npos)
        sys::fail(EINVAL, "name");
}

void check_name_to_change(const FileSystem& fs, fuse_ino_t parent, std::string_view name) {
    check_name(name);
    if (parent == FUSE_ROOT_ID && fs.options().fd_views && name == fd_views::name) sys::fail(EPERM, "our own name");
}

Caller caller_of(fuse_req_t request) {
    const fuse_ctx* const caller = fuse_req_ctx(request);
    return {.user = caller->uid, .group = caller->gid, .umask = caller->umask};
}

Found find(FileSystem& fs, UniqueFd path) {
    // What the kernel has at hand (AT_STATX_DONT_SYNC) tells our own mount, met inside the source through a bind mount,
    // without asking ourselves and waiting for it.
    const auto known = sys::stat_fd(path.get(), STATX_TYPE, AT_STATX_DONT_SYNC);
    if (makedev(known.stx_dev_major, known.stx_dev_minor) == fs.own_device()) sys::fail(ELOOP, "our own mount");
    const auto attributes = sys::stat_fd(path.get(), attribute_mask);
    return {fs.nodes().look_up(path, attributes, current_request().number), as_shown(fs, attributes, {})};
}

Found find(FileSystem& fs, const Node& parent, const char* name) {
    return find(fs, sys::open_at(parent.descriptor(), name, O_PATH | O_NOFOLLOW));
}

fuse_entry_param to_entry(const Node& node, const struct statx& attributes, off_t size) {
    fuse_entry_param entry{};
    entry.ino = node.id();
    entry.attr = to_stat(attributes, size);
    return entry;
}

// What a worker that died has made already is answered as well as can be.
void check_room_to_make(FileSystem& fs, const Node& parent) {
    if (current_request().asked_again) return;
    fs.pruner().with_room([&] { check_room_for_more(parent.descriptor()); });
}

namespace {

// For a thread that was turned away: look() again, until there is a node that has no shadow and will not get one before
// that thread comes to open it. The name may lead to another file each time.
template <typename Look>
Found find_to_write(Look look) {
    constexpr int tries = 8;
    for (int i = 0;; ++i) {
        Found found = look();
        const NodePtr node = found.lookup.node();
        if (!node->is_regular()) return found;
        node->view().expect_writer();
        if (!node->has_shadow() || i == tries) return found;
        node->view().expect_writer(false);
        node->turn_away();
    }
}

}  // namespace

namespace handlers {

void lookup(fuse_req_t request, fuse_ino_t parent_id, const char* name) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        check_name(name);
        if (fd_views::look_up_directory(fs, reply, parent_id, name)) return;
        const auto look = [&] {
            return fs.pruner().with_room([&] {
                if (parent_id == fd_views::descriptors) return fd_views::find(fs, request, name);
                return find(fs, *fs.nodes().get(parent_id), name);
            });
        };
        Found found = fs.turned_away().has(fuse_req_ctx(request)->pid) ? find_to_write(look) : look();
        const NodePtr node = found.lookup.node();
        const auto real_size = static_cast<off_t>(found.attributes.stx_size);
        fs.when_view_holds(node, real_size, [reply = std::move(reply), node, found = std::move(found)]() mutable {
            reply.entry(found.lookup, to_entry(*node, found.attributes, node->view_size()));
        });
    });
}

void forget(fuse_req_t request, fuse_ino_t id, std::uint64_t lookups) {
    FileSystem::of(request).nodes().forget(id, lookups, [] { begin_forget(1); });
    fuse_reply_none(request);
}

void forget_multi(fuse_req_t request, std::size_t count, fuse_forget_data* forgets) {
    for (std::size_t i = 0; i < count; ++i) {
        FileSystem::of(request).nodes().forget(forgets[i].ino, forgets[i].nlookup, [i] { begin_forget(i + 1); });
    }
    fuse_reply_none(request);
}

void mknod(fuse_req_t request, fuse_ino_t parent_id, const char* name, mode_t mode, dev_t device) {
    // Without a type it is a regular file: mknod(2).
    const mode_t type = (mode & S_IFMT) != 0 ? mode & S_IFMT : S_IFREG;
    answer_making(request, parent_id, name, type,
                  [&](int directory) { return ::mknodat(directory, name, mode, device); });
}

void mkdir(fuse_req_t request, fuse_ino_t parent_id, const char* name, mode_t mode) {
    answer_making(request, parent_id, name, S_IFDIR, [&](int directory) { return ::mkdirat(directory, name, mode); });
}

void symlink(fuse_req_t request, const char* target, fuse_ino_t parent_id, const char* name) {
    answer_making(request, parent_id, name, S_IFLNK,
                  [&](int directory) { return ::symlinkat(target, directory, name); });
}

void link(fuse_req_t request, fuse_ino_t id, fuse_ino_t new_parent_id, const char* new_name) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        check_name_to_change(fs, new_parent_id, new_name);
        const NodePtr node = fs.nodes().get(id);
        // Who has a descriptor of a file may not be one who may give it a name.
        if (node->access().is_fd_view) sys::fail(EXDEV, "a view of a descriptor");
        const NodePtr new_parent = fs.nodes().get(new_parent_id);
        once(
            fs, reply, [&](Before& before) { before.names[0] = identity_at(new_parent->descriptor(), new_name); },
            [&](const Before& before) {
                const Identity now = identity_at(new_parent->descriptor(), new_name);
                return if_so(!before.names[0].is_there() && now.is_there() &&
                             now == identity_at(node->descriptor(), ""));
            },
            [&] { return link_to(*node, *new_parent, new_name); });
        answer_made(fs, reply, find(fs, *new_parent, new_name));
    });
}

void readlink(fuse_req_t request, fuse_ino_t id) {
    answer(request, [&](Reply& reply) {
        const NodePtr node = FileSystem::of(request).nodes().get(id);
        std::string target(PATH_MAX, '\0');
        const ssize_t length =
            sys::check(::readlinkat(node->descriptor(), "", target.data(), target.size()), "readlinkat");
        target.resize(static_cast<std::size_t>(length));
        reply.link_target(target);
    });
}

void unlink(fuse_req_t request, fuse_ino_t parent_id, const char* name) {
    remove(request, parent_id, name, 0);
}

void rmdir(fuse_req_t request, fuse_ino_t parent_id, const char* name) {
    remove(request, parent_id, name, AT_REMOVEDIR);
}

void rename(fuse_req_t request, fuse_ino_t parent_id, const char* name, fuse_ino_t new_parent_id, const char* new_name,
            unsigned flags) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        check_name_to_change(fs, parent_id, name);
        check_name_to_change(fs, new_parent_id, new_name);
        const NodePtr parent = fs.nodes().get(parent_id);
        const NodePtr new_parent = fs.nodes().get(new_parent_id);
        const auto old_now = [&] { return identity_at(parent->descriptor(), name); };
        const auto new_now = [&] { return identity_at(new_parent->descriptor(), new_name); };
        once(
            fs, reply,
            [&](Before& before) {
                before.names = {old_now(), new_now()};
            },
            [&](const Before& before) { return if_so(was_renamed(before, old_now(), new_now(), flags)); },
            [&] {
                refuse_mount_point(*parent, name);
                refuse_mount_point(*new_parent, new_name);
                const ActAs as(caller_of(request));
                return sys::check(::renameat2(parent->descriptor(), name, new_parent->descriptor(), new_name, flags),
                                  "renameat2");
            });
        reply.ok();
    });
}

}  // namespace handlers
}  // namespace nosigbus
