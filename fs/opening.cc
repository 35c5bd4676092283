#include <fcntl.h>
#include <linux/fuse.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include "fs/attributes.h"
#include "fs/current_request.h"
#include "fs/fd_views.h"
#include "fs/file_system.h"
#include "fs/handlers.h"
#include "fs/names.h"
#include "fs/once.h"
#include "fs/reply.h"
#include "lib/credentials.h"
#include "lib/syscalls.h"

namespace nosigbus::handlers {
namespace {

// How the backing file is opened for a client that opened the view with `flags`. A client that may write gets a
// descriptor that may read as well, because a store in a mapping is written back through a mapping, see store_within.
// What the client asked beyond that is the kernel's business (O_APPEND comes with each write, O_TRUNC as a SETATTR) or
// would bind our own reads (O_DIRECT), save that they shall not date the file.
int backing_flags(int flags) {
    return ((flags & O_ACCMODE) == O_RDONLY ? O_RDONLY : O_RDWR) | (flags & O_NOATIME);
}

// With no more than the descriptor allows that it is a view of: root passes the kernel's check of its mode.
UniqueFd open_behind_fd_view(const Node& node, int client_flags, int& flags) {
    fd_views::check_file_system(node);
    const NodeAccess& access = node.access();
    const int mode = client_flags & O_ACCMODE;
    const bool reads = mode != O_WRONLY;
    const bool writes = mode != O_RDONLY;
    if ((reads && !access.may_read) || (writes && !access.may_write)) sys::fail(EACCES, "not so open");
    if (access.is_shared || mode == O_WRONLY) flags = mode;  // who cannot load cannot map either
    return node.open(flags);
}

// Sets `flags` to those that it was opened with.
UniqueFd open_backing(const Node& node, int client_flags, int& flags) {
    flags = backing_flags(client_flags);
    if (node.access().is_fd_view) return open_behind_fd_view(node, client_flags, flags);
    try {
        return sys::reopen(node.descriptor(), flags);
    } catch (const std::system_error& failure) {
        const int error = failure.code().value();
        if ((flags & O_ACCMODE) == O_RDONLY) throw;
        if (error == EACCES) {
            flags =
                O_WRONLY | (flags & O_NOATIME);  // an ordinary user's daemon may write to a file that it may not read
        } else if (error == EPERM && (client_flags & O_APPEND) != 0) {
            flags |= O_APPEND;  // chattr(1), a
        } else {
            throw;
        }
        return sys::reopen(node.descriptor(), flags);
    }
}

// Direct I/O: read(2) asks us and ends where the file does, while mappings use the page cache and i_size. The kernel is
// told to keep no page of before: stores through somebody's raw mapping leave no event, and an open shows them.
//
// Before Linux 6.6 a direct file cannot be mapped shared (ENODEV). There only who asks for direct I/O has it, and only
// to read: those kernels leave pages as they were when others write past them.
void set_open_mode(FileSystem& fs, fuse_file_info& info) {
    const bool reads_directly = (info.flags & O_DIRECT) != 0 && (info.flags & O_ACCMODE) == O_RDONLY;
    info.direct_io = fs.channel().maps_direct_files() || reads_directly ? 1 : 0;
    info.keep_cache = 0;
}

// A file that has been opened for a client, and is closed again unless the client gets it.
class Opening {
  public:
    Opening(OpenFiles& files, OpenFilePtr file) : files_(&files), file_(std::move(file)) {}
    Opening(Opening&&) = default;
    Opening& operator=(Opening&&) = delete;
    Opening(const Opening&) = delete;
    Opening& operator=(const Opening&) = delete;
    ~Opening() {
        if (!file_) return;
        const SlotId handle = file_->id();
        file_.reset();  // so that it is closed there and not here
        files_->remove(handle);
    }

    [[nodiscard]] const OpenFilePtr& file() const { return file_; }
    void keep() {
        file_->note_taken();
        file_.reset();
    }

  private:
    OpenFiles* files_;
    OpenFilePtr file_;
};

OpenFilePtr add_open_file(FileSystem& fs, const NodePtr& node, UniqueFd descriptor, int flags, EngineChoice wanted) {
    return fs.open_files().add(node, std::move(descriptor), flags, fs.watcher().watch(node), current_request().number,
                               wanted);
}

// What nobody has a shadow of.
OpenFilePtr add_open_file(FileSystem& fs, const NodePtr& node, UniqueFd descriptor, int flags, const char* why) {
    return add_open_file(fs, node, std::move(descriptor), flags, EngineChoice{Engine::cache, why});
}

// A file that has been created, and is removed again unless it can be given to who asked, or another stands at its name
// by then.
class Created {
  public:
    // `descriptor` may be none: then there is nothing to remove.
    Created(const Node& parent, const char* name, Caller caller, const UniqueFd& descriptor)
        : parent_(parent),
          name_(name),
          caller_(std::move(caller)),
          file_(descriptor ? identity_at(descriptor.get(), "") : Identity{}) {}
    Created(const Created&) = delete;
    Created& operator=(const Created&) = delete;
    ~Created() {
        if (!file_.is_there() || identity_at(parent_.descriptor(), name_) != file_) return;
        const ActAs as(caller_);
        ::unlinkat(parent_.descriptor(), name_, 0);
    }

    void keep() { file_ = {}; }

  private:
    const Node& parent_;
    const char* name_;
    Caller caller_;
    Identity file_;
};

// Creates the file, once, as the caller. Empty where a worker that died has: it stands at that name.
UniqueFd create_file(FileSystem& fs, Reply& reply, const Node& parent, const char* name, int flags, mode_t mode,
                     int client_flags) {
    UniqueFd descriptor;
    const auto was_created = [&](const Before& before) {
        return was_made(parent, name, S_IFREG, before) ? std::optional<std::int64_t>(0) : std::nullopt;
    };
    try {
        once(
            fs, reply, [&](Before& before) { before.names[0] = identity_at(parent.descriptor(), name); }, was_created,
            [&] {
                const ActAs as(caller_of(reply.request()));
                // Always exclusive: the kernel has seen no such name. One that has come up since may be a fifo, a link,
                // or a file the caller may not open, and ESTALE makes the kernel look again and check (do_filp_open).
                descriptor = sys::open_at(parent.descriptor(), name, flags | O_CREAT | O_EXCL, mode);
                return 0;
            });
    } catch (const std::system_error& failure) {
        if (failure.code().value() != EEXIST || (client_flags & O_EXCL) != 0) throw;
        sys::fail(ESTALE, "a file has come up meanwhile");
    }
    return descriptor;
}

// A file without a name, as the caller. A worker that died may have made one before, which went with its descriptor.
UniqueFd create_nameless(fuse_req_t request, const Node& parent, int flags, mode_t mode, int client_flags) {
    const ActAs as(caller_of(request));
    // O_EXCL: it can never be given a name.
    return sys::open_at(parent.descriptor(), ".", flags | O_TMPFILE | (client_flags & O_EXCL), mode);
}

// What a worker that died had opened of the file that it had created for this request: with it comes a right to write
// that the file's mode may not give again. Empty where it had not come so far.
UniqueFd take_created(FileSystem& fs) {
    const OpenFilePtr file = fs.open_files().opened_for(current_request().number);
    if (!file) return {};
    UniqueFd descriptor = sys::duplicate(file->descriptor());
    fs.open_files().remove(file->id());
    return descriptor;
}

// The answer to OPEN that has the kernel map a shadow (linux/fuse.h of Linux 6.9); libfuse 3.14 knows none.
bool give_shadow(Reply& reply, const fuse_file_info& opened, const Shadow& shadow) {
    constexpr std::uint32_t passthrough = 1U << 7;  // FOPEN_PASSTHROUGH
    fuse_open_out out{};
    out.fh = opened.fh;
    out.open_flags = FOPEN_DIRECT_IO | passthrough;
    out.padding = static_cast<std::uint32_t>(shadow.backing());  // backing_id
    return reply.bytes(std::as_bytes(std::span(&out, 1)));
}

// The view shows a shadow, which the one that opens it cannot have. With ESTALE the kernel looks up the name once more,
// and is given another node, see TurnedAway. Who comes by no name, through /proc, cannot be given one: `error`.
void turn_away(FileSystem& fs, Reply& reply, const NodePtr& node, int error) {
    const pid_t thread = fuse_req_ctx(reply.request())->pid;
    node->turn_away();
    if (fs.turned_away().remove(thread, *node)) return reply.error(error);
    fs.turned_away().add(thread, *node);
    reply.error(ESTALE);
}

// Answers once the shadow is like the file.
void answer_with_shadow(FileSystem& fs, Reply& reply, const NodePtr& node, Opening opening,
                        const fuse_file_info& opened) {
    struct Waiting {
        Reply reply;
        Opening opening;
    };
    const auto waiting = std::make_shared<Waiting>(Waiting{std::move(reply), std::move(opening)});
    fs.refresher_of(*node).refresh(node, [&fs, node, waiting, opened] {
        const auto shadow = node->view().shadow();
        if (!shadow || !shadow->is_whole()) return turn_away(fs, waiting->reply, node, ENOMEM);
        fs.turned_away().remove(fuse_req_ctx(waiting->reply.request())->pid, *node);
        if (give_shadow(waiting->reply, opened, *shadow)) waiting->opening.keep();
    });
}

// Answers with the backing file that has been opened, of which `real_size` is known.
void answer_opened(FileSystem& fs, Reply& reply, const NodePtr& node, OpenFilePtr file, off_t real_size,
                   fuse_file_info opened) {
    Opening opening(fs.open_files(), std::move(file));
    opened.fh = opening.file()->id();
    set_open_mode(fs, opened);
    fs.shadows().make(node);
    if (node->has_shadow()) return answer_with_shadow(fs, reply, node, std::move(opening), opened);
    fs.turned_away().remove(fuse_req_ctx(reply.request())->pid, *node);
    fs.when_view_is_known(
        node, real_size, [node, reply = std::move(reply), opening = std::move(opening), opened]() mutable {
            // The kernel drops all pages now.
            FileSystem::after_push(*node, [reply = std::move(reply), opening = std::move(opening), opened]() mutable {
                if (reply.opened(opened)) opening.keep();
            });
        });
}

// Opens the view and answers. Returns false where that must wait, and the client wants to: as open(2) does for a lease.
bool open_view(FileSystem& fs, Reply& reply, const NodePtr& node, const fuse_file_info& opened) {
    OpenFilePtr file;
    try {
        // Watched before the kernel can ask for a page.
        file = fs.pruner().with_room([&] {
            int flags = 0;
            UniqueFd descriptor = open_backing(*node, opened.flags, flags);
            if ((flags & O_ACCMODE) != O_RDONLY) fs.shadows().let_go_if_idle(node);
            const off_t real_size = sys::file_size(descriptor.get());
            const EngineChoice wanted = fs.shadows().wanted(*node, flags, descriptor.get(), real_size);
            return add_open_file(fs, node, std::move(descriptor), flags, wanted);
        });
    } catch (const std::system_error& failure) {
        if (failure.code().value() == ESTALE) {
            // Its shadow may be gone by now, and whoever comes next is in time for another.
            turn_away(fs, reply, node, node->has_shadow() ? ETXTBSY : ESTALE);
            return true;
        }
        if (failure.code().value() != EWOULDBLOCK) throw;
        // Somebody who has the file has taken a lease since the lookup, which the next lookup sees: with ESTALE the
        // kernel looks up once more (do_filp_open), and only once.
        if (node->access().is_fd_view) sys::fail(ESTALE, "a lease");
        if ((opened.flags & O_NONBLOCK) != 0) throw;
        return false;
    }
    const off_t real_size = sys::file_size(file->descriptor());
    answer_opened(fs, reply, node, std::move(file), real_size, opened);
    return true;
}

// The same for a file that may never answer, which is asked for its file system and its size.
void open_slow_view(FileSystem& fs, Reply& reply, const NodePtr& node, const fuse_file_info& opened) {
    const auto work = [&fs, node, opened, current = current_request()]() -> SlowWork::Give {
        int flags = 0;
        const auto descriptor = std::make_shared<UniqueFd>(open_backing(*node, opened.flags, flags));
        const off_t real_size = sys::file_size(descriptor->get());
        return [&fs, node, opened, current, descriptor, flags, real_size](Reply& given) {
            current_request() = current;
            OpenFilePtr file = add_open_file(fs, node, std::move(*descriptor), flags, "may_wait_for_its_server");
            answer_opened(fs, given, node, std::move(file), real_size, opened);
        };
    };
    fs.slow_work().run(node, reply, SlowWork::telling_errors(work), [](Reply& late) { late.error(ETIMEDOUT); });
}

}  // namespace

void create(fuse_req_t request, fuse_ino_t parent_id, const char* name, mode_t mode, fuse_file_info* info) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        const NodePtr parent = fs.nodes().get(parent_id);
        int flags = backing_flags(info->flags);
        check_room_to_make(fs, *parent);
        UniqueFd descriptor;
        std::optional<Created> created;
        if ((info->flags & O_TMPFILE) == O_TMPFILE) {
            descriptor = create_nameless(request, *parent, flags, mode, info->flags);
        } else {
            check_name_to_change(fs, parent_id, name);
            descriptor = create_file(fs, reply, *parent, name, flags, mode, info->flags);
            created.emplace(*parent, name, caller_of(request), descriptor);
        }
        if (!descriptor) descriptor = take_created(fs);
        Found found = descriptor ? find(fs, sys::reopen(descriptor.get(), O_PATH)) : find(fs, *parent, name);
        const NodePtr node = found.lookup.node();
        if (!descriptor) descriptor = open_backing(*node, info->flags, flags);
        OpenFilePtr file = add_open_file(fs, node, std::move(descriptor), flags, "just_created");
        Opening opening(fs.open_files(), std::move(file));
        if (created) created->keep();
        fuse_file_info opened = *info;
        opened.fh = opening.file()->id();
        set_open_mode(fs, opened);
        const fuse_entry_param entry =
            to_entry(*node, found.attributes, fs.size_for_unversioned_reply(node, found.attributes));
        FileSystem::after_push(*node, [reply = std::move(reply), opening = std::move(opening), found = std::move(found),
                                       entry, opened]() mutable {
            if (reply.created(found.lookup, entry, opened)) opening.keep();
        });
    });
}

void open(fuse_req_t request, fuse_ino_t id, fuse_file_info* info) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        const NodePtr node = fs.nodes().get(id);
        if (!node->is_regular()) sys::fail(EINVAL, "not a regular file");
        if (node->access().is_slow) return open_slow_view(fs, reply, node, *info);
        if (open_view(fs, reply, node, *info)) return;
        // Somebody holds a lease on the file, and has been told to give it up.
        fs.retries().add([&fs, later = std::make_shared<Reply>(std::move(reply)), node, opened = *info,
                          current = current_request()] {
            current_request() = current;
            if (later->is_unwanted()) later->error(EINTR);
            if (later->is_given()) return true;
            bool is_open = false;
            answer(*later, [&](Reply& given) { is_open = open_view(fs, given, node, opened); });
            return is_open || later->is_given();
        });
    });
}

void release(fuse_req_t request, fuse_ino_t /*id*/, fuse_file_info* info) {
    answer(request, [&](Reply& reply) {
        FileSystem::of(request).open_files().remove(info->fh);
        reply.ok();
    });
}

}  // namespace nosigbus::handlers
