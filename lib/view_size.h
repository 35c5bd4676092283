// The rule that makes a view of a backing file: real size R, the mount's max_size M -> view size V.
#pragma once

#include <sys/types.h>

namespace nosigbus {

// No view is larger: a little below what an off_t holds, so that the sizes beyond a view (see unversioned_size) fit
// too.
inline constexpr off_t largest_view = 0x7fff'ffff'0000'0000;

// V for real size `real_size`: the next multiple of `max_size`, at least one, and never less than `before`, which the
// kernel may already have told somebody who mapped the view.
off_t view_size(off_t real_size, off_t max_size, off_t before = 0);

// A size above any view of the file, different from that of the turn before and the turn after. It stands in the
// replies whose size the kernel takes without asking which of two replies is the newer one (SETATTR: fuse_do_setattr;
// CREATE, MKNOD, LINK: fuse_iget with attr_version 0). There V could be overtaken by a larger V and shrink i_size below
// it, and a load between the two would fault. Too large is harmless: the attributes expire at once, and the next
// GETATTR puts V in its place. That it differs from i_size makes the kernel drop the file's pages after a SETATTR,
// which a truncation needs and nothing but the kernel could do there: fuse_do_setattr holds writeback off
// (fuse_set_nowrite), so whoever drops dirty pages before the reply waits for ever.
off_t unversioned_size(off_t view_size, unsigned turn);

// None of these sizes is smaller.
inline constexpr off_t smallest_unversioned_size = (off_t{1} << 62) + 4096;

}  // namespace nosigbus
