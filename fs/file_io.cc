#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "fs/attributes.h"
#include "fs/current_request.h"
#include "fs/fd_views.h"
#include "fs/file_system.h"
#include "fs/handlers.h"
#include "fs/names.h"
#include "fs/once.h"
#include "fs/reply.h"
#include "fs/request_threads.h"
#include "fs/set_ids.h"
#include "fs/slow_pages.h"
#include "lib/backing_file.h"
#include "lib/credentials.h"
#include "lib/read_errors.h"
#include "lib/spare_memory.h"
#include "lib/syscalls.h"
#include "lib/view_size.h"

namespace nosigbus::handlers {
namespace {

// A thread's own, and part of what the thread was made with: a READ for a fault needs no memory that could be missing.
thread_local std::array<std::byte, max_read> read_buffer;  // NOLINT(*-member-init)

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
void set_open_mode(FileSystem& fs, fuse_file_info& info) {
    info.direct_io = fs.channel().maps_direct_files() ? 1 : 0;
    info.keep_cache = 0;
}

std::span<const std::byte> as_bytes(const char* data, std::size_t size) {
    return std::as_bytes(std::span(data, size));
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

OpenFilePtr add_open_file(FileSystem& fs, const NodePtr& node, UniqueFd descriptor, int flags) {
    return fs.open_files().add(node, std::move(descriptor), flags, fs.watcher().watch(node), current_request().number);
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

// For the pages of one request: no kernel has smaller ones.
using Digests = std::array<PageDigest, max_read / 4096>;

void make_unknown(FileSystem& fs, fuse_ino_t id, PageRange range) noexcept {
    try {
        fs.nodes().get(id)->view().pages().make_unknown(range);
    } catch (const std::exception&) {
        // No such node: nobody looks at its pages.
    }
}

// Fills `pages` for the kernel, and notes what it is given. Returns the errno of what could not be read and is zeros.
int give_pages(FileSystem& fs, fuse_ino_t id, SlotId handle, std::span<std::byte> pages, off_t offset) noexcept {
    const PageRange range = pages_of(offset, pages.size());
    OpenFilePtr file;
    try {
        file = fs.open_files().get(handle);
    } catch (const std::exception&) {
        std::ranges::fill(pages, std::byte{0});
        fs.read_errors().report(-1, EBADF);
        make_unknown(fs, id, range);
        return EBADF;
    }
    View& view = file->node()->view();
    GivenPages& given = view.pages();
    const GivenPages::State token = given.giving(range);
    const PaddedRead result = read_padded(file->descriptor(), pages, offset);
    if (result.error != 0) {
        fs.read_errors().report(file->descriptor(), result.error);
        ++view.counters().read_errors;
        return result.error;
    }
    count_load(fs.counters(), view.counters(), pages.size(), result.real_bytes);
    Digests digests;
    given.given(token, range.first, fs.digester().digest(pages, result.real_bytes, digests));
    return 0;
}

// Stores pages that come from the page cache: whole ones, up to the view's end. What lies past the file's end is no
// part of it.
void store_pages(FileSystem& fs, const OpenFile& file, std::span<const std::byte> bytes, off_t offset) {
    GivenPages& given = file.node()->view().pages();
    // What is not stored whole stays unknown: the kernel has more in that page than the file.
    const PageRange range = pages_of(offset, bytes.size());
    const GivenPages::State token = given.giving(range);
    const std::size_t stored = store_within(file.descriptor(), bytes, offset);
    Digests digests;
    given.given(token, range.first, fs.digester().digest(bytes.first(stored), stored, digests));
}

// The file open as `handle` if it is a slow one, else null.
OpenFilePtr slow_file(FileSystem& fs, SlotId handle) noexcept {
    try {
        OpenFilePtr file = fs.open_files().get(handle);
        return file->node()->access().is_slow ? file : nullptr;
    } catch (const std::exception&) {
        return nullptr;
    }
}

std::size_t write_where_asked(const OpenFile& file, std::span<const std::byte> bytes, off_t offset) {
    // Who shares the open file can set O_APPEND for it at any time: fcntl(2), F_SETFL.
    const bool is_shared = file.node()->access().is_shared;
    return is_shared ? sys::write_in_place(file.descriptor(), bytes, offset)
                     : sys::write_at(file.descriptor(), bytes, offset);
}

off_t size_now(const OpenFile& file) {
    return sys::file_size(file.descriptor());
}

// SEEK_DATA and SEEK_HOLE of an open file whose position is somebody else's.
off_t seek_without_holes(const OpenFile& file, off_t offset, int whence) {
    const off_t end = size_now(file);
    if (offset < 0 || offset >= end) sys::fail(ENXIO, "lseek");
    return whence == SEEK_HOLE ? end : offset;
}

// Whether a write(2) is to go to the file's end. The kernel has reckoned its offset from the i_size that it knows, and
// does not tell what the call itself said (RWF_APPEND, RWF_NOAPPEND), but where that is beyond doubt.
bool appends(const Node& node, int flags, off_t offset) {
    // As wide as what may have been written behind such a size since.
    constexpr off_t unversioned_sizes = off_t{1} << 32;
    if (offset >= smallest_unversioned_size && offset - smallest_unversioned_size < unversioned_sizes) return true;
    if ((flags & O_APPEND) == 0) return false;
    return offset >= node.view_size() || node.outgrown();
}

// How many of `bytes` a worker that died has appended to a file that ended at `end` before. Only who changes the file
// behind our back at that moment can have put others there; then they are looked for in what came after.
std::size_t appended_before(const OpenFile& file, std::span<const std::byte> bytes, off_t end) {
    const off_t now = size_now(file);
    if (now <= end) return 0;
    std::vector<std::byte> news(std::min(static_cast<std::size_t>(now - end), bytes.size() + max_read));
    try {
        news.resize(sys::read_at(file.descriptor(), news, end));
    } catch (const std::system_error&) {
        return std::min(news.size(), bytes.size());  // an ordinary user's daemon may not be able to read it
    }
    const auto same = std::ranges::mismatch(news, bytes);
    if (same.in1 == news.end() || same.in2 == bytes.end()) return static_cast<std::size_t>(same.in2 - bytes.begin());
    const auto found = std::search(news.begin(), news.end(), bytes.begin(), bytes.end());
    return found == news.end() ? 0 : bytes.size();
}

// Returns the bytes appended, at `end_before` unless somebody else did so at the same time.
std::size_t append_once(FileSystem& fs, Reply& reply, const OpenFile& file, std::span<const std::byte> bytes,
                        off_t& end_before) {
    std::size_t done = 0;
    end_before = size_now(file);
    const auto written = once(
        fs, reply, [&](Before& before) { before.size = end_before; },
        [&](const Before& before) -> std::optional<std::int64_t> {
            end_before = before.size;
            done = appended_before(file, bytes, before.size);
            if (done < bytes.size()) return std::nullopt;  // a part, perhaps: the rest is still to be done
            return static_cast<std::int64_t>(done);
        },
        [&] {
            try {
                return static_cast<std::int64_t>(done + sys::append(file.descriptor(), bytes.subspan(done)));
            } catch (const std::system_error&) {
                if (done == 0) throw;
                return static_cast<std::int64_t>(done);  // as write(2) does
            }
        });
    return static_cast<std::size_t>(written);
}

// The kernel drops the pages where it reckoned the bytes to be. They are at the file's end, which was `before`, and the
// refresher replies when they show there. Not for a file that was opened cached: there the kernel holds pages meanwhile
// (fuse_perform_write).
void answer_append(FileSystem& fs, const OpenFile& file, Reply& reply, off_t before, std::size_t written) {
    const auto length = static_cast<off_t>(written);
    // Where somebody else changed the size at that moment, it is not known where the bytes stand.
    const bool is_known = size_now(file) == before + length;
    auto later = std::make_shared<Reply>(std::move(reply));
    const auto reply_later = [later, written] { later->written(written); };
    if (is_known) return fs.refresher_of(*file.node()).refresh(file.node(), before, length, reply_later);
    fs.refresher_of(*file.node()).refresh(file.node(), reply_later);
}

// After a change of the file's size through the view whose reply waits for nobody: for files that are not opened for
// direct I/O the kernel holds locks on pages meanwhile (fuse_perform_write), for which the refresher may wait. It moves
// i_size to the file's end by itself (fuse_write_update_attr); the view's follows soon.
void note_growth(FileSystem& fs, const OpenFile& file) {
    fs.note_growth(file.node(), size_now(file));
}

// Answers with the backing file that has been opened, of which `real_size` is known.
void answer_opened(FileSystem& fs, Reply& reply, const NodePtr& node, OpenFilePtr file, off_t real_size,
                   fuse_file_info opened) {
    Opening opening(fs.open_files(), std::move(file));
    opened.fh = opening.file()->id();
    set_open_mode(fs, opened);
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
            return add_open_file(fs, node, std::move(descriptor), flags);
        });
    } catch (const std::system_error& failure) {
        if (failure.code().value() != EWOULDBLOCK) throw;
        // Somebody who has the file has taken a lease since the lookup, which the next lookup sees: with ESTALE the
        // kernel looks up once more (do_filp_open), and only once.
        if (node->access().is_fd_view) sys::fail(ESTALE, "a lease");
        if ((opened.flags & O_NONBLOCK) != 0) throw;
        return false;
    }
    const off_t real_size = size_now(*file);
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
            OpenFilePtr file = add_open_file(fs, node, std::move(*descriptor), flags);
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
        OpenFilePtr file = add_open_file(fs, node, std::move(descriptor), flags);
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

void read(fuse_req_t request, fuse_ino_t id, std::size_t size, off_t offset, fuse_file_info* info) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        const auto buffer = std::span(read_buffer).first(std::min(size, read_buffer.size()));
        // Only read(2) and direct I/O name a lock owner (FUSE_READ_LOCKOWNER, fuse_send_read). For them a short read is
        // the file's end, and an error is an error.
        if (info->lock_owner != 0) {
            const OpenFilePtr file = fs.open_files().get(info->fh);
            fs.truncations().settle(*file->node());
            reply.bytes(buffer.first(sys::read_at(file->descriptor(), buffer, offset)));
            return;
        }
        if (const OpenFilePtr file = slow_file(fs, info->fh))
            return give_pages_slowly(fs, reply, file, buffer.size(), offset);
        // A page for a fault or readahead: always in full. Less would shrink i_size (fuse_short_read), an error would
        // be SIGBUS, which is what on_error=fail is for.
        const int error = give_pages(fs, id, info->fh, buffer, offset);
        if (error != 0 && fs.options().on_error == Options::OnError::fail) return reply.error(error);
        reply.bytes(buffer);
    });
}

void write(fuse_req_t request, fuse_ino_t /*id*/, const char* data, std::size_t size, off_t offset,
           fuse_file_info* info) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        const OpenFilePtr file = fs.open_files().get(info->fh);
        const auto bytes = as_bytes(data, size);
        if (info->writepage != 0 && file->node()->access().is_slow)
            return store_pages_slowly(fs, reply, file, bytes, offset);
        if (info->writepage != 0) {
            store_pages(fs, *file, bytes, offset);
            reply.written(size);
            return;
        }
        // What is written to a file that was opened cached stays in its pages.
        if (!fs.channel().maps_direct_files()) file->node()->view().pages().make_unknown(pages_of(offset, size));
        fs.truncations().settle(*file->node());
        drop_set_ids(*file->node(), request);
        const bool is_append = appends(*file->node(), info->flags, offset);
        off_t end_before = 0;
        std::size_t written = 0;
        try {
            // The kernel reckons an append from the view's size.
            written =
                is_append ? append_once(fs, reply, *file, bytes, end_before) : write_where_asked(*file, bytes, offset);
        } catch (const std::system_error&) {
            if (offset > file->node()->view_size() - static_cast<off_t>(size)) file->node()->note_failed_past_view();
            throw;
        }
        if (!fs.channel().maps_direct_files()) {
            note_growth(fs, *file);
            return reply.written(written);
        }
        if (is_append) return answer_append(fs, *file, reply, end_before, written);
        fs.when_view_holds(file->node(), size_now(*file),
                           [reply = std::move(reply), written]() mutable { reply.written(written); });
    });
}

void fsync(fuse_req_t request, fuse_ino_t /*id*/, int data_only, fuse_file_info* info) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        const OpenFilePtr file = fs.open_files().get(info->fh);
        fs.truncations().settle(*file->node());
        const int fd = file->descriptor();
        sys::check(data_only != 0 ? ::fdatasync(fd) : ::fsync(fd), "fsync");
        // The refresher does not ask such a file.
        if (file->node()->access().is_slow) fs.note_growth(file->node(), size_now(*file));
        // The barrier: the refresher replies.
        const auto later = with_spare_memory([&] { return std::make_shared<Reply>(std::move(reply)); });
        with_spare_memory([&] { fs.refresher_of(*file->node()).refresh(file->node(), [later] { later->ok(); }); });
    });
}

void fallocate(fuse_req_t request, fuse_ino_t /*id*/, int mode, off_t offset, off_t length, fuse_file_info* info) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        const OpenFilePtr file = fs.open_files().get(info->fh);
        fs.truncations().settle(*file->node());
        drop_group_id_of_strangers(*file->node(), request);
        // The kernel drops the pages of a hole itself (fuse_file_fallocate).
        sys::check(::fallocate(file->descriptor(), mode, offset, length), "fallocate");
        // Nothing is locked meanwhile but the inode (fuse_file_fallocate), for which the refresher does not wait.
        fs.when_view_holds(file->node(), size_now(*file), [reply = std::move(reply)]() mutable { reply.ok(); });
    });
}

void lseek(fuse_req_t request, fuse_ino_t /*id*/, off_t offset, int whence, fuse_file_info* info) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        const OpenFilePtr file = fs.open_files().get(info->fh);
        fs.truncations().settle(*file->node());
        if (file->node()->access().is_shared) return reply.position(seek_without_holes(*file, offset, whence));
        reply.position(sys::check(::lseek(file->descriptor(), offset, whence), "lseek"));
    });
}

void copy_file_range(fuse_req_t request, fuse_ino_t /*from*/, off_t from_offset, fuse_file_info* from_info,
                     fuse_ino_t /*to*/, off_t to_offset, fuse_file_info* to_info, std::size_t length, int flags) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        const OpenFilePtr from = fs.open_files().get(from_info->fh);
        const OpenFilePtr to = fs.open_files().get(to_info->fh);
        fs.truncations().settle(*from->node());
        fs.truncations().settle(*to->node());
        drop_group_id_of_strangers(*to->node(), request);
        const ssize_t copied = sys::check(::copy_file_range(from->descriptor(), &from_offset, to->descriptor(),
                                                            &to_offset, length, static_cast<unsigned>(flags)),
                                          "copy_file_range");
        fs.when_view_holds(to->node(), size_now(*to), [reply = std::move(reply), copied]() mutable {
            reply.written(static_cast<std::size_t>(copied));
        });
    });
}

}  // namespace nosigbus::handlers
