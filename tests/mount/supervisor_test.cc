// What a mapped reader is promised when the supervisor dies, alone or with its worker.
#include <doctest/doctest.h>

#include <atomic>
#include <csignal>
#include <thread>

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

TEST_CASE("when supervisor and worker die at the same instant, what is in memory can be read, and the rest faults") {
    ViewMount mount({"max_size=4M"});
    const Reader reader(mount);
    CHECK(reader.sees(0));
    CHECK(reader.sees(length - page));
    const pid_t worker = worker_of(mount.pid());
    mount.expect_end("killed by SIGKILL");
    for (const pid_t pid : {mount.pid(), worker}) ::kill(pid, SIGSTOP);
    for (const pid_t pid : {mount.pid(), worker}) ::kill(pid, SIGKILL);
    CHECK(mount.wait() == "killed by SIGKILL");
    CHECK(wait_for(worker) == "killed by SIGKILL");
    CHECK(reader.sees(0));
    CHECK(reader.sees(length - page));
    CHECK(reader.mapping.byte(100 * page) == fault);
}

TEST_SUITE_END();
