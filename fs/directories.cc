#include <dirent.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "fs/attributes.h"
#include "fs/current_request.h"
#include "fs/fd_views.h"
#include "fs/file_system.h"
#include "fs/handlers.h"
#include "fs/names.h"
#include "fs/reply.h"
#include "fs/request_threads.h"
#include "lib/syscalls.h"

namespace nosigbus::handlers {
namespace {

// The entry as READDIRPLUS gives it: with its node, where it is there, there is room for it and its size holds in its
// view. Otherwise, and for "." and "..", node id 0, and the kernel looks the name up when somebody asks for it.
std::optional<Found> found_now(FileSystem& fs, const Node& directory, const char* name) {
    if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0) return std::nullopt;
    try {
        Found found = find(fs, directory, name);
        const NodePtr& node = found.lookup.node();
        if (!node->holds(static_cast<off_t>(found.attributes.stx_size))) return std::nullopt;
        return found;
    } catch (const std::exception&) {
        return std::nullopt;  // gone again, or nothing we may enter, or no descriptor or memory for a node
    }
}

class DirectoryReader {
  public:
    DirectoryReader(fuse_req_t request, bool plus, std::size_t size)
        : request_(request), fs_(FileSystem::of(request)), plus_(plus), out_(std::min(size, max_read)) {
        // No entry is smaller. What is counted in the reply must not fail to be noted.
        if (plus) lookups_.reserve(out_.size() / sizeof(fuse_entry_out));
    }

    void read(const OpenFile& directory, off_t offset) {
        // The offset is the directory's own cookie, so nothing needs to be kept between two requests.
        sys::check(::lseek(directory.descriptor(), offset, SEEK_SET), "lseek");
        alignas(dirent64) std::array<char, 32768> buffer;
        for (;;) {
            const std::size_t at_most = std::min(buffer.size(), surely_fits());
            if (at_most < shortest_entry) return;
            const ssize_t length = ::getdents64(directory.descriptor(), buffer.data(), at_most);
            if (length < 0 && errno == EINVAL && used_ > 0) return;  // the next one is longer
            if (sys::check(length, "getdents64") == 0) return;
            for (ssize_t at = 0; at < length;) {
                const auto* const entry = reinterpret_cast<const dirent64*>(buffer.data() + at);
                if (!add(*directory.node(), *entry)) return;
                at += entry->d_reclen;
            }
        }
    }

    void reply(Reply& reply) {
        if (!reply.bytes(std::as_bytes(std::span(out_.data(), used_)))) return;  // the lookups are taken back
        for (Lookup& lookup : lookups_) lookup.keep();
    }

  private:
    static constexpr std::size_t shortest_entry = 24;

    // So many bytes of entries have room in the reply, whatever they are. What was read and not given would be read
    // again, from a cookie that on a tmpfs before Linux 6.6 is the number of the entry (dcache_readdir): where others
    // have been removed since, some would be left out.
    [[nodiscard]] std::size_t surely_fits() const {
        const std::size_t grows_by = sizeof(std::uint64_t) + (plus_ ? sizeof(fuse_entry_out) : 0);
        return (out_.size() - used_) / (shortest_entry + grows_by) * shortest_entry;
    }

    // Returns whether there was room for it.
    bool add(const Node& directory, const dirent64& entry) {
        // Nobody can get at it: the name is ours.
        if (directory.id() == root_id && fs_.options().fd_views && entry.d_name == fd_views::name) return true;
        struct stat type {};
        type.st_ino = shown_inode(fs_, directory.key().device, entry.d_ino);
        type.st_mode = DTTOIF(entry.d_type);
        char* const place = out_.data() + used_;
        const std::size_t room = out_.size() - used_;
        std::size_t needed = 0;
        if (!plus_) {
            needed = fuse_add_direntry(request_, place, room, entry.d_name, &type, entry.d_off);
        } else {
            std::optional<Found> found = found_now(fs_, directory, entry.d_name);
            fuse_entry_param parameters{};
            parameters.attr = type;
            if (found) {
                const Node& node = *found->lookup.node();
                parameters = to_entry(node, found->attributes, node.view_size());
            }
            needed = fuse_add_direntry_plus(request_, place, room, entry.d_name, &parameters, entry.d_off);
            if (needed <= room && found) lookups_.push_back(std::move(found->lookup));
        }
        if (needed > room) return false;
        used_ += needed;
        return true;
    }

    fuse_req_t request_;
    FileSystem& fs_;
    bool plus_;
    std::vector<char> out_;
    std::size_t used_ = 0;
    std::vector<Lookup> lookups_;
};

void read_directory(fuse_req_t request, fuse_ino_t id, std::size_t size, off_t offset, const fuse_file_info* info,
                    bool plus) {
    answer(request, [&](Reply& reply) {
        if (fd_views::is_directory(id)) return fd_views::answer_entries(reply, id, size, offset, plus);
        const OpenFilePtr directory = FileSystem::of(request).open_files().get(info->fh);
        DirectoryReader reader(request, plus, size);
        reader.read(*directory, offset);
        reader.reply(reply);
    });
}

}  // namespace

void opendir(fuse_req_t request, fuse_ino_t id, fuse_file_info* info) {
    answer(request, [&](Reply& reply) {
        if (fd_views::is_directory(id)) return fd_views::answer_opening(reply, *info);
        FileSystem& fs = FileSystem::of(request);
        const NodePtr node = fs.nodes().get(id);
        constexpr int flags = O_RDONLY | O_DIRECTORY;
        const OpenFilePtr directory = fs.pruner().with_room([&] {
            return fs.open_files().add(node, sys::open_at(node->descriptor(), ".", flags), flags, {},
                                       current_request().number);
        });
        info->fh = directory->id();
        if (reply.opened(*info)) {
            directory->note_taken();
        } else {
            fs.open_files().remove(directory->id());
        }
    });
}

void readdir(fuse_req_t request, fuse_ino_t id, std::size_t size, off_t offset, fuse_file_info* info) {
    read_directory(request, id, size, offset, info, false);
}

void readdirplus(fuse_req_t request, fuse_ino_t id, std::size_t size, off_t offset, fuse_file_info* info) {
    read_directory(request, id, size, offset, info, true);
}

void fsyncdir(fuse_req_t request, fuse_ino_t id, int data_only, fuse_file_info* info) {
    answer(request, [&](Reply& reply) {
        if (fd_views::is_directory(id)) return reply.ok();
        const OpenFilePtr directory = FileSystem::of(request).open_files().get(info->fh);
        const int fd = directory->descriptor();
        sys::check(data_only != 0 ? ::fdatasync(fd) : ::fsync(fd), "fsync");
        reply.ok();
    });
}

}  // namespace nosigbus::handlers
