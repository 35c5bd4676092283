#include <linux/fs.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "fs/file_system.h"
#include "fs/handlers.h"
#include "fs/names.h"
#include "fs/reply.h"
#include "lib/syscalls.h"

namespace nosigbus::handlers {
namespace {

// How much of its argument each of the calls that are passed on reads or writes, 0 for all others: chattr(1)'s. What is
// safe for a server that acts for somebody else can be said of these only.
std::size_t length_of(unsigned command) {
    switch (command) {
        case FS_IOC_GETFLAGS:
        case FS_IOC_SETFLAGS:
            return sizeof(int);  // whatever its number says: ioctl_iflags(2)
        case FS_IOC_FSGETXATTR:
        case FS_IOC_FSSETXATTR:
            return sizeof(fsxattr);
        default:
            return 0;
    }
}

}  // namespace

void ioctl(fuse_req_t request, fuse_ino_t /*id*/, unsigned command, void* /*argument*/, fuse_file_info* info,
           unsigned /*flags*/, const void* in, std::size_t in_size, std::size_t out_size) {
    answer(request, [&](Reply& reply) {
        const OpenFilePtr file = FileSystem::of(request).open_files().get(info->fh);
        const std::size_t length = length_of(command);
        if (length == 0) sys::fail(ENOTTY, "ioctl");
        const bool sets = command == FS_IOC_SETFLAGS || command == FS_IOC_FSSETXATTR;
        if ((sets ? in_size : out_size) < length) sys::fail(EINVAL, "ioctl");
        alignas(fsxattr) std::array<std::byte, sizeof(fsxattr)> value{};
        if (sets) std::memcpy(value.data(), in, length);
        {
            const ActAs as(caller_of(request));
            sys::check(::ioctl(file->descriptor(), command, value.data()), "ioctl");
        }
        reply.ioctl(std::span(value).first(sets ? 0 : length));
    });
}

}  // namespace nosigbus::handlers
