#include "fs/page_cache.h"

#include <linux/fuse.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "lib/log.h"

namespace nosigbus {
namespace {

// What a notification answers is advice: that the kernel knows the inode no more, or the mount is gone, is normal.
void note(int result, const char* what) {
    if (result == 0 || result == -ENOENT || result == -ENODEV || result == -ENOTCONN) return;
    log::error("{}: {}", what, std::strerror(-result));
}

}  // namespace

bool PageCache::expire_attributes(std::uint64_t node) {
    const int result = fuse_lowlevel_notify_inval_inode(session_, node, -1, 0);
    note(result, "FUSE_NOTIFY_INVAL_INODE");
    return result == 0;
}

void PageCache::drop(std::uint64_t node, off_t offset, off_t length) {
    note(fuse_lowlevel_notify_inval_inode(session_, node, offset, length), "FUSE_NOTIFY_INVAL_INODE");
}

bool PageCache::push(std::uint64_t node, off_t offset, std::span<const std::byte> bytes) {
    fuse_bufvec vector = FUSE_BUFVEC_INIT(bytes.size());
    // libfuse has no const; it only reads.
    vector.buf[0].mem = const_cast<std::byte*>(bytes.data());  // NOLINT(*-const-cast)
    const int result = fuse_lowlevel_notify_store(session_, node, offset, &vector, fuse_buf_copy_flags(0));
    note(result, "FUSE_NOTIFY_STORE");
    return result == 0;
}

// FUSE_NOTIFY_PRUNE, which libfuse does not know.
bool PageCache::prune(std::span<const std::uint64_t> nodes) {
    // linux/fuse.h of Linux 6.18: fuse_notify_prune_out.
    constexpr int notify_prune = 9;
    struct Prune {
        std::uint32_t count;
        std::uint32_t padding;
        std::uint64_t spare;
    };
    Prune prune{.count = static_cast<std::uint32_t>(nodes.size()), .padding = 0, .spare = 0};
    const std::size_t length = sizeof(fuse_out_header) + sizeof prune + nodes.size_bytes();
    fuse_out_header header{.len = static_cast<std::uint32_t>(length), .error = notify_prune, .unique = 0};
    // iovec has no const; writev does not write through it.
    auto* const ids = const_cast<std::uint64_t*>(nodes.data());  // NOLINT(*-const-cast)
    const std::array<iovec, 3> parts = {iovec{.iov_base = &header, .iov_len = sizeof header},
                                        iovec{.iov_base = &prune, .iov_len = sizeof prune},
                                        iovec{.iov_base = ids, .iov_len = nodes.size_bytes()}};
    return ::writev(fuse_session_fd(session_), parts.data(), static_cast<int>(parts.size())) >= 0;
}

void PageCache::forget_name(std::uint64_t directory, const std::string& name) {
    note(fuse_lowlevel_notify_inval_entry(session_, directory, name.c_str(), name.size()), "FUSE_NOTIFY_INVAL_ENTRY");
}

void PageCache::grow(std::uint64_t node, off_t view_size) {
    // Replies under way may carry the size of before. The kernel ignores them once the attribute version is newer than
    // their request (fuse_reverse_inval_inode counts it up, fuse_change_attributes compares).
    expire_attributes(node);
    // A store past the end extends i_size (fuse_notify_store). It stands right behind the view, where no page holds a
    // byte of the file, and the page goes with the next GETATTR.
    char zero = 0;
    fuse_bufvec byte = FUSE_BUFVEC_INIT(1);
    byte.buf[0].mem = &zero;
    note(fuse_lowlevel_notify_store(session_, node, view_size, &byte, fuse_buf_copy_flags(0)), "FUSE_NOTIFY_STORE");
}

}  // namespace nosigbus
