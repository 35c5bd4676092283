#include "lib/view_size.h"

#include <algorithm>

namespace nosigbus {

off_t view_size(off_t real_size, off_t max_size, off_t before) {
    const off_t multiples = std::max<off_t>(1, real_size / max_size + (real_size % max_size != 0 ? 1 : 0));
    const off_t size = multiples > largest_view / max_size ? largest_view : multiples * max_size;
    return std::max(size, before);
}

off_t unversioned_size(off_t view_size, unsigned turn) {
    constexpr off_t step = 4096;
    return std::max(view_size, smallest_unversioned_size - step) + step * static_cast<off_t>(1 + turn % 1024);
}

}  // namespace nosigbus
