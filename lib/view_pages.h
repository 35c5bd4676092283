// The seam to an engine: what the refresher asks of whoever holds a view's pages.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace nosigbus {

class ViewPages {
  public:
    ViewPages() = default;
    ViewPages(const ViewPages&) = delete;
    ViewPages& operator=(const ViewPages&) = delete;
    virtual ~ViewPages() = default;

    // Forgets every page of the view, so that the next load asks for it again. Returns when no mapping shows an old
    // page. Blocks while a READ or WRITE of such a page is being answered: never call it from a request handler.
    virtual void drop(std::uint64_t node) = 0;

    // Makes the view at least `view_size` bytes long for every mapping. Returns when it is.
    virtual void grow(std::uint64_t node, off_t view_size) = 0;
};

}  // namespace nosigbus
