// A FUSE file system whose server is an enemy: it has a file of each number, and does not answer what it does not want
// to.
#pragma once

#include <linux/fuse.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lib/unique_fd.h"

namespace nosigbus::test {

class SilentServer {
  public:
    static constexpr std::size_t file_size = std::size_t{1} << 20U;

    // Mounts at `mountpoint`, which it makes. The server is a thread of ours, which answers everything until it is told
    // otherwise.
    explicit SilentServer(std::string mountpoint);
    SilentServer(const SilentServer&) = delete;
    SilentServer& operator=(const SilentServer&) = delete;
    // Aborts the connection: whoever waits for an answer hears an error.
    ~SilentServer();

    // All have the same content: pattern() of file_size bytes.
    [[nodiscard]] std::string file(unsigned number = 0) const;

    // From now on requests of this kind, such as FUSE_READ, are taken and not answered.
    void ignore(std::uint32_t opcode);
    // How many were.
    [[nodiscard]] unsigned ignored() const { return ignored_requests_; }
    // Answers them after all, and all that come.
    void go_on();

    // For a child that was forked: closes its copy of the server's end, which would outlive us.
    void leave() { device_.reset(); }
    // Before the destructor does.
    void abort();

  private:
    void serve();
    void answer(const std::vector<std::byte>& message);

    std::string mountpoint_;
    UniqueFd device_;
    unsigned connection_ = 0;
    std::mutex mutex_;
    std::uint32_t ignored_ = 0;
    std::vector<std::vector<std::byte>> unanswered_;
    std::atomic<unsigned> ignored_requests_ = 0;
    std::jthread thread_;
};

}  // namespace nosigbus::test
