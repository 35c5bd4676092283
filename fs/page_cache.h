// The cache engine: a view's pages are those of the kernel's page cache, and the kernel is told what has become of
// them.
#pragma once

#include <fuse_lowlevel.h>

#include <string>

#include "lib/view_pages.h"

namespace nosigbus {

class PageCache : public ViewPages {
  public:
    // From here on notifications go to `session`, which is the caller's.
    void use(fuse_session* session) { session_ = session; }

    // Replies with attributes that are under way will not be kept. Touches no page, so a handler may call it. Returns
    // whether the kernel has done it.
    bool expire_attributes(std::uint64_t node);

    void drop(std::uint64_t node, off_t offset, off_t length) override;
    bool push(std::uint64_t node, off_t offset, std::span<const std::byte> bytes) override;
    void grow(std::uint64_t node, off_t view_size) override;

    // Has these inodes forgotten that nobody uses. Returns whether the kernel can, which Linux 6.18 is the first to.
    // FORGETs come of it, later. Touches no page, so a handler may call it.
    bool prune(std::span<const std::uint64_t> nodes);

    // Has a name in a directory forgotten, in use or not. Waits for lookups under way in that directory: no handler may
    // call it.
    void forget_name(std::uint64_t directory, const std::string& name);

  private:
    fuse_session* session_ = nullptr;
};

}  // namespace nosigbus
