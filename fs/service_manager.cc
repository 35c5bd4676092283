#include "fs/service_manager.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace nosigbus {
namespace {

std::string_view variable(const char* name) noexcept {
    const char* const value = std::getenv(name);
    return value == nullptr ? std::string_view() : value;
}

// Digits and nothing else, or nothing.
std::optional<std::uint64_t> number(std::string_view digits) noexcept {
    std::uint64_t value = 0;
    const char* const end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, value);
    if (error != std::errc() || stop != end) return std::nullopt;
    return value;
}

// The length of `address` for the socket called `name`; 0 where there can be none.
socklen_t resolve(std::string_view name, sockaddr_un& address) noexcept {
    // The abstract ones have neither a slash nor a zero at the end.
    const bool abstract = name.starts_with('@');
    const std::size_t length = name.size() + (abstract ? 0 : 1);
    if ((!abstract && !name.starts_with('/')) || name.size() < 2 || length > sizeof address.sun_path) return 0;
    address.sun_family = AF_UNIX;
    std::copy(name.begin(), name.end(), std::begin(address.sun_path));
    if (abstract) address.sun_path[0] = '\0';
    return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
}

// Half of the time after which the manager gives us up, as sd_watchdog_enabled(3) recommends.
std::optional<std::chrono::milliseconds> interval_wanted() noexcept {
    const auto given = number(variable("WATCHDOG_USEC"));
    if (!given || *given == 0) return std::nullopt;
    // A child of whom it is wanted inherits the variables, too.
    if (std::getenv("WATCHDOG_PID") != nullptr &&
        number(variable("WATCHDOG_PID")) != static_cast<std::uint64_t>(::getpid()))
        return std::nullopt;
    return std::chrono::milliseconds(std::max<std::uint64_t>(*given / 2000, 1));
}

// The longest is READY=1 with a status.
class Message {
  public:
    [[nodiscard]] std::string_view text() const noexcept { return {bytes_.data(), length_}; }

    Message& add(std::string_view text) noexcept {
        text = text.substr(0, bytes_.size() - length_);
        std::copy(text.begin(), text.end(), end());
        length_ += text.size();
        return *this;
    }

    Message& add(std::uint64_t value) noexcept {
        const auto [stop, error] = std::to_chars(end(), bytes_.data() + bytes_.size(), value);
        if (error == std::errc()) length_ = static_cast<std::size_t>(stop - bytes_.data());
        return *this;
    }

    Message& add_status(const char* text) noexcept {
        add("STATUS=");
        char* const start = end();
        add(within_limit({text, ::strnlen(text, ServiceManager::status_at_most + 1)}));
        // A newline above all: what follows would be taken for another message.
        std::replace_if(
            start, end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
        return *this;
    }

  private:
    [[nodiscard]] char* end() noexcept { return bytes_.data() + length_; }

    // Not cut within a character: a status that is not UTF-8 is ignored whole.
    static std::string_view within_limit(std::string_view text) noexcept {
        std::size_t length = std::min(text.size(), ServiceManager::status_at_most);
        const auto continues = [&](std::size_t at) { return (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80; };
        while (length > 0 && length < text.size() && continues(length)) --length;
        return text.substr(0, length);
    }

    std::array<char, ServiceManager::status_at_most + 64> bytes_;
    std::size_t length_ = 0;
};

}  // namespace

ServiceManager::ServiceManager() noexcept : address_length_(resolve(variable("NOTIFY_SOCKET"), address_)) {
    if (address_length_ == 0) return;
    socket_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (socket_) alive_interval_ = interval_wanted();
}

void ServiceManager::send(std::string_view message) const noexcept {
    if (!socket_) return;
    // Never connected, so that a manager who was executed anew at the same address hears us. It is said here what
    // happens when he does not: nothing.
    [[maybe_unused]] const ssize_t sent = ::sendto(socket_.get(), message.data(), message.size(), MSG_NOSIGNAL,
                                                   reinterpret_cast<const sockaddr*>(&address_), address_length_);
}

void ServiceManager::ready(const char* text) const noexcept {
    send(Message().add("READY=1\n").add_status(text).text());
}

void ServiceManager::status(const char* text) const noexcept {
    send(Message().add_status(text).text());
}

void ServiceManager::reloading() const noexcept {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    const auto microseconds =
        static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 + static_cast<std::uint64_t>(now.tv_nsec) / 1'000;
    send(Message().add("RELOADING=1\nMONOTONIC_USEC=").add(microseconds).text());
}

void ServiceManager::stopping() const noexcept {
    send("STOPPING=1");
}

void ServiceManager::main_process(pid_t pid) const noexcept {
    send(Message().add("MAINPID=").add(static_cast<std::uint64_t>(pid)).text());
}

void ServiceManager::alive() const noexcept {
    send("WATCHDOG=1");
}

}  // namespace nosigbus
