// How long a view of a descriptor lasts: as long as somebody has it, whatever becomes of the descriptor, of its
// process, and of the server.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/statvfs.h>

#include <array>
#include <csignal>
#include <cstring>
#include <functional>
#include <vector>

#include "tests/mount/counters.h"
#include "tests/mount/fd_views.h"
#include "tests/mount/footprint.h"
#include "tests/mount/limit.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t length = MiB;

// SCM_RIGHTS: see unix(7).
void send_descriptors(int socket, const std::vector<int>& descriptors) {
    alignas(cmsghdr) std::array<char, 256> control{};
    char byte = 'x';
    iovec data{&byte, 1};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size() * sizeof(int));
    must(::sendmsg(socket, &message, 0), "sendmsg");
}

std::vector<UniqueFd> receive_descriptors(int socket, std::size_t count) {
    alignas(cmsghdr) std::array<char, 256> control{};
    char byte = 0;
    iovec data{&byte, 1};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    must(::recvmsg(socket, &message, MSG_CMSG_CLOEXEC), "recvmsg");
    const cmsghdr* const header = CMSG_FIRSTHDR(&message);
    REQUIRE(header != nullptr);
    REQUIRE(header->cmsg_len == CMSG_LEN(count * sizeof(int)));
    std::vector<int> numbers(count);
    std::memcpy(numbers.data(), CMSG_DATA(header), count * sizeof(int));
    return {numbers.begin(), numbers.end()};
}

// A file without a name, and views of it with each right; their pages are not in memory until they are asked for.
struct Held {
    Held(const Directories& directories, UniqueFd backing)
        : mount(directories),
          file(std::move(backing)),
          reader(fd_view(mount, same_file(file.get(), O_RDONLY).get())),
          writer(fd_view(mount, file.get(), O_RDWR)),
          mapping(reader.get(), length),
          stores(writer.get(), length, PROT_READ | PROT_WRITE) {
        REQUIRE(::madvise(mapping.data(), length, MADV_RANDOM) == 0);
        REQUIRE(::madvise(stores.data(), length, MADV_RANDOM) == 0);
    }

    // All of it still holds; each time with other bytes.
    void check() {
        ++round;
        CAPTURE(round);
        ::posix_fadvise(reader.get(), 0, 0, POSIX_FADV_DONTNEED);
        CHECK(difference(mapping.bytes(), padded(read_all(file.get()), length)) == "");
        write_at(writer.get(), 100, pattern(0, 50, round));
        CHECK(read_all(file.get()).substr(100, 50) == pattern(0, 50, round));
        REQUIRE(stores.store(2 * page, pattern(0, 30, round)) == 30);
        REQUIRE(stores.sync() == 0);
        CHECK(read_all(file.get()).substr(2 * page, 30) == pattern(0, 30, round));
        const Mapping raw(file.get(), page, PROT_READ | PROT_WRITE);
        REQUIRE(raw.store(300, pattern(0, 30, round + 7)) == 30);
        REQUIRE(::fsync(reader.get()) == 0);
        CHECK(mapping.bytes(300, 30) == pattern(0, 30, round + 7));
        CHECK(mapping.bytes(2 * page, 30) == pattern(0, 30, round));
        resize(file.get(), 3 * page);
        CHECK(eventually([&] { return mapping.bytes(3 * page, page) == std::string(page, '\0'); }));
        write_at(file.get(), 3 * page, pattern(3 * page, 5 * page, round));
        REQUIRE(sync_range(reader.get(), 0, 0) == "0");
        CHECK(difference(mapping.bytes(), padded(read_all(file.get()), length)) == "");
        CHECK(sizes_of(reader.get()).real_size == 8 * page);
        CHECK(opened(fmt::format("/proc/self/fd/{}", reader.get()), O_RDONLY) == "0");
        CHECK(opened(fmt::format("/proc/self/fd/{}", reader.get()), O_RDWR) == "EACCES");
        CHECK(shows(fd_view(mount, file.get()).get(), read_all(file.get())));
    }

    const Directories& mount;
    UniqueFd file;
    UniqueFd reader;
    UniqueFd writer;
    Mapping mapping;
    Mapping stores;
    unsigned round = 0;
};

std::vector<Held> hold_all(const Directories& mount, const Ext4& ext4) {
    std::vector<Held> all;
    all.reserve(3);
    all.emplace_back(mount, memfd(pattern(0, 8 * page)));
    all.emplace_back(mount, tmpfile(mount.plain(), pattern(0, 8 * page)));
    all.emplace_back(mount, unlinked_file(ext4.path(), pattern(0, 8 * page)));
    return all;
}

}  // namespace

TEST_SUITE_BEGIN("fd-views");

TEST_CASE("a view goes on when its descriptor is closed, or is another file's") {
    const ViewMount mount({"max_size=1M"});
    UniqueFd file = memfd(pattern(0, 3 * page));
    const int number = file.get();
    const UniqueFd view = fd_view(mount, number);
    const Mapping mapping(view.get(), length);
    CHECK(mapping.byte(0) == static_cast<unsigned char>(pattern(0, 1)[0]));
    must(::dup2(memfd("another").get(), number), "dup2");
    CHECK(read_all(fd_name(mount, number)) == "another");
    CHECK(shows(view.get(), pattern(0, 3 * page)));
    file.reset();
    CHECK(opened(fd_name(mount, number), O_RDONLY) == "ENOENT");
    CHECK(answer(::access(fd_name(mount, number).c_str(), F_OK)) == "ENOENT");
    CHECK(shows(view.get(), pattern(0, 3 * page)));
    CHECK(mapping.bytes() == padded(pattern(0, 3 * page), length));
    CHECK(opened(fmt::format("/proc/self/fd/{}", view.get()), O_RDONLY) == "0");
}

TEST_CASE("a view that was passed on goes on when the process that opened it has died") {
    const ViewMount mount({"max_size=1M"});
    int sockets[2] = {};
    must(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), "socketpair");
    const UniqueFd ours(sockets[0]);
    const UniqueFd theirs(sockets[1]);
    CHECK(as_user(nobody, [&] {
              const UniqueFd file = memfd(pattern(0, 3 * page));
              const UniqueFd view = fd_view(mount, same_file(file.get(), O_RDONLY).get());
              send_descriptors(theirs.get(), {file.get(), view.get()});
              return std::string("sent");
          }) == "sent");
    const auto received = receive_descriptors(ours.get(), 2);
    const UniqueFd& file = received[0];
    const UniqueFd& view = received[1];
    const Mapping mapping(view.get(), length);
    CHECK(shows(view.get(), pattern(0, 3 * page)));
    resize(file.get(), page);
    CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, page), length); }));
    write_at(file.get(), page, "more");
    REQUIRE(::fsync(view.get()) == 0);
    CHECK(mapping.bytes(page, 4) == "more");
    // And it can be opened again by who has it, though the number is somebody else's now.
    CHECK(opened(fmt::format("/proc/self/fd/{}", view.get()), O_RDONLY) == "0");
    CHECK(opened(fmt::format("/proc/self/fd/{}", view.get()), O_RDWR) == "EACCES");
}

TEST_CASE("views of descriptors go on when the worker is killed, when the supervisor is, and after a reload") {
    ViewMount mount({"max_size=1M"});
    const Ext4 ext4(mount);
    auto all = hold_all(mount, ext4);
    const auto check_all = [&] {
        for (Held& held : all) held.check();
    };
    check_all();
    for (int i = 0; i < 3; ++i) {
        REQUIRE(kill_worker(mount.pid()) > 0);
        check_all();
    }
    mount.kill_supervisor();
    check_all();
    const auto reloads = counters(mount)["reloads"];
    const Run reloaded = run({daemon_program, "--reload", mount.mountpoint()});
    CHECK(reloaded.ending + ": " + reloaded.errors == "exit 0: ");
    CHECK(counters(mount)["reloads"] == reloads + 1);
    check_all();
    REQUIRE(kill_worker(mount.pid()) > 0);
    check_all();
}

TEST_CASE("where the server's descriptors end, who asks hears ENFILE, and whoever has a view notices nothing") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd file = memfd(pattern(0, 8 * page));
    const UniqueFd view = fd_view(mount, file.get());
    const Mapping mapping(view.get(), length);
    std::vector<UniqueFd> files;
    std::vector<UniqueFd> views;
    {
        const DaemonLimit limit(mount, RLIMIT_NOFILE, 300);
        std::string refused = "0";
        while (refused == "0" && views.size() < 300) {
            files.push_back(memfd("abc"));
            UniqueFd next(::open(fd_name(mount, files.back().get()).c_str(), O_RDONLY | O_CLOEXEC));
            if (!next) refused = answer(-1);
            views.push_back(std::move(next));
        }
        CHECK(refused == "ENFILE");
        CHECK(views.size() > 50);
        CHECK(mapping.bytes() == padded(pattern(0, 8 * page), length));
        write_at(file.get(), page, "changed");
        CHECK(answer(::fsync(view.get())) == "0");
        CHECK(mapping.bytes(page, 7) == "changed");
        REQUIRE(kill_worker(mount.pid()) > 0);
        resize(file.get(), page);
        CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, page), length); }));
    }
    // When some are closed there is room again.
    const int last = files.back().get();
    views.clear();
    CHECK(eventually([&] { return opened(fd_name(mount, last), O_RDONLY) == "0"; }));
}

TEST_CASE("a process that dies while it asks for views leaves nothing behind, and nobody else waits") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd file = memfd("abc");
    CHECK(shows(fd_view(mount, file.get()).get(), "abc"));
    const std::size_t descriptors = open_descriptors(mount.pid());
    for (int i = 0; i < 30; ++i) {
        const pid_t child = fork_process();
        if (child == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;) opened(fd_name(mount, file.get()), O_RDONLY);
        }
        for (int j = 0; j <= i; ++j) CHECK(read_all(fd_name(mount, file.get())) == "abc");
        ::kill(child, SIGKILL);
        CHECK(wait_for(child) == "killed by SIGKILL");
    }
    CHECK(eventually([&] { return open_descriptors(mount.pid()) <= descriptors + 8; }));
    CHECK(counters(mount).at("restarts") == 0);
}

TEST_CASE("a view that nobody has leaves no descriptor behind, and keeps no file alive") {
    const ViewMount mount({"max_size=1M"});
    const Ext4 ext4(mount);
    const auto free_blocks = [&] {
        struct statvfs system {};
        must(::statvfs(ext4.path().c_str(), &system), "statvfs");
        return system.f_bfree;
    };
    const auto free_before = free_blocks();
    const std::size_t descriptors = open_descriptors(mount.pid());
    const std::string content = pattern(0, 256 * KiB);
    std::vector<UniqueFd> files;
    for (int i = 0; i < 20; ++i) files.push_back(i % 2 == 0 ? memfd(content) : unlinked_file(ext4.path(), content));
    std::function<void(int file)> use;
    SUBCASE("it was opened and closed") {
        use = [&](int file) { CHECK(shows(fd_view(mount, file).get(), content)); };
    }
    SUBCASE("it was looked at") {
        use = [&](int file) { CHECK(size_of(fd_name(mount, file)) == MiB); };
    }
    SUBCASE("it was opened by a process that was killed") {
        use = [&](int file) {
            CHECK(as_user(nobody, [&] {
                      const UniqueFd view = fd_view(mount, file);
                      ::raise(SIGKILL);
                      return std::string();
                  }) == "killed by SIGKILL: ");
        };
    }
    for (const UniqueFd& file : files) use(file.get());
    files.clear();
    // Without anybody who asks the kernel to forget: the files' memory and blocks are their owners'.
    CHECK(eventually([&] { return open_descriptors(mount.pid()) <= descriptors; }));
    CHECK(eventually([&] { return free_blocks() >= free_before; }));
}

TEST_SUITE_END();
