// A FUSE file system whose server is an enemy: it has one file, and does not answer what it does not want to.
#pragma once

#include <linux/fuse.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>

#include "lib/unique_fd.h"

namespace nosigbus::test {

class SilentServer {
  public:
    static constexpr std::size_t file_size = std::size_t{1} << 20U;

    // Mounts at `mountpoint`. The server is a thread of ours, which answers everything until it is told otherwise.
    explicit SilentServer(std::string mountpoint);
    SilentServer(const SilentServer&) = delete;
    SilentServer& operator=(const SilentServer&) = delete;
    // Aborts the connection: whoever waits for an answer hears an error.
    ~SilentServer();

    [[nodiscard]] std::string file() const { return mountpoint_ + "/file"; }

    // From now on requests of this kind, such as FUSE_READ, are taken and never answered.
    void ignore(std::uint32_t opcode) { ignored_ = opcode; }
    // How many were.
    [[nodiscard]] unsigned ignored() const { return ignored_requests_; }

    // For a child that was forked: closes its copy of the server's end, which would outlive us.
    void leave() { device_.reset(); }
    // Before the destructor does.
    void abort();

  private:
    void serve();
    void answer(const fuse_in_header& request, const std::byte* argument);

    std::string mountpoint_;
    UniqueFd device_;
    unsigned connection_ = 0;
    std::atomic<std::uint32_t> ignored_ = 0;
    std::atomic<unsigned> ignored_requests_ = 0;
    std::jthread thread_;
};

}  // namespace nosigbus::test
