// The shadow engine: which views have a shadow, what it shows, and what its readers are promised.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/mount/counters.h"
#include "tests/mount/directories.h"
#include "tests/mount/fd_views.h"
#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

const std::vector<std::string> automatic = {"max_size=4M", "engine=auto"};

// None of them sees another die.
void kill_all(ViewMount& mount) {
    const std::vector<pid_t> processes = {mount.pid(), worker_of(mount.pid()), heir_of(mount.pid())};
    mount.expect_end("killed by SIGKILL");
    for (const int signal : {SIGSTOP, SIGKILL}) {
        for (const pid_t pid : processes) ::kill(pid, signal);
    }
    CHECK(mount.wait() == "killed by SIGKILL");
    for (std::size_t i = 1; i < processes.size(); ++i) CHECK(wait_for(processes[i]) == "killed by SIGKILL");
}

}  // namespace

TEST_SUITE_BEGIN("shadow");

TEST_CASE("what an open is for, the file and the options say which engine a view has, and it says why") {
    if (!kernel_passes_through("shadows")) return;
    struct Row {
        std::vector<std::string> options;
        std::size_t size;
        int flags;
        const char* engine;
    };
    const std::vector<Row> rows = {
        {{"engine=auto"}, 5000, O_RDONLY, "shadow: opened_for_reading"},
        {{}, 5000, O_RDONLY, "shadow: opened_for_reading"},
        {{}, 0, O_RDONLY, "shadow: opened_for_reading"},
        {{"engine=shadow"}, 5000, O_RDONLY, "shadow: opened_for_reading"},
        {{"engine=cache"}, 5000, O_RDONLY, "cache: as_mounted"},
        {{"engine=auto"}, 5000, O_RDWR, "cache: opened_for_writing"},
        {{"engine=shadow"}, 5000, O_WRONLY, "cache: opened_for_writing"},
        {{"engine=auto"}, 64 * MiB, O_RDONLY, "shadow: opened_for_reading"},
        {{"engine=auto"}, 64 * MiB + 1, O_RDONLY, "cache: larger_than_shadow_max"},
        {{"engine=shadow"}, 64 * MiB + 1, O_RDONLY, "shadow: opened_for_reading"},
        {{"engine=auto", "shadow_max=4K"}, 4096, O_RDONLY, "shadow: opened_for_reading"},
        {{"engine=auto", "shadow_max=4K"}, 4097, O_RDONLY, "cache: larger_than_shadow_max"},
        {{"engine=auto", "on_error=fail"}, 5000, O_RDONLY, "cache: loads_may_fail"},
        {{"engine=auto", "cached_opens"}, 5000, O_RDONLY, "cache: no_passthrough"},
        {{"engine=auto", "shadow_memory=4K"}, 5000, O_RDONLY, "cache: shadow_memory_is_used_up"},
    };
    for (const Row& row : rows) {
        CAPTURE(fmt::format("{}", fmt::join(row.options, ",")));
        CAPTURE(row.size);
        std::vector<std::string> options = row.options;
        if (options.empty() && std::getenv("NOSIGBUS_TEST_ENGINE") != nullptr) continue;  // the default is another
        const ViewMount mount(options);
        resize(make_file(mount.raw("file")).get(), row.size);
        // What takes memory counts, not what is a hole.
        if (row.size == 5000) write_at(open_file(mount.raw("file"), O_WRONLY).get(), 0, pattern(0, 5000));
        CHECK(engine_of(mount.view("file")) == "cache: not_open");
        std::optional<UniqueFd> view = open_file(mount.view("file"), row.flags);
        CHECK(engine_of(mount.view("file")) == row.engine);
        // All others have the same.
        {
            const UniqueFd another = open_file(mount.view("file"), row.flags);
            CHECK(engine_of(mount.view("file")) == row.engine);
        }
        const bool has_shadow = std::string(row.engine).starts_with("shadow");
        CHECK(stats(mount.mountpoint()).at("shadows") == (has_shadow ? 1 : 0));
        view.reset();
        CHECK(eventually([&] { return engine_of(mount.view("file")) == "cache: not_open"; }));
        CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadows") == 0; }));
        CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadow_memory") == 0; }));
    }
}

TEST_CASE("where the kernel may have no page for a hole views have the cache engine, from the moment it is told so") {
    if (!kernel_passes_through("shadows")) return;
    // vm.overcommit_memory is everybody's: in the tests' own mount namespace the daemon is shown another.
    constexpr auto policy = "/proc/sys/vm/overcommit_memory";
    const Directories place;
    const UniqueFd shown = make_file(place.raw("policy"), "0\n");
    must(::mount(place.raw("policy").c_str(), policy, nullptr, MS_BIND, nullptr), "mount --bind");
    const std::shared_ptr<const char> bound(policy, [](const char* path) { ::umount2(path, MNT_DETACH); });
    ViewMount mount(automatic);
    for (const char* const name : {"before", "after", "later"}) make_file(mount.raw(name), "bytes");
    const UniqueFd before = open_file(mount.view("before"), O_RDONLY);
    CHECK(engine_of(mount.view("before")) == "shadow: opened_for_reading");
    write_at(shown.get(), 0, "2");
    const UniqueFd after = open_file(mount.view("after"), O_RDONLY);
    CHECK(engine_of(mount.view("after")) == "cache: no_overcommit");
    CHECK(eventually([&] { return mount.errors().find("vm.overcommit_memory is 2") != std::string::npos; }));
    CHECK(kill_worker(mount.pid()) != 0);
    const UniqueFd later = open_file(mount.view("later"), O_RDONLY);
    CHECK(engine_of(mount.view("later")) == "cache: no_overcommit");
}

TEST_CASE("a file that tells no size has the cache engine") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount(automatic);
    // A file of proc(5) is empty to stat(2), and has bytes.
    make_file(mount.raw("file"));
    must(::mount("/proc/self/status", mount.raw("file").c_str(), nullptr, MS_BIND, nullptr), "mount --bind");
    {
        const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
        CHECK(engine_of(mount.view("file")) == "cache: size_not_known");
        CHECK(Mapping(view.get(), page).bytes(0, 5) == "Name:");
    }
    must(::umount2(mount.raw("file").c_str(), MNT_DETACH), "umount");
}

TEST_CASE("memory: a budget for all together, and what loads behind the end have taken is given back") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount({"max_size=16M", "engine=auto", "shadow_memory=3M"});
    make_file(mount.raw("one"), pattern(0, 2 * MiB));
    make_file(mount.raw("two"), pattern(0, 2 * MiB));
    std::optional<UniqueFd> one = open_file(mount.view("one"), O_RDONLY);
    CHECK(engine_of(mount.view("one")) == "shadow: opened_for_reading");
    CHECK(stats(mount.mountpoint()).at("shadow_memory") == 2 * MiB);
    CHECK(stats(mount.mountpoint()).at("shadow_memory_allowed") == 3 * MiB);
    CHECK(stats(mount.view("one")).at("shadow_memory") == 2 * MiB);
    {
        const UniqueFd two = open_file(mount.view("two"), O_RDONLY);
        CHECK(engine_of(mount.view("two")) == "cache: shadow_memory_is_used_up");
        CHECK(Mapping(two.get(), 4 * MiB).bytes() == padded(pattern(0, 2 * MiB), 4 * MiB));
    }
    {
        const Mapping mapping(one->get(), 16 * MiB);
        CHECK(mapping.bytes() == padded(pattern(0, 2 * MiB), 16 * MiB));
        CHECK(eventually([&] { return stats(mount.view("one")).at("shadow_memory") == 2 * MiB; }));
        CHECK(mapping.bytes(15 * MiB, MiB) == std::string(MiB, '\0'));
    }
    one.reset();
    CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadow_memory") == 0; }));
    const UniqueFd two = open_file(mount.view("two"), O_RDONLY);
    CHECK(engine_of(mount.view("two")) == "shadow: opened_for_reading");
}

TEST_CASE("a sparse file costs what its data costs") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount({"engine=shadow"});
    const UniqueFd backing = make_file(mount.raw("file"));
    constexpr std::size_t size = 64 * GiB;
    resize(backing.get(), size);
    write_at(backing.get(), 40 * GiB, "in the midst");
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    CHECK(engine_of(mount.view("file")) == "shadow: opened_for_reading");
    CHECK(stats(mount.view("file")).at("shadow_memory") == page);
    const Mapping mapping(view.get(), page, PROT_READ, MAP_SHARED, 40 * GiB);
    CHECK(mapping.bytes(0, 12) == "in the midst");
    // Not all of it was looked at: that would be 16 million pages.
    CHECK(counters(mount).at("pages_compared") < size / page / 100);
    punch(backing.get(), 40 * GiB, page);
    CHECK(eventually([&] { return mapping.byte(0) == 0; }));
}

TEST_CASE("splice(2) and sendfile(2) end where the file does, now and when that has changed") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount(automatic);
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 5000));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    const auto sent = [&](std::size_t from) {
        const UniqueFd sink(must(::memfd_create("sink", MFD_CLOEXEC), "memfd_create"));
        auto offset = static_cast<off_t>(from);
        while (must(::sendfile(sink.get(), view.get(), &offset, MiB), "sendfile") > 0) {
        }
        return read_all(sink.get());
    };
    CHECK(difference(sent(0), pattern(0, 5000)) == "");
    CHECK(sent(4999) == pattern(4999, 1));
    CHECK(sent(5000).empty());
    CHECK(sent(100 * page).empty());
    write_at(backing.get(), 5000, pattern(5000, 10 * page));
    CHECK(::fsync(view.get()) == 0);
    CHECK(difference(sent(0), pattern(0, 5000 + 10 * page)) == "");
    resize(backing.get(), 7);
    CHECK(::fsync(view.get()) == 0);
    CHECK(sent(0) == pattern(0, 7));
    // What a kernel takes for the end does not concern mappings, nor who opens the file for writing afterwards.
    CHECK(mapping.bytes() == padded(pattern(0, 7), MiB));
    const UniqueFd writer = open_file(mount.view("file"), O_RDWR);
    CHECK(Mapping(writer.get(), MiB).bytes() == padded(pattern(0, 7), MiB));
}

TEST_CASE("after the end was seen by splice(2), the same view can be had with the cache engine") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount(automatic);
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 5000));
    {
        const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
        const UniqueFd sink(must(::memfd_create("sink", MFD_CLOEXEC), "memfd_create"));
        CHECK(::sendfile(sink.get(), view.get(), nullptr, MiB) == 5000);
    }
    CHECK(eventually([&] { return engine_of(mount.view("file")) == "cache: not_open"; }));
    const UniqueFd view = open_file(mount.view("file"), O_RDWR);
    const Mapping mapping(view.get(), 4 * MiB);
    CHECK(mapping.bytes() == padded(pattern(0, 5000), 4 * MiB));
}

TEST_CASE("a restarted worker finds its shadows and brings them up to date") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount(automatic);
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 100 * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    UniqueFd lingering = open_file(mount.view("file"), O_RDONLY);
    for (unsigned round = 0; round < 5; ++round) {
        const pid_t worker = worker_of(mount.pid());
        // What happens while there is no worker, in a mapping, too.
        ::kill(worker, SIGSTOP);
        resize(backing.get(), 50 * page);
        const Mapping raw(backing.get(), 50 * page, PROT_READ | PROT_WRITE);
        CHECK(raw.store(10 * page, fmt::format("round {}", round)) == 7);
        CHECK(kill_worker(mount.pid()) == worker);
        CHECK(eventually([&] { return mapping.bytes(10 * page, 7) == fmt::format("round {}", round); }));
        CHECK(mapping.bytes(50 * page, 50 * page) == std::string(50 * page, '\0'));
        CHECK(engine_of(mount.view("file")) == "shadow: opened_before_a_restart");
        // It is that very shadow which others get.
        const UniqueFd another = open_file(mount.view("file"), O_RDONLY);
        CHECK(Mapping(another.get(), MiB).bytes(10 * page, 7) == fmt::format("round {}", round));
        write_at(backing.get(), 60 * page, "after it");
        CHECK(::fsync(view.get()) == 0);
        CHECK(mapping.bytes(60 * page, 8) == "after it");
        CHECK(stats(mount.mountpoint()).at("shadows") == 1);
    }
}

TEST_CASE("what a restart does not know to have been averted is not counted") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount(automatic);
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 10 * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    CHECK(kill_worker(mount.pid()) != 0);
    CHECK(::fsync(view.get()) == 0);
    CHECK(engine_of(mount.view("file")) == "shadow: opened_before_a_restart");
    CHECK(stats(mount.view("file")).at("bytes_zeroed") == 0);
    resize(backing.get(), 4 * page);
    CHECK(::fsync(view.get()) == 0);
    CHECK(stats(mount.view("file")).at("bytes_zeroed") == 6 * page);
}

TEST_CASE("when all processes die at once, 16 mapped readers read on: old bytes, zeros and pages never touched") {
    if (!kernel_passes_through("shadows")) return;
    ViewMount mount(automatic);
    constexpr std::size_t readers = 16;
    constexpr std::size_t length = 2 * MiB;
    for (std::size_t i = 0; i < readers; ++i)
        make_file(mount.raw(std::to_string(i)), pattern(0, MiB, static_cast<unsigned>(i)));
    std::atomic<unsigned> wrong{0};
    std::atomic<unsigned> rounds{0};
    std::atomic<bool> is_dead{false};
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < readers; ++i) {
        UniqueFd view = open_file(mount.view(std::to_string(i)), O_RDONLY);
        threads.emplace_back([&, i, mapping = Mapping(view.get(), length)] {
            const std::string expected = padded(pattern(0, MiB, static_cast<unsigned>(i)), length);
            // The first half before, and all of it afterwards.
            bool was_dead = false;
            do {
                was_dead = is_dead;
                const std::size_t end = was_dead ? length : length / 4;
                for (std::size_t at = 0; at < end; at += page)
                    wrong += mapping.bytes(at, page) == expected.substr(at, page) ? 0U : 1U;
                ++rounds;
            } while (!was_dead);
        });
    }
    CHECK(eventually([&] { return rounds >= readers; }));
    kill_all(mount);
    is_dead = true;
    threads.clear();
    CHECK(wrong == 0);
}

TEST_CASE("a large copy does not hold up the barrier on another view") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount({"engine=shadow", "shadow_memory=1G"});  // whatever the machine has
    const UniqueFd small_file = make_file(mount.raw("small"), pattern(0, page));
    const UniqueFd small = open_file(mount.view("small"), O_RDONLY);
    const Mapping mapping(small.get(), page);
    const UniqueFd large_file = make_file(mount.raw("large"));
    constexpr std::size_t size = 512 * MiB;
    for (std::size_t at = 0; at < size; at += MiB) write_at(large_file.get(), at, std::string(MiB, 'x'));
    std::atomic<bool> is_open{false};
    std::jthread opening([&] {
        const UniqueFd large = open_file(mount.view("large"), O_RDONLY);
        is_open = true;
    });
    CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadows") == 2; }));
    unsigned meanwhile = 0;
    for (unsigned round = 0; !is_open; ++round) {
        write_at(small_file.get(), 0, fmt::format("{:8}", round));
        CHECK(::fsync(small.get()) == 0);
        CHECK(mapping.bytes(0, 8) == fmt::format("{:8}", round));
        ++meanwhile;
    }
    CHECK(meanwhile > 3);
}

TEST_CASE(
    "a file is followed while it is mapped, whatever becomes of the mount, and the daemon ends with the last mapping") {
    if (!kernel_passes_through("shadows")) return;
    ViewMount mount(automatic);
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 10 * page));
    std::optional<UniqueFd> view = open_file(mount.view("file"), O_RDONLY);
    Mapping mapping(view->get(), MiB);
    view.reset();
    SUBCASE("by umount(2)") {
        CHECK(mount.unmount() == EBUSY);
        CHECK(mount.unmount(MNT_DETACH) == 0);
    }
    SUBCASE("by a signal") {
        ::kill(mount.pid(), SIGTERM);
    }
    SUBCASE("by an abort, which says nothing of what was open") {
        view = open_file(mount.view("file"), O_RDONLY);
        CHECK(mount.unmount(MNT_FORCE) >= 0);
        CHECK(mount.unmount(MNT_DETACH) >= 0);
    }
    CHECK(eventually([&] { return !mounted_at(mount.mountpoint()); }));
    write_at(backing.get(), 5 * page, "after the end");
    CHECK(eventually([&] { return mapping.bytes(5 * page, 13) == "after the end"; }));
    resize(backing.get(), page);
    CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, page), MiB); }));
    // Its worker may still die.
    CHECK(kill_worker(mount.pid()) > 0);
    write_at(backing.get(), 0, "again");
    CHECK(eventually([&] { return mapping.bytes(0, 5) == "again"; }));
    CHECK(mount.running());
    view.reset();
    mapping.unmap();
    CHECK(mount.wait() == "exit 0");
}

TEST_CASE("a file that grows beyond shadow_max while it is mapped is followed, and others can open it") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount({"max_size=4M", "engine=auto", "shadow_max=1M", "shadow_memory=16M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 10 * page));
    std::optional<UniqueFd> view = open_file(mount.view("file"), O_RDONLY);
    std::optional<Mapping> mapping(std::in_place, view->get(), 8 * MiB);
    write_at(backing.get(), 0, pattern(0, 6 * MiB, 1));
    CHECK(::fsync(view->get()) == 0);
    CHECK(difference(mapping->bytes(), padded(pattern(0, 6 * MiB, 1), 8 * MiB)) == "");
    {
        const UniqueFd another = open_file(mount.view("file"), O_RDONLY);
        CHECK(difference(Mapping(another.get(), 8 * MiB).bytes(), padded(pattern(0, 6 * MiB, 1), 8 * MiB)) == "");
    }
    CHECK(engine_of(mount.view("file")) == "shadow: opened_for_reading");
    mapping.reset();
    view.reset();
    CHECK(eventually([&] { return engine_of(mount.view("file")) == "cache: not_open"; }));
    view = open_file(mount.view("file"), O_RDONLY);
    CHECK(engine_of(mount.view("file")) == "cache: larger_than_shadow_max");
}

TEST_CASE("a file that grows beyond shadow_max and shadow_memory while it is mapped takes no more than there is") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount({"max_size=64M", "engine=auto", "shadow_max=1M", "shadow_memory=4M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, MiB));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), 64 * MiB);
    // More than is allowed, which is seen soon.
    write_at(backing.get(), MiB, pattern(MiB, 7 * MiB));
    CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadow_memory") > 4 * MiB; }));
    const auto before = stats(mount.view("file")).at("shadow_memory");
    CHECK(before <= 8 * MiB);
    write_at(backing.get(), 8 * MiB, pattern(8 * MiB, 40 * MiB));
    CHECK(eventually([&] { return answer(::fsync(view.get())) == "EIO"; }));
    CHECK(stats(mount.view("file")).at("shadow_memory") < 48 * MiB);
    CHECK(mount.errors().find("what shadows may take of memory is used up") != std::string::npos);
    // By its name it can be had with the cache engine, and by no name not at all.
    CHECK(read_all(mount.view("file")) == read_all(backing.get()));
    CHECK(opened(fmt::format("/proc/self/fd/{}", view.get()), O_RDONLY) == "ENOMEM");
    // What it has is followed, and all of it once there is room again.
    write_at(backing.get(), 5, "changed");
    CHECK(eventually([&] { return mapping.bytes(5, 7) == "changed"; }));
    resize(backing.get(), 2 * MiB);
    CHECK(eventually([&] { return ::fsync(view.get()) == 0; }));
    CHECK(difference(mapping.bytes(), padded(read_all(backing.get()), 64 * MiB)) == "");
}

TEST_SUITE_END();
