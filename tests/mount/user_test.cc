// Mounted by an ordinary user, through fusermount3.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/user_place.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr uid_t somebody_else = 65533;

bool has_option(const std::string& options, const std::string& option) {
    return ("," + options + ",").find("," + option + ",") != std::string::npos;
}

}  // namespace

TEST_SUITE_BEGIN("user");

TEST_CASE("an ordinary user's views can be read, mapped, written and made, and do not fault") {
    const UserPlace place;
    place.make("file", pattern(0, 5 * page));
    place.mount();
    CHECK(as_user(nobody, [&] {
              Wrong wrong;
              const UniqueFd raw = open_file(place.raw("file"), O_RDWR);
              const UniqueFd view = open_file(place.view("file"), O_RDWR);
              wrong.unless_same(read_all(view.get()), pattern(0, 5 * page), "read");
              const Mapping mapping(view.get(), MiB, PROT_READ | PROT_WRITE);
              wrong.unless(mapping.bytes() == padded(pattern(0, 5 * page), MiB), "mapping");
              resize(raw.get(), 10);
              wrong.unless(mapping.touch() == MiB / page, "a load has faulted");
              wrong.unless(eventually([&] { return mapping.bytes() == padded(pattern(0, 10), MiB); }), "shrunk");
              write_at(view.get(), 3, "written");
              wrong.unless_same(read_all(raw.get()).substr(3, 7), "written", "write");
              wrong.unless(mapping.store(0, "st") == 2 && mapping.sync() == 0, "store");
              wrong.unless_same(read_all(raw.get()).substr(0, 2), "st", "stored");
              return wrong.text();
          }) == "");
    CHECK(as_user(nobody, [&] {
              Wrong wrong;
              make_file(place.view("new"), "made");
              wrong.unless_same(read_all(place.raw("new")), "made", "made");
              wrong.unless_same(std::to_string(status(place.raw("new")).st_uid), std::to_string(nobody), "owner");
              wrong.unless_same(answer(::rename(place.view("new").c_str(), place.view("newer").c_str())), "0",
                                "rename");
              wrong.unless_same(answer(::mkdir(place.view("directory").c_str(), 0755)), "0", "mkdir");
              wrong.unless_same(answer(::chmod(place.view("newer").c_str(), 0600)), "0", "chmod");
              wrong.unless_same(answer(::truncate(place.view("newer").c_str(), 2)), "0", "truncate");
              wrong.unless_same(answer(::chown(place.view("newer").c_str(), somebody_else, -1)), "EPERM", "chown");
              wrong.unless_same(read_all(place.raw("newer")), "ma", "truncated");
              wrong.unless_same(answer(::unlink(place.view("newer").c_str())), "0", "unlink");
              wrong.unless_same(answer(::rmdir(place.view("directory").c_str())), "0", "rmdir");
              return wrong.text();
          }) == "");
    CHECK(std::filesystem::exists(place.raw("file")));
    CHECK_FALSE(std::filesystem::exists(place.raw("newer")));
    place.unmount();
}

TEST_CASE("its processes are the user's, without any capability, and nobody else is let in") {
    const UserPlace place;
    place.make("file", "abc");
    must(::chmod(place.raw("file").c_str(), 0666), "chmod");
    place.mount();
    const pid_t supervisor = place.supervisor();
    for (const pid_t pid : {supervisor, worker_of(supervisor)}) {
        CHECK(command_name(pid) == "nosigbus");
        CHECK(status_line(pid, "Uid") == "65534\t65534\t65534\t65534");
        CHECK(status_line(pid, "Gid") == "65534\t65534\t65534\t65534");
        for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"})
            CHECK(status_line(pid, set) == "0000000000000000");
    }
    const auto mount = mounted_at(place.mountpoint());
    REQUIRE(mount);
    CHECK(mount->type == "fuse.nosigbus");
    CHECK(mount->source == place.source());
    CHECK(has_option(mount->options, "nosuid"));
    CHECK(has_option(mount->options, "nodev"));
    CHECK(has_option(mount->super_options, "user_id=65534"));
    CHECK(has_option(mount->super_options, "default_permissions"));
    // The kernel's rule, for root too: fuse_allow_current_process.
    const auto open_it = [&] { return answer(::access(place.view("file").c_str(), R_OK)); };
    CHECK(as_user(nobody, open_it) == "0");
    CHECK(as_user(somebody_else, open_it) == "EACCES");
    CHECK(open_it() == "EACCES");
    place.unmount();
}

TEST_CASE("allow_other is for users whom /etc/fuse.conf allows it, and refused clearly to others") {
    UserPlace place;
    place.make("file", "abc");
    const auto look = [&] { return answer(::access(place.view("file").c_str(), R_OK)); };
    place.write_in_etc("fuse.conf", "# nothing\n");
    const Run refused = UserPlace::run({place.program(), place.source(), place.mountpoint(), "-o", "allow_other"});
    CHECK(refused.ending == "exit 1");
    CHECK_MESSAGE(refused.errors.find("user_allow_other") != std::string::npos, "not clear: ", refused.errors);
    CHECK(mounts_at(place.mountpoint()) == 0);
    CHECK(children().empty());
    place.write_in_etc("fuse.conf", "user_allow_other\n");
    must(::chmod(place.raw("file").c_str(), 0644), "chmod");
    place.mount("allow_other");
    CHECK(look() == "0");
    CHECK(as_user(somebody_else, look) == "0");
    CHECK(as_user(somebody_else, [&] { return answer(::open(place.view("file").c_str(), O_RDWR)); }) == "EACCES");
    place.unmount();
}

TEST_CASE("the user unmounts by fusermount3, by umount and by SIGTERM, and nobody else does") {
    const UserPlace place;
    place.make("file", "abc");
    place.mount();
    CHECK(UserPlace::run({"fusermount3", "-u", place.mountpoint()}, somebody_else).ending != "exit 0");
    CHECK(UserPlace::run({"umount", place.mountpoint()}, somebody_else).ending != "exit 0");
    CHECK(as_user(somebody_else, [pid = place.supervisor()] { return answer(::kill(pid, SIGTERM)); }) == "EPERM");
    CHECK(mounts_at(place.mountpoint()) == 1);
    place.unmount();
    place.mount();
    place.unmount([&] {
        const Run unmounted = UserPlace::run({"umount", place.mountpoint()});
        CHECK_MESSAGE(unmounted.ending == "exit 0", unmounted.errors);
    });
    place.mount();
    place.unmount([&] { ::kill(place.supervisor(), SIGTERM); });
}

TEST_CASE("an ordinary user's readers survive the death of the worker and of the supervisor, and a reload") {
    const UserPlace place;
    place.make("file", pattern(0, 64 * page));
    place.mount();
    const pid_t first = place.supervisor();
    CHECK(as_user(nobody, [&] {
              Wrong wrong;
              const UniqueFd view = open_file(place.view("file"), O_RDONLY);
              const Mapping mapping(view.get(), 64 * page);
              const auto check = [&](const std::string& when) {
                  ::posix_fadvise(view.get(), 0, 0, POSIX_FADV_DONTNEED);
                  wrong.unless(mapping.bytes() == pattern(0, 64 * page), when);
              };
              const auto supervisor = [&] { return supervisor_of(place.mountpoint()); };
              wrong.unless(kill_worker(first) > 0, "no worker");
              check("after the worker's death");
              ::kill(first, SIGKILL);
              wrong.unless(eventually([&] { return supervisor() != first; }), "no other supervisor");
              check("after the supervisor's death");
              const Run reloaded = run({place.program(), "--reload", place.mountpoint()});
              wrong.unless_same(reloaded.ending + reloaded.errors, "exit 0", "reload");
              wrong.unless(counters(place.mountpoint())["reloads"] == 1, "no reload");
              check("after the reload");
              return wrong.text();
          }) == "");
    const pid_t last = place.supervisor();
    CHECK(status_line(last, "Uid") == "65534\t65534\t65534\t65534");
    CHECK(status_line(last, "CapEff") == "0000000000000000");
    CHECK(UserPlace::run({"fusermount3", "-u", place.mountpoint()}).ending == "exit 0");
    // Those that were killed are ours by now, too.
    const std::string endings = wait_for_adopted();
    CHECK_MESSAGE(endings.find("exit 0") != std::string::npos, endings);
    CHECK_MESSAGE(endings.find("still running") == std::string::npos, endings);
}

TEST_CASE("what an ordinary user may not do natively, its mount does not do either") {
    const UserPlace place;
    must(::chown(place.source().c_str(), 0, 0), "chown");
    make_file(place.raw("readable"), "abc");
    make_file(place.raw("secret"), "abc");
    must(::chmod(place.raw("secret").c_str(), 0600), "chmod");
    place.make("own", "abc");
    place.mount();
    const auto all = [&](const std::string& directory) {
        return as_user(nobody, [&] {
            std::string answers;
            const auto add = [&](long result) { answers += answer(std::min(result, 0L)) + " "; };
            for (const std::string name : {"readable", "secret", "own"}) {
                const std::string path = directory + "/" + name;
                for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR}) add(::open(path.c_str(), flags));
                add(::truncate(path.c_str(), 2));
                add(::chmod(path.c_str(), 0644));
                add(::unlink(path.c_str()));
                add(::setxattr(path.c_str(), "user.name", "value", 5, 0));
            }
            add(::open((directory + "/new").c_str(), O_RDWR | O_CREAT, 0644));
            add(::mkdir((directory + "/new").c_str(), 0755));
            return answers;
        });
    };
    CHECK(all(place.mountpoint()) == all(place.source()));
    // Not while a file that was closed just now is still being released.
    CHECK(eventually(
        [&] { return ::mount(nullptr, place.source().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0; }));
    must(::chown(place.root().c_str(), 0, 0), "chown");
    const auto own = [&](const std::string& directory) {
        return as_user(nobody, [&] {
            const std::string path = directory + "/own";
            return answer(::open(path.c_str(), O_RDWR)) + " " + answer(::truncate(path.c_str(), 1)) + " " +
                   answer(::chmod(path.c_str(), 0600)) + " " + answer(std::min(::open(path.c_str(), O_RDONLY), 0));
        });
    };
    CHECK(own(place.source()) == "EROFS EROFS EROFS 0");
    CHECK(own(place.mountpoint()) == "EROFS EROFS EROFS 0");
    place.unmount();
}

TEST_CASE("README: an ordinary user's first mount") {
    const UserPlace place;
    const std::string home = place.root() + "/home";
    must(::mkdir(home.c_str(), 0700), "mkdir");
    must(::chown(home.c_str(), nobody, nobody), "chown");
    const std::string path = fmt::format("PATH={}:/usr/bin:/bin", place.root() + "/installed/bin");
    const Run done =
        test::run({"sh", "-c", readme_command("user")},
                  {.directory = "/", .environment = {"HOME=" + home, path}, .before_exec = [] { become(nobody); }});
    CHECK_MESSAGE(done.ending == "exit 0", done.errors);
    CHECK(done.output == "hello\n");
    CHECK(mounts_at(home + "/views") == 0);
    // The supervisor, and perhaps a child that it had no time to wait for.
    const std::string endings = wait_for_adopted();
    CHECK_MESSAGE((endings == "exit 0" || endings == "exit 0, exit 0"), endings);
}

TEST_CASE("a line in fstab with `user` lets that user mount and unmount") {
    UserPlace place;
    place.make("file", "abc");
    for (const bool is_linked : {false, true}) {
        if (is_linked) place.link_fuse_type();
        for (const std::string type : {"fuse.nosigbus", "nosigbus"}) {
            CAPTURE(type);
            CAPTURE(is_linked);
            place.write_in_etc("fstab", place.line("noauto,user,max_size=2M", type) + "\n");
            const Run mounted = UserPlace::run({"mount", place.mountpoint()});
            CHECK_MESSAGE(mounted.ending == "exit 0", mounted.ending, ": ", mounted.errors);
            REQUIRE(mounts_at(place.mountpoint()) == 1);
            CHECK(as_user(nobody, [&] { return std::to_string(size_of(place.view("file"))); }) ==
                  std::to_string(2 * MiB));
            CHECK(status_line(place.supervisor(), "Uid") == "65534\t65534\t65534\t65534");
            for (const std::string option : {"nosuid", "nodev", "noexec"})
                CHECK(has_option(mounted_at(place.mountpoint())->options, option));
            CHECK(UserPlace::run({"umount", place.mountpoint()}, somebody_else).ending != "exit 0");
            place.unmount([&] {
                const Run unmounted = UserPlace::run({"umount", place.mountpoint()});
                CHECK_MESSAGE(unmounted.ending == "exit 0", unmounted.errors);
            });
        }
    }
}

TEST_SUITE_END();
