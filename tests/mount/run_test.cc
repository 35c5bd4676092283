// nosigbus run: one program with the views of a directory in its place.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <filesystem>

#include "tests/mount/daemon_usage.h"
#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/run_place.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

Run run_in(const RunPlace& place, const std::string& script, const std::vector<std::string>& options = {}) {
    return place.run({"sh", "-c", script}, options);
}

}  // namespace

TEST_SUITE_BEGIN("run");

TEST_CASE("the command sees views in the place of the directory, with their real sizes, and nobody else does") {
    const RunPlace place;
    make_file(place.raw("file"), pattern(0, 5000));
    const Gate gate(place.root() + "/gate");
    Process process(place.command({"sh", "-c",
                                   fmt::format("stat -c %s {0}; stat -f -c %T {0}; read line < {1}; cat {0}",
                                               place.raw("file"), gate.path())}),
                    place.setup());
    CHECK(eventually([&] { return process.output() == "5000\nfuseblk\n" || process.output() == "5000\nfuse\n"; }));
    CHECK(nosigbus_mounts().empty());
    CHECK(std::filesystem::is_empty(place.runtime()));
    CHECK(status(place.raw("file")).st_dev == status(place.source()).st_dev);
    const auto inside = mount_table(fmt::format("/proc/{}/mountinfo", process.pid()));
    const auto views = std::ranges::count_if(inside, [](const Mount& each) { return each.type == "fuse.nosigbus"; });
    CHECK(views == 1);
    gate.open();
    CHECK(process.wait() == "exit 0");
    CHECK(process.output().ends_with(pattern(0, 5000)));
    CHECK(process.errors().empty());
}

TEST_CASE("exit status, death by a signal and process id are the command's own") {
    RunPlace place;
    for (const int status : {0, 1, 7, 125, 255})
        CHECK(run_in(place, fmt::format("exit {}", status)).ending == fmt::format("exit {}", status));
    for (const std::string signal : {"TERM", "KILL", "SEGV", "BUS"})
        CHECK(run_in(place, fmt::format("ulimit -c 0; kill -{} $$", signal)).ending == "killed by SIG" + signal);
    place.check_nothing_left();
    const Gate gate(place.root() + "/gate");
    Process process(place.command({"sh", "-c", fmt::format("echo $$ $PPID; read line < {}", gate.path())}),
                    place.setup());
    CHECK(eventually([&] { return !process.output().empty(); }));
    CHECK(process.output() == fmt::format("{} {}\n", process.pid(), ::getpid()));
    CHECK(children(process.pid()).empty());  // the servers are none of its children
    // Nor do they look like the command to who signals it by its name.
    const std::string servers_words = read_all(fmt::format("/proc/{}/cmdline", RunPlace::server(process)));
    CHECK(servers_words.find(daemon_program) == 0);
    CHECK(servers_words.find(gate.path()) == std::string::npos);
    gate.open();
    CHECK(process.wait() == "exit 0");
}

TEST_CASE("signals from outside are the command's, and the servers have none of them") {
    const RunPlace place;
    make_file(place.raw("file"), "abc");
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGKILL}) {
        Process process(place.command({"sh", "-c", "echo ready; while :; do cat file > /dev/null; done"}),
                        {.directory = place.source(), .environment = place.setup().environment});
        CHECK(eventually([&] { return process.output() == "ready\n"; }));
        ::kill(process.pid(), signal);
        CHECK(process.wait() == fmt::format("killed by SIG{}", ::sigabbrev_np(signal)));
    }
    // From the terminal they go to a process group.
    const Gate gate(place.root() + "/gate");
    Process process(place.command({"sh", "-c",
                                   fmt::format("trap 'echo caught' INT; kill -INT 0; echo; read line < {}; cat {}",
                                               gate.path(), place.raw("file"))}),
                    {.environment = place.setup().environment, .before_exec = [] { ::setpgid(0, 0); }});
    gate.open();
    CHECK(process.wait() == "exit 0");
    CHECK(process.output() == "caught\n\nabc");
}

TEST_CASE("standard input, output and error are the command's, and so are arguments and environment") {
    const RunPlace place;
    make_file(place.raw("file"), "abc");
    const std::string program =
        fmt::format("XDG_RUNTIME_DIR={} {} run --dir {} --", place.runtime(), daemon_program, place.source());
    CHECK(run({"sh", "-c", fmt::format("echo abc | {} tr a-c A-C | {} cat", program, program)}).output == "ABC\n");
    CHECK(run({"sh", "-c", fmt::format("echo abc > {}/in; {} cat < {}/in", place.plain(), program, place.plain())})
              .output == "abc\n");
    // What the shell has opened is what was there before.
    CHECK(
        run({"sh", "-c", fmt::format("{} stat -f -L -c %T /proc/self/fd/0 < {}", program, place.raw("file"))}).output ==
        "tmpfs\n");
    const Run both = run_in(place, "echo out; echo err >&2; echo $HELLO", {});
    CHECK(both.output == "out\n\n");
    CHECK(both.errors == "err\n");
    CHECK(place.run({"printf", "%s|", "a b", "", "-o", "--dir", "--"}).output == "a b||-o|--dir|--|");
    CHECK(place.run({"env", "HELLO=there", "sh", "-c", "echo $HELLO"}).output == "there\n");
    // Without the two dashes too: what follows the command is the command's.
    CHECK(
        run({daemon_program, "run", "--dir", place.source(), "printf", "%s|", "-o", "--help"}, place.setup()).output ==
        "-o|--help|");
}

TEST_CASE("the command has no descriptor of ours, and the servers none of the caller's") {
    const RunPlace place;
    const std::string names = "for each in /proc/self/fd/*; do echo ${each##*/}; done";
    CHECK(run_in(place, names).output == run({"sh", "-c", names}).output);
    // One that is closed stays so.
    make_file(place.raw("file"), "abc");
    const Run closed = run(place.command({"sh", "-c", "cat file; test -e /proc/self/fd/0 || echo closed"}),
                           {.directory = place.source(), .environment = place.setup().environment, .before_exec = [] {
                                ::close(STDIN_FILENO), ::close(STDERR_FILENO);
                            }});
    CHECK(closed.ending + " " + closed.output == "exit 0 abcclosed\n");
    // A pipe whose reader waits for the last writer to close it.
    const Gate gate(place.root() + "/gate");
    std::array<int, 2> ends{};
    must(::pipe(ends.data()), "pipe");  // NOLINT(android-cloexec-pipe): to be inherited
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    Process process(
        place.command({"sh", "-c", fmt::format("exec {}>&-; echo closed; read line < {}", ends[1], gate.path())}),
        place.setup());
    writer.reset();
    CHECK(eventually([&] { return process.output() == "closed\n"; }));
    char byte = 0;
    ::fcntl(reader.get(), F_SETFL, O_NONBLOCK);
    CHECK(answer(::read(reader.get(), &byte, 1)) == "0");
    gate.open();
    CHECK(process.wait() == "exit 0");
}

TEST_CASE("several directories can be given, by any name, and the command may start inside one") {
    const RunPlace place;
    make_file(place.raw("file"), "one");
    make_file(place.plain() + "/file", "two");
    must(::mkdir(place.raw("sub").c_str(), 0755), "mkdir");
    make_file(place.raw("sub/file"), "three");
    must(::symlink(place.plain().c_str(), (place.root() + "/link").c_str()), "symlink");
    const auto all = [&](const std::vector<std::string>& words, const std::string& directory) {
        std::vector<std::string> command = {daemon_program, "run"};
        command.insert(command.end(), words.begin(), words.end());
        command.insert(
            command.end(),
            {"sh", "-c", "pwd -P; grep -c fuse.nosigbus /proc/self/mountinfo; stat -f -c %T . | cut -c -4; cat file"});
        const Run done = run(command, {.directory = directory, .environment = place.setup().environment});
        return done.ending + " " + done.output + done.errors;
    };
    CHECK(all({"--dir", place.source(), "--dir", place.plain()}, place.source()) ==
          fmt::format("exit 0 {}\n2\nfuse\none", place.source()));
    CHECK(all({"--dir", "source", "--dir=./link", "-o", "max_size=1M"}, place.root())
              .starts_with(fmt::format("exit 1 {}\n2\n", place.root())));
    CHECK(all({"--dir", "."}, place.plain()) == fmt::format("exit 0 {}\n1\nfuse\ntwo", place.plain()));
    CHECK(all({"--dir", ".."}, place.raw("sub")) == fmt::format("exit 0 {}\n1\nfuse\nthree", place.raw("sub")));
    CHECK(all({"--dir", place.root() + "/link"}, place.root() + "/link") ==
          fmt::format("exit 0 {}\n1\nfuse\ntwo", place.plain()));
}

TEST_CASE("the command can have views of its own descriptors") {
    const RunPlace place;
    make_file(place.plain() + "/elsewhere", "abc");
    const Run done =
        run_in(place, fmt::format("exec 7< {1}/elsewhere; cat {0}/.nosigbus/fd/7", place.source(), place.plain()));
    CHECK(done.ending + " " + done.output == "exit 0 abc");
}

TEST_CASE("mount options are those of any mount") {
    const RunPlace place;
    make_file(place.raw("file"), "abc");
    const std::string file = place.raw("file");
    CHECK(run_in(place, "stat -c %s " + file, {"-o", "stat=view,max_size=2M"}).output ==
          std::to_string(2 * MiB) + "\n");
    CHECK(run_in(place, "echo no > " + file, {"-o", "ro"}).errors.find("Read-only file system") != std::string::npos);
    CHECK(run_in(place, "echo written > " + file).ending == "exit 0");
    CHECK(read_all(file) == "written\n");
    CHECK(run_in(place, fmt::format("{} stat --json {}", daemon_program, file)).output.find("\"real_size\":8,") !=
          std::string::npos);
}

TEST_CASE("what cannot be done is said in one line, and the command is not run") {
    const RunPlace place;
    must(::mkdir(place.raw("sub").c_str(), 0755), "mkdir");
    make_file(place.raw("file"), "not a program");
    const std::string evidence = place.root() + "/evidence";
    const auto refused = [&](const std::vector<std::string>& words, const std::string& status,
                             const std::string& says) {
        CAPTURE(says);
        std::vector<std::string> command = {daemon_program, "run"};
        command.insert(command.end(), words.begin(), words.end());
        const Run done = run(command, place.setup());
        CHECK(done.ending == status);
        CHECK(done.output.empty());
        CHECK_MESSAGE(done.errors.find(says) != std::string::npos, done.errors);
        CHECK_MESSAGE(std::count(done.errors.begin(), done.errors.end(), '\n') == 1, done.errors);
        CHECK_FALSE(std::filesystem::exists(evidence));
        CHECK(std::filesystem::is_empty(place.runtime()));
    };
    const std::string dir = "--dir=" + place.source();
    refused({}, "exit 125", "no --dir");
    refused({"touch", evidence}, "exit 125", "no --dir");
    refused({dir}, "exit 125", "no command");
    refused({dir, "--"}, "exit 125", "no command");
    refused({"--dir"}, "exit 125", "--dir needs an argument");
    refused({"-x", dir, "touch", evidence}, "exit 125", "unknown switch -x");
    refused({"--dri", place.source(), "touch", evidence}, "exit 125", "unknown switch --dri");
    refused({dir, "-o", "nonsense", "touch", evidence}, "exit 125", "unknown option nonsense");
    refused({"--dir", place.root() + "/missing", "touch", evidence}, "exit 125", "/missing: No such file or directory");
    refused({"--dir", place.raw("file"), "touch", evidence}, "exit 125", "/file: Not a directory");
    refused({dir, dir, "touch", evidence}, "exit 125", "one is inside the other");
    refused({dir, "--dir", place.raw("sub"), "touch", evidence}, "exit 125", "one is inside the other");
    refused({"--dir", place.raw("sub"), dir, "touch", evidence}, "exit 125", "one is inside the other");
    refused({"--dir", "/", "touch", evidence}, "exit 125", "no place for the mounts");
    refused({dir, "--", "nosuchprogram"}, "exit 127", "nosuchprogram: No such file or directory");
    refused({dir, place.raw("missing")}, "exit 127", "No such file or directory");
    refused({dir, place.raw("file")}, "exit 126", "Permission denied");
    refused({dir, place.source()}, "exit 126", "Permission denied");
    CHECK(run({daemon_program, "run", "--help"}).ending == "exit 0");
}

TEST_CASE("views last while a process of the command's is left, and go with the last one") {
    const RunPlace place;
    make_file(place.raw("file"), "abc");
    const Gate gate(place.root() + "/gate");
    const Run started = run_in(place, fmt::format("(read line < {0}; stat -f -c %T {1} > {2}/type; cat {1} > {2}/copy) "
                                                  "> /dev/null 2>&1 & exit 3",
                                                  gate.path(), place.raw("file"), place.plain()));
    CHECK(started.ending == "exit 3");
    gate.open();
    const std::string copy = place.plain() + "/copy";
    CHECK(eventually([&] { return std::filesystem::exists(copy) && read_all(copy) == "abc"; }));
    CHECK(read_all(place.plain() + "/type").starts_with("fuse"));
}

TEST_CASE("nothing is left where nosigbus run is killed before it has become the command") {
    RunPlace place;
    for (int round = 0; round < 20; ++round) {
        CAPTURE(round);
        Process process(place.command({"sleep", "infinity"}), place.setup());
        const auto has_come_so_far = [&] {
            return round % 2 == 0 ? !std::filesystem::is_empty(place.runtime()) : !nosigbus_mounts().empty();
        };
        eventually([&] { return has_come_so_far() || command_name(process.pid()) == "sleep"; });
        ::kill(process.pid(), SIGKILL);
        CHECK(process.wait() == "killed by SIGKILL");
        CHECK(eventually([&] { return std::filesystem::is_empty(place.runtime()) && nosigbus_mounts().empty(); }));
        place.check_nothing_left();
    }
}

TEST_CASE("the command notices nothing when the worker and the supervisor are killed, nor of a SIGTERM to it") {
    RunPlace place;
    place.expect_ends({"exit 0", "killed by SIGKILL", "exit 2"});
    make_file(place.raw("file"), pattern(0, 64 * page));
    const Gate gate(place.root() + "/gate");
    const std::string script = R"(import mmap, sys
def wait(): open(sys.argv[2]).read()
size = int(sys.argv[3])
with open(sys.argv[1], 'rb') as file:
    content = file.read(size)
    for round in range(4):
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        print(round, flush=True)
        wait()
        assert mapping[:] == content
        with open(sys.argv[1], 'rb') as again: assert again.read(size) == content
)";
    const std::string size = kernel_maps_direct_files() ? "-1" : std::to_string(64 * page);
    Process process(place.command({"python3", "-c", script, place.raw("file"), gate.path(), size}), place.setup());
    const auto reaches = [&](int round) {
        return eventually([&] { return process.output().ends_with(fmt::format("{}\n", round)); });
    };
    REQUIRE(reaches(0));
    const pid_t supervisor = RunPlace::server(process);
    REQUIRE(supervisor > 0);
    CHECK(eventually([&] { return heir_of(supervisor) != 0; }));
    CHECK(kill_worker(supervisor) > 0);
    gate.open();
    REQUIRE(reaches(1));
    ::kill(supervisor, SIGTERM);
    gate.open();
    REQUIRE(reaches(2));
    CHECK(eventually([&] { return heir_of(supervisor) != 0; }));
    ::kill(supervisor, SIGKILL);
    gate.open();
    REQUIRE(reaches(3));
    gate.open();
    CHECK(process.wait() == "exit 0");
    CHECK_MESSAGE(process.errors().empty(), process.errors());
}

TEST_SUITE_END();
