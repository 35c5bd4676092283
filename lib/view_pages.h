// The seam to an engine: what the refresher asks of whoever holds a view's pages.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace nosigbus {

class ViewPages {
  public:
    ViewPages() = default;
    ViewPages(const ViewPages&) = delete;
    ViewPages& operator=(const ViewPages&) = delete;
    virtual ~ViewPages() = default;

    // Forgets the pages that hold `length` bytes from `offset` on, or all there are where `length` is 0, so that the
    // next load asks for them again. Returns when no mapping shows an old page. Blocks while a READ or WRITE of such a
    // page is being answered: never call it from a request handler.
    virtual void drop(std::uint64_t node, off_t offset, off_t length) = 0;

    // Makes the pages from `offset` on hold `bytes`, both whole pages, in every mapping. Returns whether they do.
    // Blocks and never to be called as drop.
    virtual bool push(std::uint64_t node, off_t offset, std::span<const std::byte> bytes) = 0;

    // Makes the view at least `view_size` bytes long for every mapping. Returns when it is.
    virtual void grow(std::uint64_t node, off_t view_size) = 0;
};

}  // namespace nosigbus
