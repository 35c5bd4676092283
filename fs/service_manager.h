// Tells the service manager that started us, systemd say, how we are: the protocol of sd_notify(3), which is a datagram
// of NAME=VALUE lines to the socket that NOTIFY_SOCKET names. Without that variable all of it does nothing.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include <chrono>
#include <cstddef>
#include <optional>
#include <string_view>

#include "lib/unique_fd.h"

namespace nosigbus {

// What sends never throws, waits or allocates: a message that cannot be sent is lost. Any thread may send.
class ServiceManager {
  public:
    // Of a longer status, so many bytes are sent.
    static constexpr std::size_t status_at_most = 256;

    // Reads the environment, and leaves it as it is: who takes our place by execve(2) has the same manager, and the
    // same pid, so that WATCHDOG_PID stays right.
    ServiceManager() noexcept;

    // `text` is shown to people: one line of UTF-8. Control characters in it become spaces.
    void ready(const char* text) const noexcept;
    void status(const char* text) const noexcept;

    // Stays true until the next ready, which has to come even where the new configuration was no good.
    void reloading() const noexcept;
    void stopping() const noexcept;

    // Who is watched and gets the signals from now on.
    void main_process(pid_t pid) const noexcept;

    // To be sent every alive_interval, or we are taken to hang; empty where nobody wants to know.
    void alive() const noexcept;
    [[nodiscard]] std::optional<std::chrono::milliseconds> alive_interval() const noexcept { return alive_interval_; }

    // The socket that is sent from, for who closes what nobody names; -1 where there is no manager.
    [[nodiscard]] int descriptor() const noexcept { return socket_.get(); }

  private:
    void send(std::string_view message) const noexcept;

    sockaddr_un address_{};
    socklen_t address_length_ = 0;
    UniqueFd socket_;
    std::optional<std::chrono::milliseconds> alive_interval_;
};

}  // namespace nosigbus
