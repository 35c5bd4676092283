// What a service manager hears of us: sd_notify(3).
#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// A socket that NOTIFY_SOCKET names while this lives.
class Manager {
  public:
    Manager() : socket_(must(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket")) {
        const std::string path = directories_.root() + "/notify";
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(static_cast<char*>(address.sun_path), sizeof address.sun_path - 1);
        must(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind");
        ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
        ::setenv("WATCHDOG_USEC", "400000", 1);
    }
    Manager(const Manager&) = delete;
    Manager& operator=(const Manager&) = delete;
    ~Manager() {
        ::unsetenv("NOTIFY_SOCKET");
        ::unsetenv("WATCHDOG_USEC");
    }

    // Whether a message with this line comes, now or soon. Forgets those before it.
    bool hears(const std::string& line) {
        return eventually([&] {
            for (;;) {
                std::array<char, 1024> message{};
                const ssize_t length = ::recv(socket_.get(), message.data(), message.size(), 0);
                if (length < 0) return false;
                const std::string text = "\n" + std::string(message.data(), static_cast<std::size_t>(length)) + "\n";
                if (text.find("\n" + line) != std::string::npos) return true;
            }
        });
    }

  private:
    const Directories directories_;
    UniqueFd socket_;
};

}  // namespace

TEST_SUITE_BEGIN("notify");

TEST_CASE("a service manager hears that the mount answers, lives, is reloaded and ends") {
    Manager manager;
    ViewMount mount;
    CHECK(manager.hears("READY=1"));
    for (int i = 0; i < 3; ++i) CHECK(manager.hears("WATCHDOG=1"));
    SUBCASE("SIGTERM") {
        ::kill(mount.pid(), SIGTERM);
        CHECK(manager.hears("STOPPING=1"));
    }
    SUBCASE("a reload") {
        ::kill(mount.pid(), SIGHUP);
        CHECK(manager.hears("RELOADING=1"));
        CHECK(manager.hears("READY=1"));
        CHECK(counters(mount)["reloads"] == 1);
        CHECK(manager.hears("WATCHDOG=1"));
    }
    SUBCASE("a worker that dies is no news") {
        CHECK(kill_worker(mount.pid()) > 0);
        CHECK(counters(mount)["restarts"] == 1);
        CHECK(manager.hears("WATCHDOG=1"));
    }
}

TEST_CASE("a reload that fails ends, too, for the service manager") {
    Manager manager;
    const Directories elsewhere;
    const std::string program = elsewhere.plain() + "/nosigbus";
    std::filesystem::copy_file(daemon_program, program);
    ViewMount mount({}, program);
    CHECK(manager.hears("READY=1"));
    std::filesystem::remove(program);
    ::kill(mount.pid(), SIGHUP);
    CHECK(manager.hears("RELOADING=1"));
    CHECK(manager.hears("READY=1"));
    CHECK(counters(mount)["failed_reloads"] == 1);
}

TEST_CASE("a worker that does not live is not reported to live") {
    Manager manager;
    ViewMount mount;
    CHECK(manager.hears("READY=1"));
    ::kill(worker_of(mount.pid()), SIGSTOP);
    // Its supervisor replaces it, and then it does again.
    CHECK(eventually([&] { return counters(mount)["restarts"] == 1; }));
    CHECK(manager.hears("WATCHDOG=1"));
}

TEST_SUITE_END();
