// A backing file that cannot be read: the memory of a process, where it has nothing mapped.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mount.h>

#include <csignal>
#include <string>
#include <vector>

#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// A mount of any directory.
class MountOf : public Directories {
  public:
    MountOf(const std::string& directory, const std::string& options)
        : daemon_({daemon_program, directory, mountpoint(), "-f", "-o", options}) {
        REQUIRE(eventually([&] { return mounted_at(mountpoint()) || !daemon_.running(); }));
        REQUIRE(mounted_at(mountpoint()));
    }
    MountOf(const MountOf&) = delete;
    MountOf& operator=(const MountOf&) = delete;
    ~MountOf() {
        // At its start the daemon has it open itself.
        CHECK(eventually([&] { return ::umount2(mountpoint().c_str(), 0) == 0; }));
        CHECK(daemon_.wait() == "exit 0");
    }

    [[nodiscard]] std::string errors() const { return daemon_.errors(); }

  private:
    Process daemon_;
};

// Of /proc/PID of a process that does nothing. pread(2) of `mem` at 0, where nobody has anything mapped, is EIO.
class MemoryMount {
  public:
    explicit MemoryMount(const std::string& options, const std::vector<std::string>& command = {"sleep", "infinity"})
        : process_(command, {.before_exec = give_up_capabilities}),
          mount_(fmt::format("/proc/{}", process_.pid()), options) {
        REQUIRE(eventually([&] { return command_name(process_.pid()) == command[0]; }));
    }

    [[nodiscard]] pid_t pid() const { return process_.pid(); }
    [[nodiscard]] std::string output() const { return process_.output(); }
    [[nodiscard]] std::string errors() const { return mount_.errors(); }
    [[nodiscard]] std::string mountpoint() const { return mount_.mountpoint(); }
    [[nodiscard]] std::string view(const std::string& name) const { return mount_.view(name); }

  private:
    Process process_;
    MountOf mount_;
};

}  // namespace

TEST_SUITE_BEGIN("error");

TEST_CASE("what cannot be read is zeros, counted, and the log names the file") {
    const MemoryMount mount("max_size=1M");
    const UniqueFd view = open_file(mount.view("mem"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.bytes() == std::string(MiB, '\0'));
    CHECK(counters(mount.mountpoint()).at("read_errors") > 0);
    CHECK(stats(mount.mountpoint()).at("errors") == counters(mount.mountpoint()).at("read_errors"));
    CHECK(stats(mount.view("mem")).at("errors") == stats(mount.mountpoint()).at("errors"));
    CHECK(mount.errors().find("/mem: a page could not be read: Input/output error") != std::string::npos);
    // read(2) is told.
    char byte = 0;
    if (reads_end("the error of read(2)")) CHECK(answer(::pread(view.get(), &byte, 1, 0)) == "EIO");
}

TEST_CASE("with on_error=fail a load of it is SIGBUS, and what can be read still is") {
    const MemoryMount mount("max_size=1T,on_error=fail");
    const UniqueFd view = open_file(mount.view("mem"), O_RDONLY);
    CHECK(Mapping(view.get(), page).byte(0) == fault);
    CHECK(mount.errors().find("/mem: a page could not be read: Input/output error") != std::string::npos);
}

TEST_CASE("what a shadow could not be given shows once it can be read, though nobody says that it can") {
    if (!kernel_passes_through("shadows") || !reads_end("the error of read(2)")) return;
    // It has memory there from the signal on, and `mem` has bytes.
    const MemoryMount memory("max_size=1M,engine=cache", {"python3", "-c", R"(import ctypes, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print('ready', flush=True)
signal.sigwait({signal.SIGUSR1})
mmap = ctypes.CDLL(None).mmap
mmap.argtypes = [ctypes.c_size_t] * 6
mmap.restype = ctypes.c_size_t
place, size = 0x40000, 0x40000
assert mmap(place, size, 3, 0x100022, 2 ** 64 - 1, 0) == place  # MAP_FIXED_NOREPLACE | MAP_ANONYMOUS | MAP_PRIVATE
ctypes.memset(place, ord('m'), size)
signal.sigwait({signal.SIGUSR1})
assert ctypes.CDLL(None).munmap(ctypes.c_size_t(place), ctypes.c_size_t(size)) == 0
print('gone', flush=True)
signal.pause()
)"});
    REQUIRE(eventually([&] { return memory.output() == "ready\n"; }));
    // A file of proc(5) tells no size. Its view does.
    const MountOf mount(memory.mountpoint(), "max_size=1M,engine=shadow");
    const UniqueFd view = open_file(mount.view("mem"), O_RDONLY);
    CHECK(engine_of(mount.view("mem")) == "shadow: opened_for_reading");
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.bytes() == std::string(MiB, '\0'));
    CHECK(mount.errors().find("/mem: a page could not be read: Input/output error") != std::string::npos);
    ::kill(memory.pid(), SIGUSR1);
    const std::string bytes(256 * KiB, 'm');
    CHECK(eventually([&] { return mapping.bytes(256 * KiB, 256 * KiB) == bytes; }));
    // And stays when it cannot be read any more.
    ::kill(memory.pid(), SIGUSR1);
    REQUIRE(eventually([&] { return memory.output() == "ready\ngone\n"; }));
    const auto errors = stats(mount.mountpoint()).at("errors");
    CHECK(eventually([&] { return stats(mount.mountpoint()).at("errors") > errors + 1; }));
    CHECK(mapping.bytes(256 * KiB, 256 * KiB) == bytes);
}

TEST_SUITE_END();
