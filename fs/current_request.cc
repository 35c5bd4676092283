#include "fs/current_request.h"

#include <linux/fuse.h>

#include <cstring>

#include "fs/newer_requests.h"

namespace nosigbus {

CurrentRequest request_in(const fuse_buf& buffer) {
    fuse_in_header header{};
    if (buffer.size < sizeof header) return {};
    std::memcpy(&header, buffer.mem, sizeof header);
    return {.number = header.unique & ~asked_again_bit,
            .opcode = header.opcode,
            .asked_again = (header.unique & asked_again_bit) != 0};
}

CurrentRequest& current_request() {
    thread_local CurrentRequest request;
    return request;
}

const char* name_of_operation(std::uint32_t opcode) {
    switch (opcode) {
        case FUSE_LOOKUP:
            return "LOOKUP";
        case FUSE_FORGET:
            return "FORGET";
        case FUSE_GETATTR:
            return "GETATTR";
        case FUSE_SETATTR:
            return "SETATTR";
        case FUSE_READLINK:
            return "READLINK";
        case FUSE_SYMLINK:
            return "SYMLINK";
        case FUSE_MKNOD:
            return "MKNOD";
        case FUSE_MKDIR:
            return "MKDIR";
        case FUSE_UNLINK:
            return "UNLINK";
        case FUSE_RMDIR:
            return "RMDIR";
        case FUSE_RENAME:
        case FUSE_RENAME2:
            return "RENAME";
        case FUSE_LINK:
            return "LINK";
        case FUSE_OPEN:
            return "OPEN";
        case FUSE_READ:
            return "READ";
        case FUSE_WRITE:
            return "WRITE";
        case FUSE_STATFS:
            return "STATFS";
        case FUSE_RELEASE:
            return "RELEASE";
        case FUSE_FSYNC:
            return "FSYNC";
        case FUSE_SETXATTR:
            return "SETXATTR";
        case FUSE_GETXATTR:
            return "GETXATTR";
        case FUSE_LISTXATTR:
            return "LISTXATTR";
        case FUSE_REMOVEXATTR:
            return "REMOVEXATTR";
        case FUSE_FLUSH:
            return "FLUSH";
        case FUSE_INIT:
            return "INIT";
        case FUSE_OPENDIR:
            return "OPENDIR";
        case FUSE_READDIR:
            return "READDIR";
        case FUSE_READDIRPLUS:
            return "READDIRPLUS";
        case FUSE_RELEASEDIR:
            return "RELEASEDIR";
        case FUSE_FSYNCDIR:
            return "FSYNCDIR";
        case FUSE_ACCESS:
            return "ACCESS";
        case FUSE_CREATE:
            return "CREATE";
        case FUSE_INTERRUPT:
            return "INTERRUPT";
        case FUSE_BATCH_FORGET:
            return "BATCH_FORGET";
        case FUSE_FALLOCATE:
            return "FALLOCATE";
        case FUSE_LSEEK:
            return "LSEEK";
        case FUSE_COPY_FILE_RANGE:
            return "COPY_FILE_RANGE";
        case FUSE_IOCTL:
            return "IOCTL";
        case FUSE_TMPFILE:
            return "TMPFILE";
        case statx_opcode:
            return "STATX";
        default:
            return "OTHER";
    }
}

}  // namespace nosigbus
