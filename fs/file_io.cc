#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "fs/barrier.h"
#include "fs/file_system.h"
#include "fs/handlers.h"
#include "fs/once.h"
#include "fs/reply.h"
#include "fs/request_threads.h"
#include "fs/set_ids.h"
#include "fs/slow_pages.h"
#include "lib/backing_file.h"
#include "lib/read_errors.h"
#include "lib/spare_memory.h"
#include "lib/syscalls.h"
#include "lib/view_size.h"

namespace nosigbus::handlers {
namespace {

// A thread's own, and part of what the thread was made with: a READ for a fault needs no memory that could be missing.
thread_local std::array<std::byte, max_read> read_buffer;  // NOLINT(*-member-init)

std::span<const std::byte> as_bytes(const char* data, std::size_t size) {
    return std::as_bytes(std::span(data, size));
}

void make_unknown(FileSystem& fs, fuse_ino_t id, PageRange range) noexcept {
    try {
        fs.nodes().get(id)->view().pages().make_unknown(range);
    } catch (const std::exception&) {
        // No such node: nobody looks at its pages.
    }
}

// Whether a page READ is to end where the file does. Mappings of a view with a shadow do not come here, only splice(2)
// does: the kernel then takes that for the end (fuse_short_read), and nobody faults on it. To be called before the file
// is read: where that grows afterwards the kernel is told, and passes over such a reply as one that was overtaken.
bool shows_end(FileSystem& fs, fuse_ino_t id) noexcept {
    if (fs.shadows().count() == 0) return false;
    try {
        const NodePtr node = fs.nodes().get(id);
        const auto shadow = node->view().shadow();
        if (!shadow || node->view().engine().engine != Engine::shadow) return false;
        node->note_shown_end();
        shadow->has_shown_end = true;
        return true;
    } catch (const std::exception&) {
        return false;
    }
}

// Fills `pages` for the kernel, and notes what it is given. What could not be read is zeros.
PaddedRead give_pages(FileSystem& fs, fuse_ino_t id, SlotId handle, std::span<std::byte> pages, off_t offset) noexcept {
    const PageRange range = pages_of(offset, pages.size());
    OpenFilePtr file;
    try {
        file = fs.open_files().get(handle);
    } catch (const std::exception&) {
        std::ranges::fill(pages, std::byte{0});
        fs.read_errors().report(-1, EBADF);
        make_unknown(fs, id, range);
        return {.real_bytes = 0, .error = EBADF};
    }
    View& view = file->node()->view();
    GivenPages& given = view.pages();
    const GivenPages::State token = given.giving(range);
    const PaddedRead result = read_padded(file->descriptor(), pages, offset);
    if (result.error != 0) {
        fs.read_errors().report(file->descriptor(), result.error);
        ++view.counters().read_errors;
        return result;
    }
    count_load(fs.counters(), view.counters(), pages.size(), result.real_bytes);
    ReadDigests digests;
    given.given(token, range.first, fs.digester().digest(pages, result.real_bytes, digests));
    return result;
}

// Stores pages that come from the page cache: whole ones, up to the view's end. What lies past the file's end is no
// part of it.
void store_pages(FileSystem& fs, const OpenFile& file, std::span<const std::byte> bytes, off_t offset) {
    GivenPages& given = file.node()->view().pages();
    // What is not stored whole stays unknown: the kernel has more in that page than the file.
    const PageRange range = pages_of(offset, bytes.size());
    const GivenPages::State token = given.giving(range);
    const std::size_t stored = store_within(file.descriptor(), bytes, offset);
    ReadDigests digests;
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

// Gives the reply to what has changed the file in that range, when every mapping shows it: of this view the kernel
// drops the pages itself.
template <typename Give>
void answer_changed(FileSystem& fs, const NodePtr& node, off_t real_size, ByteRange range, Reply reply, Give give) {
    fs.when_view_holds(node, real_size, [&fs, node, range, reply = std::move(reply), give]() mutable {
        fs.when_other_views_show(node, range.offset, range.length,
                                 [reply = std::move(reply), give]() mutable { give(reply); });
    });
}

// How many of `bytes` a worker that died has appended to a file that ended at `end` before. Only who changes the file
// behind our back at that moment can have put others there; then they are looked for in what came after.
std::size_t appended_before(const OpenFile& file, std::span<const std::byte> bytes, off_t end) {
    const off_t now = size_now(file);
    if (now <= end) return 0;
    const auto most = static_cast<off_t>(bytes.size() + max_read);
    std::vector<std::byte> news(static_cast<std::size_t>(std::min(now - end, most)));
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
    auto later = with_spare_memory([&] { return std::make_shared<Reply>(std::move(reply)); });
    constexpr off_t everything = std::numeric_limits<off_t>::max();
    const auto reply_later = [&fs, node = file.node(), before, length, is_known, later, written] {
        fs.when_other_views_show(node, is_known ? before : 0, is_known ? length : everything,
                                 [later, written] { later->written(written); });
    };
    with_spare_memory([&] {
        Refresher& refresher = fs.refresher_of(*file.node());
        if (is_known) return refresher.refresh(file.node(), before, length, reply_later);
        refresher.refresh(file.node(), reply_later);
    });
}

// After a change of the file's size through the view whose reply waits for nobody: for files that are not opened for
// direct I/O the kernel holds locks on pages meanwhile (fuse_perform_write), for which the refresher may wait. It moves
// i_size to the file's end by itself (fuse_write_update_attr); the view's follows soon.
void note_growth(FileSystem& fs, const OpenFile& file) {
    fs.note_growth(file.node(), size_now(file));
}

}  // namespace

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
        const bool ends = shows_end(fs, id);
        const PaddedRead read = give_pages(fs, id, info->fh, buffer, offset);
        if (read.error != 0 && fs.options().on_error == Options::OnError::fail) return reply.error(read.error);
        reply.bytes(buffer.first(ends && read.error == 0 ? read.real_bytes : buffer.size()));
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
            // No event comes of it, see store_within.
            fs.refresh_other_views(*file->node());
            return;
        }
        // What is written to a file that was opened cached stays in its pages.
        if (!fs.channel().maps_direct_files()) file->node()->view().pages().make_unknown(pages_of(offset, size));
        fs.truncations().settle(*file->node());
        drop_set_ids(*file->node(), request);
        // By way of its pages the kernel sees to them itself, as with a truncation (file_remove_privs).
        if (!fs.channel().maps_direct_files()) drop_group_id_of_strangers(*file->node(), request);
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
        answer_changed(fs, file->node(), size_now(*file), {offset, static_cast<off_t>(written)}, std::move(reply),
                       [written](Reply& given) { given.written(written); });
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
        if (file->node()->access().is_slow) note_growth(fs, *file);
        // The barrier: the refresher replies.
        const auto later = with_spare_memory([&] { return std::make_shared<Reply>(std::move(reply)); });
        const auto answer = [later](bool shows) { later->error(shows ? 0 : EIO); };
        with_spare_memory([&] { wait_for_views(fs, file->node(), std::nullopt, Stores::written_back, answer); });
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
        answer_changed(fs, file->node(), size_now(*file), {offset, length}, std::move(reply),
                       [](Reply& given) { given.ok(); });
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
        // The call has moved its own offset.
        answer_changed(fs, to->node(), size_now(*to), {to_offset - copied, copied}, std::move(reply),
                       [copied](Reply& given) { given.written(static_cast<std::size_t>(copied)); });
    });
}

}  // namespace nosigbus::handlers
