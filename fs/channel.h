// The device the requests come from and the replies go to, with what libfuse 3.14 cannot say in its INIT reply.
#pragma once

#include <fuse_lowlevel.h>

#include <atomic>
#include <cstdint>
#include <span>

#include "lib/shared_state.h"

namespace nosigbus {

class Channel {
  public:
    // `cached_opens`: as if the kernel could not map files opened for direct I/O.
    Channel(SharedState& state, bool cached_opens) : state_(state), cached_opens_(cached_opens) {}

    // Makes `session`, whose user data is the FileSystem that owns this channel, read and write `fd` through it. `fd`
    // is /dev/fuse, or a SOCK_SEQPACKET socket where a test plays the kernel; the session closes it. Throws
    // std::system_error.
    static void attach(fuse_session* session, int fd);

    // Whether a file opened for direct I/O can be mapped shared (FUSE_DIRECT_IO_ALLOW_MMAP, Linux 6.6): then read(2)
    // asks us and ends where the file does. Known once INIT has been answered.
    [[nodiscard]] bool maps_direct_files() const { return maps_direct_files_; }

    ssize_t read(int fd, void* buffer, std::size_t length);
    ssize_t write(int fd, std::span<const iovec> parts);

  private:
    void note_init(std::span<const std::byte> request);

    SharedState& state_;
    const bool cached_opens_;
    std::atomic<std::uint64_t> init_unique_{0};
    std::atomic<bool> maps_direct_files_{false};
};

}  // namespace nosigbus
