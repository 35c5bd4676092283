// Files that the kernel maps in a view's place, by the numbers that OPEN replies know them by
// (FUSE_DEV_IOC_BACKING_OPEN, Linux 6.9). They belong to the connection: a later worker may use them.
#pragma once

#include <cstdint>

namespace nosigbus {

// The requests to ioctl(2), for who filters them.
extern const std::uint64_t backing_open_request;
extern const std::uint64_t backing_close_request;

using BackingId = std::int32_t;  // from 1 on

// Gives the kernel `fd`, which may be closed then. `device` is /dev/fuse. Throws std::system_error: EPERM without
// CAP_SYS_ADMIN, ENOTTY where the kernel knows nothing of it.
BackingId add_backing(int device, int fd);

// What is open by it stays open.
void remove_backing(int device, BackingId id) noexcept;

// A new one of `fd`, see add_backing. Removes it unless it was released.
class Backing {
  public:
    Backing(int device, int fd) : device_(device), id_(add_backing(device, fd)) {}
    Backing(const Backing&) = delete;
    Backing& operator=(const Backing&) = delete;
    ~Backing() {
        if (id_ > 0) remove_backing(device_, id_);
    }

    [[nodiscard]] BackingId id() const { return id_; }
    void release() { id_ = 0; }

  private:
    const int device_;
    BackingId id_;
};

}  // namespace nosigbus
