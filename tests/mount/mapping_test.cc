// Mappings of views: what loads, mprotect and the kernel's own accesses come to when nothing changes behind them.
#include <doctest/doctest.h>
#include <sys/mount.h>

#include <algorithm>

#include "tests/mount/daemon_usage.h"
#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

TEST_SUITE_BEGIN("mapping");

TEST_CASE("loads past the real size are zero in each kind of mapping") {
    const ViewMount mount({"max_size=1M"});
    for (const std::size_t real : {std::size_t{0}, std::size_t{1}, std::size_t{5000}, page, 3 * page, MiB - 1, MiB}) {
        CAPTURE(real);
        const std::string name = std::to_string(real);
        make_file(mount.raw(name), pattern(0, real));
        const UniqueFd reader = open_file(mount.view(name), O_RDONLY);
        const UniqueFd writer = open_file(mount.view(name), O_RDWR);
        const std::string wanted = padded(pattern(0, real), MiB);
        CHECK(difference(Mapping(reader.get(), MiB, PROT_READ, MAP_SHARED).bytes(), wanted) == "");
        CHECK(difference(Mapping(reader.get(), MiB, PROT_READ, MAP_PRIVATE).bytes(), wanted) == "");
        CHECK(difference(Mapping(reader.get(), MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE).bytes(), wanted) == "");
        CHECK(difference(Mapping(writer.get(), MiB, PROT_READ | PROT_WRITE, MAP_SHARED).bytes(), wanted) == "");
        CHECK(difference(Mapping(reader.get(), MiB / 2, PROT_READ, MAP_SHARED, MiB / 2).bytes(),
                         wanted.substr(MiB / 2)) == "");
    }
}

TEST_CASE("a mapping outlives its descriptor") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 3 * page));
    const Mapping mapping(open_file(mount.view("file"), O_RDONLY).get(), MiB);
    CHECK(difference(mapping.bytes(), padded(pattern(0, 3 * page), MiB)) == "");
    resize(backing.get(), page);
    CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, page), MiB); }));
}

TEST_CASE("MAP_POPULATE and MADV_POPULATE_READ fill in the zero tail") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("file"), pattern(0, 5000));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping populated(view.get(), MiB, PROT_READ, MAP_SHARED | MAP_POPULATE);
    CHECK(difference(populated.bytes(), padded(pattern(0, 5000), MiB)) == "");
    const Mapping advised(view.get(), MiB);
    CHECK(answer(::madvise(advised.data(), MiB, MADV_POPULATE_READ)) == "0");
    CHECK(difference(advised.bytes(), padded(pattern(0, 5000), MiB)) == "");
}

TEST_CASE("a shared mapping of an O_RDONLY view cannot be made writable") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("file"), pattern(0, 5000));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.touch() == MiB / page);
    CHECK(answer(::mprotect(mapping.data(), MiB, PROT_READ | PROT_WRITE)) == "EACCES");
    CHECK(::mmap(nullptr, MiB, PROT_READ | PROT_WRITE, MAP_SHARED, view.get(), 0) == MAP_FAILED);
    CHECK(mapping.byte(MiB - 1) == 0);
}

TEST_CASE("a private mapping of an O_RDONLY view takes stores and keeps them to itself") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("file"), pattern(0, 5000));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    CHECK(mapping.store(10, "mine") == 4);
    CHECK(mapping.store(MiB - 4, "mine") == 4);
    CHECK(mapping.bytes(10, 4) == "mine");
    CHECK(mapping.bytes(MiB - 4, 4) == "mine");
    CHECK(difference(read_all(mount.raw("file")), pattern(0, 5000)) == "");
    CHECK(difference(Mapping(view.get(), MiB).bytes(), padded(pattern(0, 5000), MiB)) == "");
}

TEST_CASE("the kernel's own loads see the zero tail") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("file"), pattern(0, page));
    const UniqueFd sink = make_file(mount.raw("sink"));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(::pwrite(sink.get(), mapping.data() + page / 2, page, 0) == static_cast<ssize_t>(page));
    CHECK(difference(read_all(sink.get()), padded(pattern(page / 2, page / 2), page)) == "");
}

TEST_CASE("where the backing file cannot be read, loads are zero and the daemon says so") {
    // Nothing is mapped at address 0: reads at the start of /proc/PID/mem fail with EIO.
    const Directories directories;
    const Process process({"sleep", "infinity"}, {.before_exec = give_up_capabilities});
    REQUIRE(eventually([&] { return command_name(process.pid()) == "sleep"; }));
    const std::string source = "/proc/" + std::to_string(process.pid());
    must(::mount(source.c_str(), directories.source().c_str(), nullptr, MS_BIND, nullptr), "mount --bind");
    const std::string name = directories.view("mem");
    Process daemon({daemon_program, directories.source(), directories.mountpoint(), "-f", "-o", "max_size=1M"});
    REQUIRE(eventually([&] { return mounts_at(directories.mountpoint()) == 1; }));
    {
        const UniqueFd view = open_file(name, O_RDONLY);
        char byte = 0;
        REQUIRE(answer(::pread(open_file(directories.raw("mem"), O_RDONLY).get(), &byte, 1, 0)) == "EIO");
        if (reads_end("the error of read(2)")) CHECK(answer(::pread(view.get(), &byte, 1, 0)) == "EIO");
        for (const int flags : {MAP_SHARED, MAP_PRIVATE}) {
            CHECK(difference(Mapping(view.get(), MiB, PROT_READ, flags).bytes(), padded("", MiB)) == "");
        }
    }
    CHECK(eventually([&] { return daemon.errors().find("Input/output error") != std::string::npos; }));
    const std::string errors = daemon.errors();
    CHECK_MESSAGE(std::count(errors.begin(), errors.end(), '\n') < 20, "too much of it: ", errors);
    CHECK(eventually([&] { return ::umount2(directories.mountpoint().c_str(), 0) == 0; }));
    CHECK(daemon.wait() == "exit 0");
}

TEST_CASE("a view can be written into its own backing file, and into itself") {
    // The writer holds the backing inode's lock while it faults on the view: a server that takes that lock to read
    // hangs here.
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 64 * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDWR);
    const Mapping mapping(view.get(), MiB);
    const std::string content = pattern(0, 64 * page) + pattern(32 * page, 32 * page);
    SUBCASE("into the backing file") {
        CHECK(answer(::pwrite(backing.get(), mapping.data() + 32 * page, 32 * page, 64 * static_cast<off_t>(page))) ==
              std::to_string(32 * page));
    }
    SUBCASE("into itself") {
        CHECK(answer(::pwrite(view.get(), mapping.data() + 32 * page, 32 * page, 64 * static_cast<off_t>(page))) ==
              std::to_string(32 * page));
    }
    SUBCASE("from the backing file into a mapping of the view") {
        const Mapping target(view.get(), MiB, PROT_READ | PROT_WRITE);
        resize(view.get(), 96 * page);
        CHECK(answer(::pread(backing.get(), target.data() + 64 * page, 32 * page, 32 * static_cast<off_t>(page))) ==
              std::to_string(32 * page));
        CHECK(target.sync() == 0);
    }
    CHECK(difference(read_all(backing.get()), content) == "");
    CHECK(eventually([&] { return mapping.bytes() == padded(content, MiB); }));
}

TEST_SUITE_END();
