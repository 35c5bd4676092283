#include "fs/newer_requests.h"

#include <linux/fuse.h>

#include <cstddef>
#include <cstring>

namespace nosigbus {
namespace {

// What follows the head; all 0 where it is not all there.
template <typename Body>
Body body_of(const fuse_buf& request) {
    Body body{};
    if (request.size >= sizeof(fuse_in_header) + sizeof body)
        std::memcpy(&body, static_cast<const char*>(request.mem) + sizeof(fuse_in_header), sizeof body);
    return body;
}

void change_opcode(const fuse_buf& request, fuse_in_header header, std::uint32_t opcode) {
    header.opcode = opcode;
    std::memcpy(request.mem, &header, sizeof header);
}

// Cuts setxattr_flags and its padding from the middle: what stands before moves up.
void shorten_setxattr(fuse_buf& request, fuse_in_header header) {
    constexpr std::uint32_t cut = sizeof(fuse_setxattr_in) - FUSE_COMPAT_SETXATTR_IN_SIZE;
    if (request.size < sizeof header + sizeof(fuse_setxattr_in)) return;
    auto* const start = static_cast<std::byte*>(request.mem);
    std::memmove(start + cut, start, sizeof header + FUSE_COMPAT_SETXATTR_IN_SIZE);
    request.mem = start + cut;
    request.size -= cut;
    header.len -= cut;
    std::memcpy(request.mem, &header, sizeof header);
}

}  // namespace

void put_in_older_words(fuse_buf& request, std::uint64_t accepted_flags, CurrentRequest& current) {
    fuse_in_header header{};
    if (request.size < sizeof header) return;
    std::memcpy(&header, request.mem, sizeof header);
    switch (header.opcode) {
        case FUSE_TMPFILE:
            change_opcode(request, header, FUSE_CREATE);
            break;
        case statx_opcode:
            change_opcode(request, header, FUSE_GETATTR);
            break;
        case copy_file_range_64_opcode:
            change_opcode(request, header, 0);
            break;
        case FUSE_SETXATTR:
            if ((accepted_flags & FUSE_SETXATTR_EXT) == 0) break;
            current.kills_set_ids =
                (body_of<fuse_setxattr_in>(request).setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) != 0;
            shorten_setxattr(request, header);
            break;
        case FUSE_WRITE:
            current.kills_set_ids = (body_of<fuse_write_in>(request).write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
            break;
        default:
            break;
    }
}

}  // namespace nosigbus
