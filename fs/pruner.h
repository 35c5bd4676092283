// Makes room in our table of descriptors by asking the kernel to forget inodes that nobody uses.
//
// A kernel that has memory keeps what it once looked up, and each known inode takes one of our descriptors. Where they
// run out, FUSE_NOTIFY_PRUNE (Linux 6.18) has it drop names that nobody uses (d_prune_aliases), and so their inodes.
// Nothing is lost by that: names expire at once anyway. Older kernels forget when memory is short, or when somebody
// writes to /proc/sys/vm/drop_caches.
#pragma once

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <mutex>
#include <system_error>

#include "fs/page_cache.h"
#include "lib/node_table.h"

namespace nosigbus {

// Thread-safe.
class Pruner {
  public:
    Pruner(NodeTable& nodes, PageCache& kernel) : nodes_(nodes), kernel_(kernel) {}

    // body(); and again where it failed for want of a descriptor and there are some now. Waits for that, a second at
    // most: not for a page that is read or written back.
    template <typename Body>
    auto with_room(Body body) {
        constexpr int tries = 4;  // others may take the room that was made
        for (int i = 1; i < tries; ++i) {
            try {
                return body();
            } catch (const std::system_error& failure) {
                const int error = failure.code().value();
                if ((error != EMFILE && error != ENFILE) || !make_room()) throw;
            }
        }
        return body();
    }

  private:
    using Clock = std::chrono::steady_clock;

    bool make_room();
    bool prune_next(std::size_t& looked_at);
    bool forgets_make_room(int any, Clock::time_point end);

    NodeTable& nodes_;
    PageCache& kernel_;
    std::mutex mutex_;
    std::size_t next_slot_ = 1;
    Clock::time_point hopeless_until_;
    Clock::time_point next_line_;
};

}  // namespace nosigbus
