// What cannot be mounted is refused with one clear line, the right exit status, and nothing left mounted.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>

#include <algorithm>
#include <filesystem>

#include "tests/mount/daemon_usage.h"
#include "tests/mount/files.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

void check_refused(const Run& refused, const std::string& ending, const std::string& named) {
    CAPTURE(named);
    CAPTURE(refused.errors);
    CHECK(refused.ending == ending);
    CHECK(refused.errors.starts_with("nosigbus: "));
    CHECK(std::count(refused.errors.begin(), refused.errors.end(), '\n') == 1);
    CHECK(refused.errors.ends_with("\n"));
    CHECK(refused.errors.find(named) != std::string::npos);
    CHECK(nosigbus_mounts().empty());
    CHECK(children().empty());
}

// A directory to mount from and one to mount on, and some that are no good.
struct Place : Directories {
    Place() {
        make_file(raw("file"), "abc");
        for (const std::string& name : {raw("inside"), mountpoint() + "/inside"})
            must(::mkdir(name.c_str(), 0755), "mkdir");
        make_file(root() + "/file", "abc");
        must(::symlink("source/inside", (root() + "/link").c_str()), "symlink");
        must(::symlink("nothing", (root() + "/dangling").c_str()), "symlink");
    }
    [[nodiscard]] std::string at(const std::string& name) const { return root() + "/" + name; }
};

}  // namespace

TEST_SUITE_BEGIN("bad-input");

TEST_CASE("a source that cannot be mirrored") {
    const Place place;
    for (const std::string& source :
         {place.at("nothing"), place.at("file"), place.at("file/inside"), place.at("dangling"), std::string()}) {
        check_refused(run_daemon({source, place.mountpoint()}), "exit 32", source);
    }
}

TEST_CASE("a mount point that cannot be mounted on") {
    const Place place;
    for (const std::string& mountpoint :
         {place.at("nothing"), place.at("file"), place.at("file/inside"), place.at("dangling")}) {
        check_refused(run_daemon({place.source(), mountpoint}), "exit 32", mountpoint);
    }
}

TEST_CASE("one directory inside the other") {
    const Place place;
    const std::string inside = place.mountpoint() + "/inside";
    check_refused(run_daemon({place.source(), place.raw("inside")}), "exit 32", place.raw("inside"));
    check_refused(run_daemon({inside, place.mountpoint()}), "exit 32", inside);
    check_refused(run_daemon({place.source(), place.at("link")}), "exit 32", place.at("link"));
    check_refused(run_daemon({place.root(), place.mountpoint()}), "exit 32", place.mountpoint());
    check_refused(run_daemon({place.source() + "/../source/", place.source() + "/./inside/"}), "exit 32", "inside");
    check_refused(run_daemon({".", "inside"}, {.directory = place.source()}), "exit 32", "inside");
    check_refused(run_daemon({"/", place.mountpoint()}), "exit 32", place.mountpoint());
}

TEST_CASE("a wrong command line") {
    const Place place;
    const std::string source = place.source();
    const std::string view = place.mountpoint();
    check_refused(run_daemon({}), "exit 1", "SOURCE");
    check_refused(run_daemon({source}), "exit 1", "MOUNTPOINT");
    check_refused(run_daemon({source, view, "third"}), "exit 1", "third");
    check_refused(run_daemon({source, view, "-x"}), "exit 1", "x");
    check_refused(run_daemon({source, view, "--nonsense"}), "exit 1", "nonsense");
    check_refused(run_daemon({source, view, "-o"}), "exit 1", "o");
}

TEST_CASE("an option that is not known, or that lacks or has a value") {
    const Place place;
    for (const std::string option :
         {"nonsense", "nonsense=1", "max_sizes=1M", "remount", "rw=1", "allow_other=yes", "max_size", "ro,nonsense,rw",
          "max_size=1M,nonsense", "fd=3", "rootmode=40000", "user_id=0"}) {
        const std::string name(option);
        const std::string named =
            name.find("nonsense") != std::string::npos ? "nonsense" : name.substr(0, name.find('='));
        check_refused(run_daemon({place.source(), place.mountpoint(), "-o", option}), "exit 1", named);
    }
}

TEST_CASE("a max_size that is none") {
    const Place place;
    for (const std::string size : {"0",
                                   "0G",
                                   "abc",
                                   "99E",
                                   "",
                                   "-1",
                                   "-1M",
                                   "+1M",
                                   "1KK",
                                   "1.5G",
                                   "1 G",
                                   " 1G",
                                   "0x1000",
                                   "5000",
                                   "4095",
                                   "1",
                                   "G",
                                   "18446744073709551616",
                                   "18446744073709551615",
                                   "9223372036854775808",
                                   "16777216T",
                                   "99999999T",
                                   "1G1"}) {
        const Run refused = run_daemon({place.source(), place.mountpoint(), "-o", std::string("max_size=") + size});
        check_refused(refused, "exit 1", "max_size");
        CHECK_MESSAGE(refused.errors.find(size) != std::string::npos, size, " is not in ", refused.errors);
    }
}

TEST_CASE("no permission to mount") {
    const Place place;
    // Where anybody may read it: the build directory need not be such a place.
    const std::string program = place.at("daemon");
    std::filesystem::copy_file(daemon_program, program);
    std::filesystem::permissions(program, std::filesystem::perms(0755));
    const Process::Setup as_nobody = {.before_exec = [] { become(nobody); }};
    const Run refused = run({program, place.source(), place.mountpoint()}, as_nobody);
    check_refused(refused, "exit 1", "");
    CHECK_MESSAGE(
        (refused.errors.find("ermi") != std::string::npos || refused.errors.find("root") != std::string::npos),
        "does not speak of permission: ", refused.errors);
    CHECK(run({program, "-V"}, as_nobody).ending == "exit 0");
    CHECK(run({program, "-h"}, as_nobody).ending == "exit 0");
}

TEST_CASE("no /dev/fuse") {
    const Place place;
    const auto cover_dev = [] {
        must(::unshare(CLONE_NEWNS), "unshare");
        must(::mount("tmpfs", "/dev", "tmpfs", 0, nullptr), "mount");
    };
    check_refused(run_daemon({place.source(), place.mountpoint()}, {.before_exec = cover_dev}), "exit 2", "/dev/fuse");
    check_refused(run_daemon({place.source(), place.mountpoint(), "-f"}, {.before_exec = cover_dev}), "exit 2",
                  "/dev/fuse");
}

TEST_CASE("a /dev/fuse that is something else") {
    const Place place;
    const auto replace_device = [&] {
        must(::unshare(CLONE_NEWNS), "unshare");
        must(::mount(place.at("file").c_str(), "/dev/fuse", nullptr, MS_BIND, nullptr), "mount");
    };
    const Run refused = run_daemon({place.source(), place.mountpoint()}, {.before_exec = replace_device});
    CHECK((refused.ending == "exit 2" || refused.ending == "exit 32"));
    check_refused(refused, refused.ending, place.mountpoint());
}

TEST_CASE("in the foreground the same is refused in the same way") {
    const Place place;
    check_refused(run_daemon({place.at("nothing"), place.mountpoint(), "-f"}), "exit 32", place.at("nothing"));
    check_refused(run_daemon({place.source(), place.at("nothing"), "-f"}), "exit 32", place.at("nothing"));
    check_refused(run_daemon({place.source(), place.mountpoint(), "-f", "-o", "max_size=0"}), "exit 1", "max_size");
}

TEST_SUITE_END();
