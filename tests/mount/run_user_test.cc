// nosigbus run for ordinary users.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>

#include "tests/mount/mount_table.h"
#include "tests/mount/user_place.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// What runs from here on can make no namespace: as where user namespaces are forbidden.
void forbid_namespaces() {
    std::array program = {
        sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unshare, 0, 1),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter{.len = program.size(), .filter = program.data()};
    must(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), "seccomp");
}

class UserRunPlace : public UserPlace {
  public:
    UserRunPlace() {
        must(::mkdir(runtime().c_str(), 0700), "mkdir");
        must(::chown(runtime().c_str(), nobody, nobody), "chown");
    }
    UserRunPlace(const UserRunPlace&) = delete;
    UserRunPlace& operator=(const UserRunPlace&) = delete;
    ~UserRunPlace() {
        CHECK((wait_for_adopted() + ", ").find_first_not_of("exit 0, ") == std::string::npos);
        CHECK(nosigbus_mounts().empty());
        CHECK(std::filesystem::is_empty(runtime()));
    }

    [[nodiscard]] std::string runtime() const { return root() + "/runtime"; }

    // As the user, in the source.
    [[nodiscard]] Run run(
        const std::string& script, const std::function<void()>& before = [] {}) const {
        return test::run(
            {program(), "run", "--dir", ".", "sh", "-c", script},
            {.directory = source(), .environment = {"XDG_RUNTIME_DIR=" + runtime()}, .before_exec = [before] {
                 before();
                 become(nobody);
             }});
    }
};

}  // namespace

TEST_SUITE_BEGIN("run-user");

TEST_CASE("an ordinary user's command sees views, and is who it was, with no more rights") {
    const UserRunPlace place;
    place.make("file", "abc");
    const Run done =
        place.run("stat -f -c %T . | cut -c -4; cat file; id -u; id -g; grep Cap[PE] /proc/self/status; exit 7");
    CHECK_MESSAGE(done.ending == "exit 7", done.errors);
    CHECK(done.output == "fuse\nabc65534\n65534\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n");
    CHECK(done.errors.empty());
    make_file(place.plain() + "/elsewhere", "def");
    CHECK(place.run(fmt::format("exec 7< {}/elsewhere; cat .nosigbus/fd/7", place.plain())).output == "def");
    CHECK(place.run("kill -TERM $$").ending == "killed by SIGTERM");
}

TEST_CASE("an ordinary user's command may there what it may natively, also in directories of others") {
    const UserRunPlace place;
    must(::chown(place.source().c_str(), 0, 0), "chown");
    must(::chmod(place.source().c_str(), 01777), "chmod");
    make_file(place.raw("of root"), "abc");
    make_file(place.raw("secret"), "abc");
    must(::chmod(place.raw("secret").c_str(), 0600), "chmod");
    const Run done = place.run(
        "echo made > new; cat new 'of root'; for each in 'of root' secret; do test -w \"$each\" && echo writable; "
        "done; "
        "test -r secret && echo readable; rm -f 'of root'; mv new newer");
    CHECK(done.output == "made\nabc");
    CHECK(status(place.raw("newer")).st_uid == nobody);
    CHECK(std::filesystem::exists(place.raw("of root")));
}

TEST_CASE("an ordinary user's Python survives a file that shrinks under it, and dies without nosigbus run") {
    const UserRunPlace place;
    const std::string script = R"(python3 -c "import mmap, os
with open('file', 'rb+') as file:
    mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    os.truncate('file', 0)
    assert mapping[:] == bytes(len(mapping))
")";
    place.make("file", pattern(0, 5 * page));
    const auto plainly = [&] {
        return test::run({"sh", "-c", "ulimit -c 0; exec " + script},
                         {.directory = place.source(), .before_exec = [] { become(nobody); }});
    };
    CHECK(plainly().ending == "killed by SIGBUS");
    place.make("other", pattern(0, 5 * page));
    std::filesystem::rename(place.raw("other"), place.raw("file"));
    const Run done = place.run("exec " + script);
    CHECK_MESSAGE(done.ending == "exit 0", done.errors);
}

TEST_CASE("where an ordinary user cannot have it, one line says why, and the command is not run") {
    const UserRunPlace place;
    const auto refused = [&](const Run& done, const std::string& says) {
        CHECK(done.ending == "exit 125");
        CHECK(done.output.empty());
        CHECK_MESSAGE(done.errors.find(says) != std::string::npos, done.errors);
        CHECK_MESSAGE(std::count(done.errors.begin(), done.errors.end(), '\n') == 1, done.errors);
    };
    refused(place.run("echo run", forbid_namespaces), "user namespace");
    must(::chmod("/dev/fuse", 0600), "chmod");
    refused(place.run("echo run"), "/dev/fuse");
    must(::chmod("/dev/fuse", 0666), "chmod");
    refused(place.run("echo run", [] { must(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl"); }),
            "Operation not permitted");
}

TEST_SUITE_END();
