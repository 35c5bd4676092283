// Mounting as mount(8) and fstab do it: by mount.nosigbus, and as fuse.nosigbus.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mount.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/mount/daemon_usage.h"
#include "tests/mount/files.h"
#include "tests/mount/installed.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

Run mount8(const std::vector<std::string>& arguments) {
    std::vector<std::string> command = {"mount"};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return run(command);
}

void check_mounted_and_unmount(const Installed& place, const Run& mounted) {
    CHECK_MESSAGE(mounted.ending == "exit 0", mounted.ending, ": ", mounted.errors);
    CHECK(mounts_at(place.mountpoint()) == 1);
    CHECK(answers(place.mountpoint()));
    if (!answers(place.mountpoint())) return;
    const Run unmounted = run({"umount", place.mountpoint()});
    CHECK_MESSAGE(unmounted.ending == "exit 0", unmounted.ending, ": ", unmounted.errors);
    CHECK(mounts_at(place.mountpoint()) == 0);
    CHECK(wait_for_adopted() == "exit 0");
}

// Everything that mount(8), fstab and systemd keep for themselves.
const std::string foreign_options[] = {
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "comment=a word",
    "x-systemd.automount",
    "x-systemd.requires=tmp.mount",
    "x-systemd.device-timeout=5s",
    "x-gvfs-show",
    "X-mount.mkdir",
};

// As it stands in an fstab.
std::string escaped(std::string option) {
    for (std::size_t at = option.find(' '); at != std::string::npos; at = option.find(' '))
        option.replace(at, 1, "\\040");
    return option;
}

}  // namespace

TEST_SUITE_BEGIN("mount8");

TEST_CASE("mount.nosigbus mounts and umount unmounts") {
    const Installed place;
    make_file(place.raw("file"), "abc");
    const Run mounted = run({"mount.nosigbus", place.source(), place.mountpoint(), "-o", "max_size=2M"});
    CHECK(size_of(place.view("file")) == 2 * MiB);
    const auto mount = mounted_at(place.mountpoint());
    REQUIRE(mount);
    CHECK(mount->type == "fuse.nosigbus");
    CHECK(mount->source == place.source());
    check_mounted_and_unmount(place, mounted);
}

// mount(8) takes a type that begins with «no» for a list of types to leave out, and tries all others: those in
// /etc/filesystems, if that exists, else those of the kernel. An fstab line has no such trouble.
TEST_CASE("mount -t nosigbus mounts where /etc/filesystems names nosigbus") {
    Installed place;
    make_file(place.raw("file"), "abc");
    place.write_in_etc("filesystems", "nosigbus\n*\n");
    const Run mounted = mount8({"-t", "nosigbus", place.source(), place.mountpoint(), "-o", "max_size=2M"});
    CHECK_MESSAGE(mounted.ending == "exit 0", mounted.ending, ": ", mounted.errors);
    CHECK(size_of(place.view("file")) == 2 * MiB);
    check_mounted_and_unmount(place, mounted);
}

TEST_CASE("mount -t nosigbus mounts nothing where /etc/filesystems does not") {
    Installed place;
    place.write_in_etc("filesystems", "");
    CHECK(mount8({"-t", "nosigbus", place.source(), place.mountpoint()}).ending != "exit 0");
    CHECK_FALSE(mounted_at(place.mountpoint()));
}

TEST_CASE("mount -t fuse.nosigbus mounts") {
    const Installed place;
    make_file(place.raw("file"), "abc");
    const Run mounted = mount8({"-t", "fuse.nosigbus", place.source(), place.mountpoint(), "-o", "max_size=2M"});
    CHECK(size_of(place.view("file")) == 2 * MiB);
    REQUIRE(mounted_at(place.mountpoint()));
    CHECK(mounted_at(place.mountpoint())->source == place.source());
    check_mounted_and_unmount(place, mounted);
}

TEST_CASE("the options of mount, fstab and systemd are accepted") {
    const Installed place;
    std::string all;
    for (const std::string& option : foreign_options) {
        CAPTURE(option);
        all += (all.empty() ? "" : ",") + option;
        check_mounted_and_unmount(place,
                                  mount8({"-T", place.fstab({place.line(escaped(option))}), place.mountpoint()}));
        check_mounted_and_unmount(place, run({mount_script, place.source(), place.mountpoint(), "-o", option}));
    }
    check_mounted_and_unmount(
        place, run({mount_script, place.source(), place.mountpoint(), "-o", "rw," + all + ",max_size=1M"}));
    check_mounted_and_unmount(place, mount8({"-t", "fuse.nosigbus", place.source(), place.mountpoint(), "-o", all}));
}

TEST_CASE("the options of the mount itself arrive") {
    const Installed place;
    for (const std::string type : {"nosigbus", "fuse.nosigbus"}) {
        CAPTURE(type);
        const Run mounted = mount8(
            {"-T", place.fstab({place.line("ro,nosuid,nodev,noexec,noatime,max_size=1M", type)}), place.mountpoint()});
        const auto mount = mounted_at(place.mountpoint());
        REQUIRE_MESSAGE(mount, mounted.ending, ": ", mounted.errors);
        for (const std::string option : {"ro", "nosuid", "nodev", "noexec", "noatime"}) {
            CHECK_MESSAGE((mount->options + ",").find(std::string(option) + ",") != std::string::npos, option,
                          " is not in ", mount->options);
        }
        check_mounted_and_unmount(place, mounted);
    }
}

TEST_CASE("mount.nosigbus takes the arguments that mount(8) may give it") {
    const Installed place;
    for (const std::vector<std::string>& arguments : {std::vector<std::string>{"-n"},
                                                      {"-v"},
                                                      {"-s"},
                                                      {"-nv"},
                                                      {"-t", "nosigbus"},
                                                      {"-n", "-o", "max_size=1M", "-v"},
                                                      {"-o", "ro", "-o", "max_size=1M"}}) {
        CAPTURE(arguments.front());
        std::vector<std::string> command = {mount_script, place.source(), place.mountpoint()};
        command.insert(command.end(), arguments.begin(), arguments.end());
        check_mounted_and_unmount(place, run(command));
    }
    for (const Run& fake : {run({mount_script, place.source(), place.mountpoint(), "-f"}),
                            mount8({"-f", "-T", place.fstab({place.line("rw")}), place.mountpoint()})}) {
        CHECK_MESSAGE(fake.ending == "exit 0", fake.ending, ": ", fake.errors);
        CHECK(mounts_at(place.mountpoint()) == 0);
    }
}

TEST_CASE("an fstab line mounts by mount -a, once") {
    const Installed place;
    make_file(place.raw("file"), "abc");
    for (const std::string options :
         {"defaults", "max_size=2M", "rw,nofail,x-systemd.requires=tmp.mount,_netdev,comment=hello,max_size=2M",
          "user,nofail,ro"}) {
        CAPTURE(options);
        const std::string fstab = place.fstab({place.line(options)});
        const Run first = mount8({"-a", "-T", fstab});
        CHECK_MESSAGE(first.ending == "exit 0", first.ending, ": ", first.errors);
        CHECK(mounts_at(place.mountpoint()) == 1);
        const Run second = mount8({"-a", "-T", fstab});
        CHECK(size_of(place.view("file")) == (std::string(options).find("2M") == std::string::npos ? GiB : 2 * MiB));
        check_mounted_and_unmount(place, second);
    }
}

TEST_CASE("an fstab line of type fuse.nosigbus mounts by mount -a, once") {
    const Installed place;
    const std::string fstab =
        place.fstab({place.line("nofail,x-systemd.automount,_netdev,max_size=2M", "fuse.nosigbus")});
    CHECK(mount8({"-a", "-T", fstab}).ending == "exit 0");
    check_mounted_and_unmount(place, mount8({"-a", "-T", fstab}));
}

TEST_CASE("an fstab line with noauto waits to be asked for") {
    const Installed place;
    const std::string fstab = place.fstab({place.line("noauto,user,max_size=2M")});
    CHECK(mount8({"-a", "-T", fstab}).ending == "exit 0");
    CHECK(mounts_at(place.mountpoint()) == 0);
    check_mounted_and_unmount(place, mount8({"-T", fstab, place.mountpoint()}));
}

TEST_CASE("an fstab line may name directories with blanks") {
    const Installed place;
    for (const std::string name : {"/a source", "/a view"}) must(::mkdir((place.root() + name).c_str(), 0755), "mkdir");
    make_file(place.root() + "/a source/file", "abc");
    const std::string fstab =
        place.fstab({fmt::format("{0}/a\\040source {0}/a\\040view nosigbus max_size=2M 0 0", place.root())});
    const Run mounted = mount8({"-a", "-T", fstab});
    CHECK_MESSAGE(mounted.ending == "exit 0", mounted.ending, ": ", mounted.errors);
    CHECK(size_of(place.root() + "/a view/file") == 2 * MiB);
    CHECK(unmount_and_wait(place.root() + "/a view") == "exit 0");
}

TEST_CASE("remount is refused, and the mount stays as it was") {
    const Installed place;
    make_file(place.raw("file"), "abc");
    const std::string fstab = place.fstab({place.line("rw")});
    REQUIRE(mount8({"-a", "-T", fstab}).ending == "exit 0");
    for (const Run& remounted : {mount8({"-o", "remount,ro", place.mountpoint()}),
                                 mount8({"-o", "remount,ro", "-T", fstab, place.mountpoint()}),
                                 mount8({"-t", "fuse.nosigbus", "-o", "remount", place.source(), place.mountpoint()}),
                                 run({mount_script, place.source(), place.mountpoint(), "-o", "remount"}),
                                 run_daemon({place.source(), place.mountpoint(), "-o", "remount,max_size=2M"})}) {
        CHECK(remounted.ending != "exit 0");
        CHECK_MESSAGE(remounted.errors.find("remount") != std::string::npos, "not clear: ", remounted.errors);
        CHECK(mounts_at(place.mountpoint()) == 1);
        CHECK(size_of(place.view("file")) == GiB);
        CHECK(answer(::access(place.view("file").c_str(), W_OK)) == "0");
    }
    CHECK(unmount_and_wait(place.mountpoint()) == "exit 0");
}

TEST_CASE("what the daemon refuses, mount refuses with the same status and the reason") {
    const Installed place;
    struct Refused {
        std::string source;
        std::string options;
        std::string ending;
        std::string named;
    };
    for (const Refused& refused : {Refused{"/no/such/directory", "rw", "exit 32", "/no/such/directory"},
                                   {place.source(), "nonsense", "exit 1", "nonsense"},
                                   {place.source(), "max_size=abc", "exit 1", "abc"}}) {
        CAPTURE(refused.named);
        for (const Run& run :
             {mount8({"-t", "fuse.nosigbus", refused.source, place.mountpoint(), "-o", refused.options}),
              test::run({mount_script, refused.source, place.mountpoint(), "-o", refused.options})}) {
            CHECK(run.ending == refused.ending);
            CHECK_MESSAGE(run.errors.find(refused.named) != std::string::npos, "not clear: ", run.errors);
            CHECK(nosigbus_mounts().empty());
            CHECK(children().empty());
        }
    }
    CHECK(run({mount_script}).ending == "exit 1");
    CHECK(run({mount_script, place.source()}).ending == "exit 1");
}

TEST_SUITE_END();
