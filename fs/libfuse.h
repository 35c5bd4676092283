// What libfuse 3.14, 3.17 and 3.18 do each in their own way; all else they do alike, and so do those between.
//
// FUSE_USE_VERSION is 312 for all (CMakeLists.txt): newer ones then keep to the old fuse_session_custom_io of three
// arguments. The structure it takes has grown at its end, so it is filled member by member.
//
// TMPFILE (3.17) and STATX (3.18) have handlers in newer ones that are left out: no request reaches libfuse under
// these names, see newer_requests.h. Nor does SETXATTR in its longer form, which newer ones would understand
// (FUSE_CAP_SETXATTR_EXT): their handler is not told the one thing it is longer for.
//
// From 3.18.3 on libfuse is built without fuse_session_custom_io, unless somebody asks for it, and it may take the
// place of any since 3.17 (libfuse3.so.4). We cannot do without: what it says in its answer to INIT, and when it has no
// memory, has to be changed. So for these we read the device ourselves, and define the writev(2) that libfuse writes
// with: see docs/ports.md.
#pragma once

#include <fuse_lowlevel.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace nosigbus::libfuse {

// FUSE_CAP_*, which take more than 32 bits in the end.
using Features = std::uint64_t;

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)

inline constexpr Features direct_io_allow_mmap = FUSE_CAP_DIRECT_IO_ALLOW_MMAP;

// What the kernel can do.
inline Features offered(const fuse_conn_info& connection) {
    return connection.capable_ext;
}

// Makes the answer to INIT have these, which must have been offered, and no others.
inline void choose(fuse_conn_info& connection, Features features) {
    // Not `want`: where that has changed libfuse overwrites the low half (convert_to_conn_want_ext).
    fuse_unset_feature_flag(&connection, ~features);
    if (features != 0) fuse_set_feature_flag(&connection, features);
}

#else

// Unknown: the channel puts it into the answer to INIT.
inline constexpr Features direct_io_allow_mmap = 0;

inline Features offered(const fuse_conn_info& connection) {
    return connection.capable;
}

inline void choose(fuse_conn_info& connection, Features features) {
    connection.want = static_cast<unsigned>(features);
}

#endif

// The largest WRITE there is room for: what libfuse takes where pages have 4 KiB.
inline constexpr std::size_t largest_write = std::size_t{1} << 20;

// Makes the session, which closes it, read and write `fd` by `io`, with its own user data. Throws std::system_error.
void attach(fuse_session* session, int fd, const fuse_custom_io& io, void* user_data);

// As fuse_session_receive_buf, of one that is attached.
int receive(fuse_session* session, fuse_buf& buffer);

// As fuse_session_destroy. Nobody writes by this session any more.
void destroy(fuse_session* session);

}  // namespace nosigbus::libfuse
