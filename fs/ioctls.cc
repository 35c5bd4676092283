#include <linux/fs.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <utility>

#include "fs/barrier.h"
#include "fs/fd_views.h"
#include "fs/file_system.h"
#include "fs/handlers.h"
#include "fs/names.h"
#include "fs/reply.h"
#include "lib/client/protocol.h"
#include "lib/syscalls.h"

namespace nosigbus::handlers {
namespace {

// The number of chattr(1)'s calls holds the size of a long (ioctl_iflags(2)): of the kernel's, which may not be ours.
unsigned with_our_long(unsigned command) {
    switch (command) {
        case _IOR('f', 1, std::uint64_t):
            return FS_IOC_GETFLAGS;
        case _IOW('f', 2, std::uint64_t):
            return FS_IOC_SETFLAGS;
        default:
            return command;
    }
}

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

template <typename Value>
std::span<const std::byte> bytes_of(const Value& value) {
    return std::as_bytes(std::span(&value, 1));
}

// Calls act(real size of the file, reply): in time for a slow file, or late().
template <typename Act>
void with_real_size(FileSystem& fs, Reply& reply, const OpenFilePtr& file, Act act, const SlowWork::Give& late) {
    if (!file->node()->access().is_slow) return act(sys::file_size(file->descriptor()), reply);
    const auto work = [file, act]() -> SlowWork::Give {
        const off_t size = sys::file_size(file->descriptor());
        return [act, size](Reply& given) { act(size, given); };
    };
    fs.slow_work().run(file->node(), reply, SlowWork::telling_errors(work), late);
}

void answer_sizes(FileSystem& fs, Reply& reply, const OpenFilePtr& file, std::size_t out_size) {
    if (out_size < sizeof(nosigbus_sizes)) sys::fail(EINVAL, "ioctl");
    fs.truncations().settle(*file->node());
    const auto tell = [&fs, file](off_t real_size, Reply& given) {
        fs.when_view_holds(file->node(), real_size, [file, real_size, reply = std::move(given)]() mutable {
            reply.ioctl(bytes_of(nosigbus_sizes{.real_size = static_cast<std::uint64_t>(real_size),
                                                .view_size = static_cast<std::uint64_t>(file->node()->view_size())}));
        });
    };
    with_real_size(fs, reply, file, tell, [](Reply& late) { late.error(ETIMEDOUT); });
}

// The barrier for a part of the view: the refresher replies.
void answer_sync(FileSystem& fs, Reply& reply, const OpenFilePtr& file, std::span<const std::byte> in) {
    nosigbus_range range{};
    if (in.size() < sizeof range) sys::fail(EINVAL, "ioctl");
    std::memcpy(&range, in.data(), sizeof range);
    constexpr std::uint64_t most = std::numeric_limits<off_t>::max();
    if (range.offset > most || range.length > most - range.offset) sys::fail(EINVAL, "ioctl");
    const auto offset = static_cast<off_t>(range.offset);
    const auto length = static_cast<off_t>(range.length != 0 ? range.length : most - range.offset);
    fs.truncations().settle(*file->node());
    const auto refresh = [&fs, file, offset, length](Reply& given) {
        const auto later = std::make_shared<Reply>(std::move(given));
        const auto answer = [later](bool shows) { shows ? later->ioctl({}) : later->error(EIO); };
        wait_for_views(fs, file->node(), ByteRange{offset, length}, Stores::perhaps_not, answer);
    };
    if (!file->node()->access().is_slow) return refresh(reply);
    // The refresher does not ask such a file how large it is.
    const auto follow = [&fs, file, refresh](off_t real_size, Reply& given) {
        fs.note_growth(file->node(), real_size);
        refresh(given);
    };
    with_real_size(fs, reply, file, follow, refresh);
}

// What is ours alone: lib/client/protocol.h. Returns whether it was.
bool answer_own(FileSystem& fs, Reply& reply, const OpenFilePtr& file, unsigned command, std::span<const std::byte> in,
                std::size_t out_size) {
    if (!file->node()->is_regular()) return false;
    if (command == NOSIGBUS_IOC_SIZES) {
        answer_sizes(fs, reply, file, out_size);
        return true;
    }
    if (command == NOSIGBUS_IOC_SYNC) {
        answer_sync(fs, reply, file, in);
        return true;
    }
    return false;
}

}  // namespace

void ioctl(fuse_req_t request, fuse_ino_t id, unsigned command, void* /*argument*/, fuse_file_info* info,
           unsigned /*flags*/, const void* in, std::size_t in_size, std::size_t out_size) {
    answer(request, [&](Reply& reply) {
        if (fd_views::is_directory(id)) return reply.error(ENOTTY);
        FileSystem& fs = FileSystem::of(request);
        const OpenFilePtr file = fs.open_files().get(info->fh);
        if (answer_own(fs, reply, file, command, {static_cast<const std::byte*>(in), in_size}, out_size)) return;
        command = with_our_long(command);
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
