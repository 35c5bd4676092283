#include "fs/service_manager.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

using Variables = std::vector<std::pair<const char*, std::string>>;

// What a service is told by its manager, and afterwards what was there before.
class Environment {
  public:
    explicit Environment(const Variables& variables) {
        for (const char* const name : names) {
            const char* const value = ::getenv(name);
            before_.push_back(value == nullptr ? std::nullopt : std::optional<std::string>(value));
            ::unsetenv(name);
        }
        for (const auto& [name, value] : variables) ::setenv(name, value.c_str(), 1);
    }
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;
    ~Environment() {
        for (std::size_t i = 0; i < names.size(); ++i) {
            if (before_[i])
                ::setenv(names[i], before_[i]->c_str(), 1);
            else
                ::unsetenv(names[i]);
        }
    }

  private:
    static constexpr std::array names = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};
    std::vector<std::optional<std::string>> before_;
};

// The manager's end: a datagram socket of this name, a path or with '@' for an abstract one.
class Manager {
  public:
    explicit Manager(const std::string& name)
        : socket_(sys::check(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket")) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        const bool abstract = name[0] == '@';
        const std::size_t length = name.size() + (abstract ? 0 : 1);
        REQUIRE(length <= sizeof address.sun_path);
        std::memcpy(address.sun_path, name.data(), name.size());
        if (abstract) address.sun_path[0] = '\0';
        sys::check(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address),
                          static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length)),
                   "bind");
    }

    // The next message; a datagram to a local socket is there when it has been sent.
    std::optional<std::string> heard() {
        std::array<char, 4096> buffer;
        const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (n < 0) return std::nullopt;
        return std::string(buffer.data(), static_cast<std::size_t>(n));
    }

  private:
    UniqueFd socket_;
};

// A manager in a directory, and a service of his.
struct House {
    TemporaryDirectory directory;
    std::string path = directory.file("notify");
    Manager manager{path};
    Environment environment{Variables{{"NOTIFY_SOCKET", path}}};
    ServiceManager service;
};

std::uint64_t microseconds_now() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 + static_cast<std::uint64_t>(now.tv_nsec) / 1'000;
}

void say_everything(const ServiceManager& service) {
    service.ready("serving");
    service.status("serving");
    service.reloading();
    service.stopping();
    service.main_process(1);
    service.alive();
}

// The watchdog's interval where the manager says this of it.
std::optional<std::chrono::milliseconds> interval(const std::string& usec, const std::optional<std::string>& pid = {}) {
    Variables variables = {{"NOTIFY_SOCKET", "/nowhere/notify"}, {"WATCHDOG_USEC", usec}};
    if (pid) variables.emplace_back("WATCHDOG_PID", *pid);
    const Environment environment(variables);
    return ServiceManager().alive_interval();
}

}  // namespace

TEST_CASE("each message to the service manager is one datagram of the protocol's text") {
    House house;
    house.service.ready("serving /dev/shm");
    CHECK(house.manager.heard() == "READY=1\nSTATUS=serving /dev/shm");
    house.service.status("12 views open");
    CHECK(house.manager.heard() == "STATUS=12 views open");
    house.service.status("");
    CHECK(house.manager.heard() == "STATUS=");
    house.service.stopping();
    CHECK(house.manager.heard() == "STOPPING=1");
    house.service.alive();
    CHECK(house.manager.heard() == "WATCHDOG=1");
    house.service.main_process(4711);
    CHECK(house.manager.heard() == "MAINPID=4711");

    const std::uint64_t before = microseconds_now();
    house.service.reloading();
    const std::uint64_t after = microseconds_now();
    const std::string reloading = house.manager.heard().value_or("");
    const std::string start = "RELOADING=1\nMONOTONIC_USEC=";
    REQUIRE(reloading.starts_with(start));
    const std::uint64_t said = std::stoull(reloading.substr(start.size()));
    CHECK(reloading == start + std::to_string(said));
    CHECK(before <= said);
    CHECK(said <= after);
    CHECK(!house.manager.heard());
}

TEST_CASE("a service manager listens at an abstract address, too") {
    const std::string name = "@nosigbus-test-" + std::to_string(::getpid());
    Manager manager(name);
    const Environment environment(Variables{{"NOTIFY_SOCKET", name}});
    const ServiceManager service;
    service.ready("serving");
    CHECK(manager.heard() == "READY=1\nSTATUS=serving");
}

TEST_CASE("the longest addresses there can be are heard at") {
    TemporaryDirectory directory;
    REQUIRE(directory.path().size() < 100);
    const std::string path = directory.file(std::string(107 - directory.path().size() - 1, 'n'));
    const std::string name =
        '@' + std::to_string(::getpid()) + std::string(107 - std::to_string(::getpid()).size(), 'n');
    for (const std::string& address : {path, name}) {
        CAPTURE(address);
        Manager manager(address);
        const Environment environment(Variables{{"NOTIFY_SOCKET", address}});
        const ServiceManager service;
        service.alive();
        CHECK(manager.heard() == "WATCHDOG=1");
    }
}

TEST_CASE("without the address of a service manager nothing is done") {
    std::vector<Variables> environments = {{}};
    for (const std::string& address :
         {std::string(), std::string("/"), std::string("@"), std::string("notify"), std::string("vsock:2:1234"),
          std::string("/").append(107, 'n'), std::string("@").append(108, 'n'), std::string("/").append(5000, 'n')})
        environments.push_back({{"NOTIFY_SOCKET", address}});
    for (auto& variables : environments) {
        CAPTURE(variables.empty() ? "unset" : variables[0].second);
        variables.emplace_back("WATCHDOG_USEC", "30000000");
        const Environment environment(variables);
        const ServiceManager service;
        CHECK(service.descriptor() == -1);
        CHECK(!service.alive_interval());
        say_everything(service);
    }
}

TEST_CASE("the service manager is to hear from us twice in the time of its watchdog") {
    using std::chrono::milliseconds;
    CHECK(interval("30000000") == milliseconds(15'000));
    CHECK(interval("3000") == milliseconds(1));
    CHECK(interval("1") == milliseconds(1));
    CHECK(interval("18446744073709551615") == milliseconds(9'223'372'036'854'775));
    for (const char* const malformed : {"", "0", "-1", "30s", " 30", "3e7", "0x10", "18446744073709551616"}) {
        CAPTURE(std::string(malformed));
        CHECK(!interval(malformed));
    }
    const Environment environment(Variables{{"NOTIFY_SOCKET", "/nowhere/notify"}});
    CHECK(!ServiceManager().alive_interval());
}

TEST_CASE("a watchdog that waits for another process is none of ours") {
    const std::string own = std::to_string(::getpid());
    CHECK(interval("30000000", own));
    for (const std::string& other : {std::to_string(::getppid()), std::string(), own + ' ', own + '0', '+' + own}) {
        CAPTURE(other);
        CHECK(!interval("30000000", other));
    }
}

TEST_CASE("a status is one line, whatever is in it") {
    House house;
    house.service.status("a\nREADY=1\tb\x7f\x01 \u00fc");
    CHECK(house.manager.heard() == "STATUS=a READY=1 b   \u00fc");
    house.service.ready("\n");
    CHECK(house.manager.heard() == "READY=1\nSTATUS= ");
}

TEST_CASE("of a long status the beginning is sent, in whole characters") {
    constexpr std::size_t at_most = ServiceManager::status_at_most;
    House house;
    house.service.status(std::string(at_most, 'x').c_str());
    CHECK(house.manager.heard() == std::string("STATUS=").append(at_most, 'x'));
    for (const std::size_t length : {at_most + 1, 10 * at_most}) {
        house.service.ready(std::string(length, 'x').c_str());
        CHECK(house.manager.heard() == std::string("READY=1\nSTATUS=").append(at_most, 'x'));
    }
    // A character of four bytes, of which fewer and fewer fit.
    for (std::size_t before = at_most - 4; before <= at_most; ++before) {
        CAPTURE(before);
        house.service.status((std::string(before, 'x') + "\U0001f600" + "y").c_str());
        CHECK(house.manager.heard() ==
              std::string("STATUS=").append(before, 'x') + (before + 4 <= at_most ? "\U0001f600" : ""));
    }
    // Not UTF-8 at all, which the manager has to deal with.
    house.service.status(std::string(2 * at_most, '\x80').c_str());
    CHECK(house.manager.heard() == "STATUS=");
}

TEST_CASE("a service manager that is gone is not missed, and heard when it is back") {
    TemporaryDirectory directory;
    const std::string path = directory.file("notify");
    const Environment environment(Variables{{"NOTIFY_SOCKET", path}});
    auto manager = std::make_unique<Manager>(path);
    const ServiceManager service;
    say_everything(service);
    CHECK(manager->heard());
    manager.reset();
    say_everything(service);  // nobody reads from the socket: SIGPIPE would end the test
    std::filesystem::remove(path);
    say_everything(service);
    manager = std::make_unique<Manager>(path);
    service.alive();
    CHECK(manager->heard() == "WATCHDOG=1");
    CHECK(!manager->heard());
}

TEST_CASE("a service manager that does not read is not waited for") {
    House house;
    for (int i = 0; i < 10'000; ++i) house.service.alive();
    CHECK(house.manager.heard() == "WATCHDOG=1");
}

TEST_CASE("the socket is not left to programs that are executed, the environment is") {
    House house;
    REQUIRE(house.service.descriptor() >= 0);
    CHECK((::fcntl(house.service.descriptor(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(::getenv("NOTIFY_SOCKET") == house.path);
}
