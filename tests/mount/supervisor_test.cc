// What a mapped reader is promised when the supervisor dies, alone or with others.
#include <doctest/doctest.h>
#include <sys/mount.h>

#include <atomic>
#include <csignal>
#include <optional>
#include <thread>
#include <vector>

#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t length = 4 * MiB;

// A view of a file, of which no page is in memory until it is touched.
struct Reader {
    explicit Reader(const ViewMount& mount)
        : backing(make_file(mount.raw("file"), pattern(0, length - page))),
          view(open_file(mount.view("file"), O_RDONLY)),
          mapping(view.get(), length) {
        REQUIRE(::madvise(mapping.data(), length, MADV_RANDOM) == 0);
    }

    [[nodiscard]] bool sees(std::size_t at) const {
        return mapping.bytes(at, page) == padded(at < length - page ? pattern(at, page) : "", page);
    }

    UniqueFd backing;
    UniqueFd view;
    Mapping mapping;
};

// None of them sees another die.
void kill_together(const std::vector<pid_t>& processes) {
    for (const int signal : {SIGSTOP, SIGKILL}) {
        for (const pid_t pid : processes) ::kill(pid, signal);
    }
}

}  // namespace

TEST_SUITE_BEGIN("supervisor");

TEST_CASE("a supervisor that dies has a successor, and readers and writers go on") {
    ViewMount mount({"max_size=4M"});
    const Reader reader(mount);
    const UniqueFd written = open_file(mount.view("written"), O_RDWR | O_CREAT, 0600);
    CHECK(reader.sees(0));
    const pid_t first = mount.pid();
    const pid_t first_worker = worker_of(first);

    mount.kill_supervisor();

    CHECK(mount.pid() != first);
    CHECK(worker_of(mount.pid()) != first_worker);
    CHECK(reader.sees(page));
    CHECK(reader.sees(length - page));
    write_at(written.get(), 0, "written after it");
    CHECK(read_all(mount.raw("written")) == "written after it");
    // The promises hold under it as under the first: changes show, by themselves and at the barrier.
    resize(reader.backing.get(), page + 5);
    CHECK(eventually([&] { return reader.mapping.bytes() == padded(pattern(0, page + 5), length); }));
    // It replaces its worker.
    CHECK(kill_worker(mount.pid()) > 0);
    CHECK(reader.mapping.bytes(2 * page, 1) == std::string(1, '\0'));
    CHECK(counters(mount)["restarts"] == 1);
    // And ends as the first would.
    ::kill(mount.pid(), SIGTERM);
    CHECK(eventually([&] { return !mounted_at(mount.mountpoint()); }));
    CHECK(mount.running());
}

TEST_CASE("supervisors may die one after the other, and workers between them, while a reader loads") {
    ViewMount mount({"max_size=4M"});
    const Reader reader(mount);
    std::atomic<unsigned> rounds{0};
    std::atomic<unsigned> wrong{0};
    std::jthread loading([&](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
            ::posix_fadvise(reader.view.get(), 0, 0, POSIX_FADV_DONTNEED);
            for (std::size_t at = 0; at < length; at += 37 * page) wrong += reader.sees(at) ? 0 : 1;
            ++rounds;
        }
    });
    for (int i = 0; i < 8; ++i) {
        mount.kill_supervisor();
        const unsigned before = rounds;
        CHECK(eventually([&] { return rounds > before; }));
        if (i % 2 == 0) continue;
        const auto restarts = counters(mount)["restarts"];
        CHECK(kill_worker(mount.pid()) > 0);
        CHECK(counters(mount)["restarts"] == restarts + 1);  // there is one again
    }
    loading.request_stop();
    loading.join();
    CHECK(wrong == 0);
    CHECK(rounds > 0);
}

TEST_CASE("a supervisor that is stopped takes nothing from anybody") {
    ViewMount mount({"max_size=4M"});
    const Reader reader(mount);
    ::kill(mount.pid(), SIGSTOP);
    CHECK(reader.sees(0));
    resize(reader.backing.get(), 7);
    CHECK(eventually([&] { return reader.mapping.bytes() == padded(pattern(0, 7), length); }));
    ::kill(mount.pid(), SIGCONT);
}

TEST_CASE("when supervisor and worker die at the same instant, the heir goes on alone") {
    ViewMount mount({"max_size=4M"});
    const Reader reader(mount);
    CHECK(reader.sees(0));
    const pid_t first = mount.pid();
    const pid_t worker = worker_of(first);
    const pid_t heir = heir_of(first);
    kill_together({first, worker});
    mount.await_successor();
    CHECK(wait_for(worker) == "killed by SIGKILL");
    CHECK(mount.pid() == heir);
    CHECK(reader.sees(page));
    CHECK(reader.sees(length - page));
    CHECK(kill_worker(mount.pid()) > 0);
    CHECK(reader.sees(2 * page));
}

TEST_CASE("an heir that dies is replaced, and nobody notices") {
    ViewMount mount({"max_size=4M"});
    const Reader reader(mount);
    const pid_t supervisor = mount.pid();
    const pid_t worker = worker_of(supervisor);
    for (int i = 0; i < 3; ++i) {
        const pid_t heir = heir_of(supervisor);
        REQUIRE(heir > 0);
        ::kill(heir, SIGKILL);
        CHECK(eventually([&] { return heir_of(supervisor) != heir && heir_of(supervisor) != 0; }));
    }
    // What ends a whole group of processes, such as ^C, is for the supervisor.
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::kill(heir_of(supervisor), signal);
    CHECK(worker_of(supervisor) == worker);
    CHECK(counters(mount)["restarts"] == 0);
    mount.kill_supervisor();
    CHECK(reader.sees(page));
}

TEST_CASE("when supervisor and heir die at the same instant, the worker serves on, until nobody uses the mount") {
    ViewMount mount({"max_size=4M"});
    std::optional<Reader> reader(mount);
    const pid_t worker = worker_of(mount.pid());
    const pid_t heir = heir_of(mount.pid());
    mount.expect_end("killed by SIGKILL");
    kill_together({mount.pid(), heir});
    CHECK(mount.wait() == "killed by SIGKILL");
    CHECK(wait_for(heir) == "killed by SIGKILL");
    CHECK(reader->sees(0));
    resize(reader->backing.get(), 7);
    CHECK(eventually([&] { return reader->mapping.bytes() == padded(pattern(0, 7), length); }));
    CHECK(mount.unmount(MNT_DETACH) == 0);
    CHECK(reader->mapping.bytes(page, 1) == std::string(1, '\0'));
    reader.reset();
    CHECK(wait_for(worker) == "exit 0");
}

TEST_CASE("when all three die at the same instant, what is in memory can be read, and the rest faults") {
    ViewMount mount({"max_size=4M", "engine=cache"});
    const Reader reader(mount);
    CHECK(reader.sees(0));
    CHECK(reader.sees(length - page));
    const pid_t worker = worker_of(mount.pid());
    const pid_t heir = heir_of(mount.pid());
    mount.expect_end("killed by SIGKILL");
    kill_together({mount.pid(), worker, heir});
    CHECK(mount.wait() == "killed by SIGKILL");
    for (const pid_t pid : {worker, heir}) CHECK(wait_for(pid) == "killed by SIGKILL");
    CHECK(reader.sees(0));
    CHECK(reader.sees(length - page));
    CHECK(reader.mapping.byte(100 * page) == fault);
}

TEST_SUITE_END();
