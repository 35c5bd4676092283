// The device the requests come from and the replies go to, with what libfuse does not say in its INIT reply, and
// what it does not know of: that it is not the first to serve this connection.
#pragma once

#include <fuse_lowlevel.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>

#include "fs/kept_requests.h"
#include "lib/options.h"
#include "lib/shared_state.h"
#include "lib/unanswered.h"

namespace nosigbus {

class FileSystem;

class Channel {
  public:
    // Of `options`, those that make do without something the kernel could: cached_opens, keep_requests.
    Channel(SharedState& state, const Options& options) : state_(state), options_(options), kept_(state) {}

    // Makes `session`, whose user data is `fs`, read and write `fd` through that one's channel. `fd` is /dev/fuse, or a
    // SOCK_SEQPACKET socket where a test plays the kernel; the session closes it. Throws std::system_error.
    static void attach(fuse_session* session, FileSystem& fs, int fd);

    // Where another worker has served before: hands `session` the INIT request of then, and has the kernel ask again
    // for what was not answered. Before requests are read. `unanswered` is told of each before its handler is, and of
    // the last. `are_former_gone`: nobody else may still read requests. Throws std::bad_alloc.
    void resume(fuse_session* session, Unanswered& unanswered, bool are_former_gone);

    // Whether a file opened for direct I/O can be mapped shared (FUSE_DIRECT_IO_ALLOW_MMAP, Linux 6.6): then read(2)
    // asks us and ends where the file does. Known once INIT has been answered.
    [[nodiscard]] bool maps_direct_files() const { return maps_direct_files_; }

    // Whether the kernel can map another file in a view's place (FUSE_PASSTHROUGH, Linux 6.9).
    [[nodiscard]] bool passes_through() const { return passes_through_; }

    // Whether the kernel does not ask again for what a worker had read when it died (FUSE_HAS_RESEND, Linux 6.9).
    [[nodiscard]] bool keeps_requests() const { return keeps_requests_; }
    [[nodiscard]] const KeptRequests& kept() const { return kept_; }

    // What this kernel lacks and what that means, in one line; empty where it lacks nothing. Known as the above.
    [[nodiscard]] std::string missing_features() const;

    ssize_t read(int fd, void* buffer, std::size_t length);
    ssize_t write(int fd, std::span<const iovec> parts);

  private:
    void note_init(std::span<const std::byte> request);
    void offer_what_was_accepted(std::span<std::byte> request) const;
    static void ask_again(int fd);
    ssize_t read_asked_again(int fd, void* buffer, std::size_t length, Unanswered& unanswered);
    std::size_t read_kept(int fd, std::span<std::byte> buffer, Unanswered& unanswered);
    ssize_t write_init(int fd, std::span<const iovec> parts);

    SharedState& state_;
    const Options& options_;
    KeptRequests kept_;
    std::atomic<std::uint64_t> init_unique_{0};
    bool is_resuming_ = false;  // the reply to INIT was given long ago
    std::atomic<bool> maps_direct_files_{false};
    std::atomic<bool> passes_through_{false};
    std::atomic<bool> keeps_requests_{false};
    std::atomic<std::uint64_t> accepted_besides_{0};  // what libfuse 3.14 does not know and we do
    // While the kernel asks again: one thread reads at a time, so that the first new request comes after the last old
    // one.
    std::atomic<Unanswered*> unanswered_{nullptr};
    std::mutex asking_again_;
};

}  // namespace nosigbus
