#include "fs/backing_ids.h"

#include <sys/ioctl.h>

#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// linux/fuse.h of Linux 6.9; Debian 12 has that of 6.1.
struct BackingMap {
    std::int32_t fd;
    std::uint32_t flags;
    std::uint64_t padding;
};
constexpr auto backing_open = _IOW(229, 1, BackingMap);
constexpr auto backing_close = _IOW(229, 2, std::uint32_t);

}  // namespace

const std::uint64_t backing_open_request = backing_open;
const std::uint64_t backing_close_request = backing_close;

BackingId add_backing(int device, int fd) {
    const BackingMap map{.fd = fd, .flags = 0, .padding = 0};
    return sys::check(::ioctl(device, backing_open, &map), "FUSE_DEV_IOC_BACKING_OPEN");
}

void remove_backing(int device, BackingId id) noexcept {
    const auto number = static_cast<std::uint32_t>(id);
    ::ioctl(device, backing_close, &number);
}

}  // namespace nosigbus
