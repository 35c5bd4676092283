// The end of a mount: by umount and by signals, with and without readers that still hold a mapping.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/mount/daemon_usage.h"
#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t length = 64 * KiB;

// A reader that holds mappings while `end` takes the mount away. All goes on for it, and the daemon ends with the last
// mapping.
void check_reader_survives(ViewMount& mount, const std::function<void()>& end) {
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 10 * page));
    std::optional<UniqueFd> view = open_file(mount.view("file"), O_RDONLY);
    std::optional<Mapping> shared(std::in_place, view->get(), length);
    std::optional<Mapping> untouched(std::in_place, view->get(), MiB, PROT_READ, MAP_SHARED);
    std::optional<Mapping> copying(std::in_place, view->get(), length, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    CHECK(shared->byte(0) != fault);
    CHECK(copying->store(page, "mine") == 4);

    end();

    CHECK(eventually([&] { return !mounted_at(mount.mountpoint()); }));
    const std::string wanted = padded(pattern(0, 10 * page), length);
    CHECK(difference(shared->bytes(), wanted) == "");
    CHECK(difference(untouched->bytes(), padded(wanted, MiB)) == "");
    CHECK(difference(copying->bytes(2 * page, length - 2 * page), wanted.substr(2 * page)) == "");
    CHECK(copying->bytes(page, 4) == "mine");
    if (reads_end("what read(2) sees")) CHECK(difference(read_all(view->get()), pattern(0, 10 * page)) == "");
    // The promises still hold: changes show, by themselves and at the barrier.
    resize(backing.get(), page + 5);
    CHECK(eventually([&] { return shared->bytes() == padded(pattern(0, page + 5), length); }));
    CHECK(untouched->touch() == MiB / page);
    write_at(backing.get(), 0, pattern(0, 3 * page, 1));
    CHECK(answer(::fsync(view->get())) == "0");
    CHECK(difference(untouched->bytes(), padded(pattern(0, 3 * page, 1), MiB)) == "");
    view.reset();
    CHECK(difference(untouched->bytes(), padded(pattern(0, 3 * page, 1), MiB)) == "");
    shared.reset();
    copying.reset();
    resize(backing.get(), 1);
    CHECK(eventually([&] { return untouched->bytes() == padded(pattern(0, 1, 1), MiB); }));
    CHECK(mount.running());
    untouched.reset();
    CHECK(mount.wait() == "exit 0");
}

// All threads of a process: when nobody else has anything to do.
void give_only_idle_time(pid_t pid) {
    for (const auto& thread : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid))) {
        const sched_param none{};
        must(::sched_setscheduler(std::stoi(thread.path().filename().string()), SCHED_IDLE, &none),
             "sched_setscheduler");
    }
}

// Keeps all processors busy while it lives.
class Busy {
  public:
    Busy() {
        for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i)
            threads_.emplace_back([](const std::stop_token& over) {
                while (!over.stop_requested()) {
                }
            });
    }

  private:
    std::vector<std::jthread> threads_;
};

}  // namespace

TEST_SUITE_BEGIN("ending");

TEST_CASE("umount ends the daemon") {
    ViewMount mount;
    make_file(mount.raw("file"), "abc");
    CHECK(size_of(mount.view("file")) == GiB);
    CHECK(eventually([&] { return mount.unmount() == 0; }));
    CHECK(mount.wait() == "exit 0");
    CHECK(read_all(mount.raw("file")) == "abc");
}

TEST_CASE("umount is refused while a mapping is held, and nothing is lost by it") {
    ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 5000));
    {
        const Mapping mapping(open_file(mount.view("file"), O_RDONLY).get(), MiB);
        CHECK(mount.unmount() == EBUSY);
        CHECK(mapping.touch() == MiB / page);
        resize(backing.get(), 10);
        CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, 10), MiB); }));
        CHECK(mount.running());
    }
    CHECK(eventually([&] { return mount.unmount() == 0; }));
    CHECK(mount.wait() == "exit 0");
}

TEST_CASE("umount -l leaves a reader its mapping") {
    ViewMount mount({"max_size=1M"});
    check_reader_survives(mount, [&] { CHECK(run({"umount", "-l", mount.mountpoint()}).ending == "exit 0"); });
}

TEST_CASE("SIGTERM leaves a reader its mapping") {
    ViewMount mount({"max_size=1M"});
    check_reader_survives(mount, [&] { ::kill(mount.pid(), SIGTERM); });
}

TEST_CASE("SIGINT leaves a reader its mapping") {
    ViewMount mount({"max_size=1M"});
    check_reader_survives(mount, [&] { ::kill(mount.pid(), SIGINT); });
}

TEST_CASE("a second signal ends the daemon at once, and leaves a reader the pages it has in memory") {
    for (const int signal : {SIGTERM, SIGINT}) {
        CAPTURE(signal);
        ViewMount mount({"max_size=1M", "engine=cache"});
        make_file(mount.raw("file"), pattern(0, 10 * page));
        const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
        // Without readahead: only what is touched is in memory.
        const Mapping mapping(view.get(), MiB);
        CHECK(::madvise(mapping.data(), MiB, MADV_RANDOM) == 0);
        CHECK(mapping.bytes(0, 1) == pattern(0, 1));
        ::kill(mount.pid(), SIGTERM);
        CHECK(eventually([&] { return !mounted_at(mount.mountpoint()); }));
        CHECK(mapping.bytes(page, 1) == pattern(page, 1));
        ::kill(mount.pid(), signal);
        CHECK(mount.wait() == "exit 0");
        CHECK(mapping.bytes(0, 1) == pattern(0, 1));
        CHECK(mapping.bytes(page, 1) == pattern(page, 1));
        CHECK(mapping.byte(100 * page) == fault);
    }
}

TEST_CASE("a reader in another process keeps its mapping") {
    ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 5000));
    const UniqueFd ready = make_file(mount.plain() + "/ready");
    const std::string script = R"(import mmap, os, sys, time
view = open(sys.argv[1], 'rb')
mapping = mmap.mmap(view.fileno(), 1 << 20, prot=mmap.PROT_READ)
os.write(1, b'mapped')
while mapping[:] != bytes(1 << 20): time.sleep(0.001)
)";
    Process reader({"python3", "-c", script, mount.view("file")});
    REQUIRE(eventually([&] { return reader.output() == "mapped"; }));
    ::kill(mount.pid(), SIGTERM);
    CHECK(eventually([&] { return !mounted_at(mount.mountpoint()); }));
    CHECK(mount.running());
    CHECK(reader.running());
    resize(backing.get(), 0);
    CHECK(reader.wait() == "exit 0");
    CHECK(mount.wait() == "exit 0");
}

TEST_CASE("SIGTERM and SIGINT end a daemon that nobody uses") {
    for (const int signal : {SIGTERM, SIGINT}) {
        CAPTURE(signal);
        ViewMount mount;
        ::kill(mount.pid(), signal);
        CHECK(mount.wait() == "exit 0");
        CHECK_FALSE(mounted_at(mount.mountpoint()));
    }
}

TEST_CASE("SIGTERM ends a daemon that left its caller") {
    const Directories directories;
    REQUIRE(run_daemon({directories.source(), directories.mountpoint()}).ending == "exit 0");
    const auto daemons = children();
    REQUIRE(daemons.size() == 1);
    ::kill(daemons[0], SIGTERM);
    CHECK(wait_for_adopted() == "exit 0");
    CHECK(mounts_at(directories.mountpoint()) == 0);
}

TEST_CASE("signals that come while the daemon ends do it no harm") {
    // Nothing is asked of it by SIGCHLD, but a handler is called.
    for (int i = 0; i < 5; ++i) {
        ViewMount mount({"max_size=1M"});
        REQUIRE(eventually([&] { return mount.unmount() == 0; }));
        while (mount.running()) ::kill(mount.pid(), SIGCHLD);
        CHECK(mount.wait() == "exit 0");
    }
}

TEST_CASE("a worker that takes its time to end is not replaced") {
    ViewMount mount({"max_size=1M"});
    give_only_idle_time(worker_of(mount.pid()));
    {
        const Busy busy;
        REQUIRE(eventually([&] { return mount.unmount() == 0; }));
        CHECK(mount.wait() == "exit 0");
    }
    // Ours since then.
    CHECK(eventually([] { return ::waitpid(-1, nullptr, WNOHANG) < 0; }));
    CHECK(mount.errors().find(" goes on") == std::string::npos);
}

TEST_CASE("a store that a writer left behind reaches the file before the mount ends") {
    ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 5000));
    {
        const Mapping mapping(open_file(mount.view("file"), O_RDWR).get(), MiB, PROT_READ | PROT_WRITE);
        CHECK(mapping.store(100, "mine") == 4);
        SUBCASE("umount -l") {
            CHECK(mount.unmount(MNT_DETACH) == 0);
        }
        SUBCASE("SIGTERM") {
            ::kill(mount.pid(), SIGTERM);
        }
        SUBCASE("umount") {}
    }
    if (mounted_at(mount.mountpoint()) && mount.running())
        CHECK(eventually([&] { return mount.unmount() == 0 || !mount.running(); }));
    CHECK(mount.wait() == "exit 0");
    if (munmap_waits_for_write_back()) {
        CHECK(read_all(backing.get()).substr(100, 4) == "mine");
    } else {
        MESSAGE("left out, where munmap(2) does not wait for write-back: whether the store is in the file");
    }
    CHECK(size_of(backing.get()) == 5000);
}

TEST_SUITE_END();
