#include "fs/libfuse.h"

#include <cerrno>

#include "lib/syscalls.h"

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)

#include <dlfcn.h>
#include <fmt/format.h>
#include <linux/fuse.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <memory>

namespace nosigbus::libfuse {
namespace {

struct Device {
    fuse_session* session;
    int fd;
    fuse_custom_io io;
    void* user_data;
};

// A process has one; a test has more.
std::array<std::atomic<const Device*>, 16> devices;

template <typename Is>
const Device* find_device(Is is) noexcept {
    for (const auto& place : devices) {
        const Device* const device = place.load(std::memory_order_acquire);
        if (device != nullptr && is(*device)) return device;
    }
    return nullptr;
}

}  // namespace
}  // namespace nosigbus::libfuse

// libfuse's answers and notifications come here, for it calls writev(2) by this name, and what a program defines comes
// before what its libraries do: ld.so(8). All else is passed on.
extern "C" __attribute__((visibility("default"))) ssize_t writev(int fd, const iovec* parts, int count) {
    using namespace nosigbus::libfuse;
    thread_local bool is_inside = false;  // who is called to write to the device does so by writev(2)
    const Device* const device = is_inside ? nullptr : find_device([fd](const Device& each) { return each.fd == fd; });
    if (device == nullptr) return ::syscall(SYS_writev, fd, parts, count);
    is_inside = true;
    const ssize_t n = device->io.writev(fd, const_cast<iovec*>(parts), count, device->user_data);
    is_inside = false;
    return n;
}

namespace nosigbus::libfuse {

void attach(fuse_session* session, int fd, const fuse_custom_io& io, void* user_data) {
    // Where it did not reach us, callers would wait for ever for what is not answered as they were promised.
    if (::dlsym(RTLD_DEFAULT, "writev") != reinterpret_cast<void*>(&::writev))
        sys::fail(ENOSYS, "writev is not what this program defines");
    auto device = std::make_unique<const Device>(Device{session, fd, io, user_data});
    const auto free = std::ranges::find_if(devices, [&](auto& place) {
        const Device* none = nullptr;
        return place.compare_exchange_strong(none, device.get());
    });
    if (free == devices.end()) sys::fail(EMFILE, "devices of libfuse");
    device.release();
    // Only takes note of the descriptor.
    if (fuse_session_mount(session, fmt::format("/dev/fd/{}", fd).c_str()) != 0) sys::fail(EBADF, "fuse_session_mount");
}

int receive(fuse_session* session, fuse_buf& buffer) {
    const Device* const device = find_device([session](const Device& each) { return each.session == session; });
    if (device == nullptr) return -EBADF;
    constexpr std::size_t size = largest_write + 4096;  // with its headers, as libfuse reckons
    if (buffer.mem == nullptr) buffer.mem = std::malloc(size);
    if (buffer.mem == nullptr) return -ENOMEM;
    for (;;) {
        const ssize_t n = device->io.read(device->fd, buffer.mem, size, device->user_data);
        if (n < 0 && errno == ENOENT) continue;  // who asked was interrupted
        if (n < 0 && errno == ENODEV) {
            fuse_session_exit(session);
            return 0;
        }
        if (n < 0) return -errno;
        if (static_cast<std::size_t>(n) < sizeof(fuse_in_header)) return -EIO;
        buffer.size = static_cast<std::size_t>(n);
        buffer.flags = static_cast<fuse_buf_flags>(0);
        return static_cast<int>(n);
    }
}

void destroy(fuse_session* session) {
    for (auto& place : devices) {
        const Device* const device = place.load(std::memory_order_acquire);
        if (device == nullptr || device->session != session) continue;
        place = nullptr;
        delete device;
    }
    fuse_session_destroy(session);
}

}  // namespace nosigbus::libfuse

#else

namespace nosigbus::libfuse {

// The session's own user data is what `io` is called with.
void attach(fuse_session* session, int fd, const fuse_custom_io& io, void* /*user_data*/) {
    const int error = fuse_session_custom_io(session, &io, fd);
    if (error != 0) sys::fail(error < 0 ? -error : error, "fuse_session_custom_io");
}

int receive(fuse_session* session, fuse_buf& buffer) {
    return fuse_session_receive_buf(session, &buffer);
}

void destroy(fuse_session* session) {
    fuse_session_destroy(session);
}

}  // namespace nosigbus::libfuse

#endif
