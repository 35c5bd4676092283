// A backing file that cannot be read: the memory of a process, where it has nothing mapped.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mount.h>

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

// A mount of /proc/PID of a process that does nothing. pread(2) of `mem` at 0, where nobody has anything mapped, is
// EIO.
class MemoryMount : public Directories {
  public:
    explicit MemoryMount(const std::string& options)
        : process_({"sleep", "infinity"}, {.before_exec = give_up_capabilities}),
          daemon_({daemon_program, fmt::format("/proc/{}", process_.pid()), mountpoint(), "-f", "-o", options}) {
        REQUIRE(eventually([&] { return mounted_at(mountpoint()) || !daemon_.running(); }));
        REQUIRE(mounted_at(mountpoint()));
        REQUIRE(eventually([&] { return command_name(process_.pid()) == "sleep"; }));
    }
    MemoryMount(const MemoryMount&) = delete;
    MemoryMount& operator=(const MemoryMount&) = delete;
    ~MemoryMount() {
        // At its start the daemon has it open itself.
        CHECK(eventually([&] { return ::umount2(mountpoint().c_str(), 0) == 0; }));
        CHECK(daemon_.wait() == "exit 0");
    }

    [[nodiscard]] std::string errors() const { return daemon_.errors(); }

  private:
    Process process_;
    Process daemon_;
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

TEST_SUITE_END();
