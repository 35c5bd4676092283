#include "fs/channel.h"

#include <linux/fuse.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "fs/file_system.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// linux/fuse.h of Linux 6.6; Debian 12 has that of 6.1. The high half of the flags goes into flags2.
constexpr std::uint32_t direct_io_allow_mmap = std::uint32_t{1} << (36 - 32);

ssize_t read_hook(int fd, void* buffer, std::size_t length, void* user_data) {
    return static_cast<FileSystem*>(user_data)->channel().read(fd, buffer, length);
}

ssize_t writev_hook(int fd, iovec* parts, int count, void* user_data) {
    return static_cast<FileSystem*>(user_data)->channel().write(fd, {parts, static_cast<std::size_t>(count)});
}

}  // namespace

void Channel::attach(fuse_session* session, int fd) {
    constexpr fuse_custom_io io = {
        .writev = writev_hook, .read = read_hook, .splice_receive = nullptr, .splice_send = nullptr};
    const int error = fuse_session_custom_io(session, &io, fd);
    if (error != 0) sys::fail(error < 0 ? -error : error, "fuse_session_custom_io");
}

ssize_t Channel::read(int fd, void* buffer, std::size_t length) {
    const ssize_t n = ::read(fd, buffer, length);
    if (n == 0) {  // the other end of a test's socket is closed: what the device calls ENODEV
        errno = ENODEV;
        return -1;
    }
    fuse_in_header header{};
    if (n >= static_cast<ssize_t>(sizeof header)) {
        std::memcpy(&header, buffer, sizeof header);
        if (header.opcode == FUSE_INIT) note_init({static_cast<const std::byte*>(buffer), static_cast<std::size_t>(n)});
    }
    return n;
}

void Channel::note_init(std::span<const std::byte> request) {
    fuse_in_header header{};
    fuse_init_in init{};
    std::memcpy(&header, request.data(), sizeof header);
    const auto body = request.subspan(sizeof header);
    std::memcpy(&init, body.data(), std::min(body.size(), sizeof init));
    state_.keep_init(request);
    maps_direct_files_ =
        !cached_opens_ && (init.flags & FUSE_INIT_EXT) != 0 && (init.flags2 & direct_io_allow_mmap) != 0;
    init_unique_ = header.unique;
}

ssize_t Channel::write(int fd, std::span<const iovec> parts) {
    fuse_out_header header{};
    std::memcpy(&header, parts[0].iov_base, sizeof header);
    const bool answers_init = header.unique != 0 && header.unique == init_unique_ && header.error == 0 &&
                              parts.size() == 2 && parts[1].iov_len == sizeof(fuse_init_out);
    if (!answers_init || !maps_direct_files_) return ::writev(fd, parts.data(), static_cast<int>(parts.size()));

    fuse_init_out init{};
    std::memcpy(&init, parts[1].iov_base, sizeof init);
    init.flags |= FUSE_INIT_EXT;
    init.flags2 |= direct_io_allow_mmap;
    const std::array<iovec, 2> changed = {parts[0], iovec{.iov_base = &init, .iov_len = sizeof init}};
    return ::writev(fd, changed.data(), static_cast<int>(changed.size()));
}

}  // namespace nosigbus
