#include "fs/kernel_features.h"

#include <fmt/format.h>
#include <linux/fuse.h>

#include <array>

namespace nosigbus {
namespace {

// FUSE_EXPLICIT_INVAL_DATA is not among them: without it there is no mount, see operations.cc.
//
// Where each is asked for: Channel::note_init, shadows.cc; the others where a call or a request that is not there is
// noticed, in newer_requests.cc, pruner.cc and change_watcher.cc, which ask for nothing. pidfd_open(2) with
// PIDFD_THREAD (Linux 6.9) has a substitute: peer_descriptor.cc.
constexpr std::array known_features = {
    KernelFeature{"DIRECT_IO_ALLOW_MMAP", kernel::direct_io_allow_mmap, 0, "6.6",
                  "read(2) sees zeros up to the view's end, unless the file was opened with O_DIRECT"},
    KernelFeature{"STATX", 0, 39, "6.6", "views have no birth time"},
    // Its fsnotify calls (fs/splice.c) came between the protocols of 6.1 and 6.6.
    KernelFeature{"an inotify event for splice(2)", 0, 39, "6.6",
                  "what splice(2) writes to a file beside the mount shows at the barrier"},
    KernelFeature{"HAS_RESEND", kernel::has_resend, 0, "6.9",
                  "requests are kept here until they are answered, and writes come 128 KiB at a time"},
    KernelFeature{"PASSTHROUGH", kernel::passthrough, 0, "6.9",
                  "views have no shadows: the first load of a page waits for nosigbus"},
    // Before, the kernel wrote back a copy of a page, and took the page for written at once (fuse_writepages_fill); the
    // end of a mount aborts what still waits (fuse_sb_destroy). Both changed with the protocol of 6.16.
    KernelFeature{"a munmap(2) that waits for write-back", 0, 44, "6.16",
                  "a store that no msync(2) or fsync(2) followed may be lost where the mount ends right after"},
    KernelFeature{"NOTIFY_PRUNE", 0, 45, "6.18", "where descriptors end, no unused inode is given up for more"},
};

bool is_offered(const KernelFeature& feature, const fuse_init_in& init) {
    if (feature.flag != 0) return (offered_flags(init) & feature.flag) != 0;
    return init.minor >= feature.minor;
}

}  // namespace

std::span<const KernelFeature> kernel_features() {
    return known_features;
}

std::uint64_t offered_flags(const fuse_init_in& init) {
    const bool is_long = (init.flags & FUSE_INIT_EXT) != 0;
    return init.flags | (is_long ? std::uint64_t{init.flags2} << 32 : 0);
}

std::string missing_features(const fuse_init_in& init) {
    std::string line;
    for (const KernelFeature& feature : known_features) {
        if (is_offered(feature, init)) continue;
        line +=
            fmt::format("{}{} (Linux {}): {}", line.empty() ? "" : "; ", feature.name, feature.since, feature.without);
    }
    return line;
}

}  // namespace nosigbus
