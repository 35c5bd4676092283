// nosigbus stat, and what it shows: user.nosigbus.stats.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

Run stat_command(std::vector<std::string> words, const Process::Setup& setup = {}) {
    words.insert(words.begin(), {daemon_program, "stat"});
    return run(words, setup);
}

// The line that `nosigbus stat` shows for this.
template <typename Value>
std::string line(const std::string& name, const Value& value) {
    return fmt::format("  {:<23}{}\n", name, value);
}

std::size_t lines_in(const std::string& text) {
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

TEST_SUITE_BEGIN("stat-command");

TEST_CASE("a view's sizes, engine and counters are shown to people, and to programs as JSON") {
    const ViewMount mount({"max_size=1M", "engine=auto"});
    make_file(mount.raw("file"), pattern(0, 5000));
    const Run shown = stat_command({mount.view("file")});
    CHECK_MESSAGE(shown.ending == "exit 0", shown.errors);
    CHECK(shown.output == mount.view("file") + ":\n" + line("real size", 5000) + line("view size", MiB) +
                              line("engine", "cache") + line("engine reason", "not open") + line("shadow memory", 0) +
                              line("faults averted", 0) + line("bytes zeroed", 0) + line("changes", 0) +
                              line("refreshes", 0) + line("drops", 0) + line("pushes", 0) + line("barriers", 0) +
                              line("errors", 0));
    const Run json = stat_command({"--json", mount.view("file")});
    CHECK(json.ending == "exit 0");
    CHECK(lines_in(json.output) == 1);
    const Run read = run({"python3", "-c", R"(import json, os, sys
of_view = {'real_size', 'view_size', 'shadow_memory'}
of_mount = {'restarts', 'shadows', 'shadow_memory', 'shadow_memory_allowed'}
for path, engine, wanted in zip(sys.argv[1:], ['cache', 'auto'], [of_view, of_mount]):
    stats = json.loads(os.getxattr(path, 'user.nosigbus.stats'))
    assert stats.pop('engine') == engine
    assert stats.pop('engine_reason', 'not_open') == 'not_open'
    assert set(stats) == wanted | {'faults_averted', 'bytes_zeroed', 'changes', 'refreshes', 'drops', 'pushes',
                                   'barriers', 'errors'}, stats
    assert all(type(each) is int for each in stats.values())
)",
                          mount.view("file"), mount.mountpoint()});
    CHECK_MESSAGE(read.ending == "exit 0", read.errors);
}

TEST_CASE("a mount's counters are shown for its mount point and for every directory in it") {
    const ViewMount mount({"engine=auto"});
    must(::mkdir(mount.raw("directory").c_str(), 0755), "mkdir");
    const Run shown = stat_command({mount.mountpoint(), mount.view("directory")});
    CHECK_MESSAGE(shown.ending == "exit 0", shown.errors);
    CHECK(shown.output.find(mount.mountpoint() + ":\n" + line("engine", "auto")) == 0);
    CHECK(shown.output.find(mount.view("directory") + ":\n" + line("engine", "auto")) != std::string::npos);
    CHECK(shown.output.find(line("restarts", 0)) != std::string::npos);
    CHECK(shown.output.find("real size") == std::string::npos);
}

TEST_CASE("loads past the end are faults averted, and the zeros they get are counted") {
    const ViewMount mount({"max_size=1M", "engine=cache"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 4 * page));
    make_file(mount.raw("other"), "abc");
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(stats(mount.view("file"))["faults_averted"] == 0);
    resize(backing.get(), 0);
    CHECK(mapping.byte(2 * page) == 0);
    const auto averted = stats(mount.view("file"))["faults_averted"];
    CHECK(averted > 0);
    CHECK(stats(mount.view("file"))["bytes_zeroed"] >= page);
    CHECK(stats(mount.mountpoint())["faults_averted"] == averted);
    CHECK(stats(mount.mountpoint())["bytes_zeroed"] == stats(mount.view("file"))["bytes_zeroed"]);
    CHECK(stats(mount.view("other"))["bytes_zeroed"] == 0);
}

TEST_CASE("pages that were loaded before the file shrank count when zeros take their place") {
    const ViewMount mount({"max_size=1M", "engine=cache"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 4 * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), 4 * page);
    CHECK(mapping.touch() == 4);
    const auto before = stats(mount.view("file"));
    resize(backing.get(), page + 1);
    CHECK(::fsync(view.get()) == 0);
    const auto after = stats(mount.view("file"));
    CHECK(after.at("faults_averted") == before.at("faults_averted") + 2);
    CHECK(after.at("bytes_zeroed") == before.at("bytes_zeroed") + 3 * page - 1);
    CHECK(after.at("pushes") == before.at("pushes") + 3);
    CHECK(mapping.bytes() == padded(pattern(0, page + 1), 4 * page));
}

TEST_CASE("changes, refreshes, pushes, drops and barriers are counted for the view that they concern") {
    const ViewMount mount({"max_size=1M", "engine=cache"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 4 * page));
    const UniqueFd other_backing = make_file(mount.raw("other"), pattern(0, 4 * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const UniqueFd other = open_file(mount.view("other"), O_RDWR);
    const Mapping mapping(view.get(), 4 * page);
    const Mapping other_mapping(other.get(), 4 * page);
    CHECK(mapping.touch() == 4);
    CHECK(other_mapping.touch() == 4);
    const auto now = [&](const char* name) { return stats(mount.view(name)); };
    CHECK(now("file")["changes"] == 0);
    write_at(backing.get(), 0, pattern(0, 2 * page, 1));
    CHECK(eventually([&] { return now("file")["changes"] > 0 && now("file")["refreshes"] > 0; }));
    CHECK(eventually([&] { return now("file")["pushes"] >= 2; }));
    CHECK(now("file")["drops"] == 0);
    CHECK(now("file")["barriers"] == 0);
    const auto counted = now("other");
    // On a slow machine the sweep may have looked at it meanwhile, and it was made just now.
    const bool was_swept = counters(mount).at("sweep_refreshes") > 0;
    if (was_swept) MESSAGE("left out, for the sweep has come between: that nothing is counted for the other");
    for (const char* each : {"changes", "refreshes", "pushes", "drops", "barriers"}) {
        CAPTURE(each);
        if (!was_swept) CHECK(counted.at(each) == 0);
    }
    // Where somebody has it open for writing, nothing is pushed.
    write_at(other_backing.get(), 0, pattern(0, 2 * page, 1));
    CHECK(::fsync(other.get()) == 0);
    CHECK(now("other")["drops"] >= 2);
    CHECK(now("other")["pushes"] == 0);
    CHECK(now("other")["barriers"] == 1);
    const auto all = stats(mount.mountpoint());
    for (const char* each : {"changes", "refreshes", "pushes", "drops", "barriers"}) {
        CAPTURE(each);
        CHECK(all.at(each) >= now("file")[each]);
        CHECK(all.at(each) >= now("other")[each]);
    }
}

TEST_CASE("the mount's counters outlive a worker, and a view's begin anew") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("file"), "abc");
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    CHECK(::fsync(view.get()) == 0);
    CHECK(stats(mount.view("file"))["barriers"] == 1);
    CHECK(kill_worker(mount.pid()) > 0);
    CHECK(stats(mount.view("file"))["barriers"] == 0);
    CHECK(stats(mount.mountpoint())["barriers"] == 1);
    CHECK(stats(mount.mountpoint())["restarts"] == 1);
    CHECK(stat_command({mount.mountpoint()}).output.find(line("restarts", 1)) != std::string::npos);
}

TEST_CASE("what is neither a view nor in a mount is said in one line each, and the others are shown") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("file"), "abc");
    make_file(mount.plain() + "/file", "abc");
    // Whoever owns a file can have it say that. Not in each tmpfs: there was none of these in one before Linux 6.6.
    static_cast<void>(::setxattr((mount.plain() + "/file").c_str(), "user.nosigbus.stats", "{\"a\":1}", 7, 0));
    must(::mkfifo(mount.raw("fifo").c_str(), 0644), "mkfifo");
    for (const std::string& path : {mount.raw("file"), mount.plain() + "/file", mount.source(), std::string("/proc"),
                                    std::string("/dev/null"), mount.view("fifo"), mount.view("missing")}) {
        CAPTURE(path);
        const Run shown = stat_command({path, mount.view("file")});
        CHECK(shown.ending == "exit 1");
        CHECK(lines_in(shown.errors) == 1);
        CHECK(shown.errors.find(path) != std::string::npos);
        CHECK(shown.output.find(mount.view("file") + ":\n" + line("real size", 3)) == 0);
        CHECK(stat_command({"--json", path}).output.empty());
    }
    for (const std::vector<std::string>& words : {std::vector<std::string>{}, {"--json"}, {"-x", mount.view("file")}}) {
        const Run refused = stat_command(words);
        CHECK(refused.ending == "exit 1");
        CHECK(lines_in(refused.errors) == 1);
        CHECK(refused.errors.find("usage: nosigbus stat") != std::string::npos);
    }
    CHECK(stat_command({"--help"}).ending == "exit 0");
}

TEST_CASE("a name cannot speak to the terminal") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("a\033[2J\nb"), "abc");
    CHECK(stat_command({mount.view("a\033[2J\nb")}).output.find(mount.view("a?[2J?b") + ":\n") == 0);
    CHECK(stat_command({mount.raw("a\033[2J\nb")}).errors.find(mount.raw("a?[2J?b") + ": neither") !=
          std::string::npos);
}

TEST_CASE("ordinary users are shown what they may read") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("readable"), "abc");
    make_file(mount.raw("secret"), "abc");
    must(::chmod(mount.raw("secret").c_str(), 0600), "chmod");
    const std::string program = mount.root() + "/nosigbus";  // the build may be closed to others
    CHECK(run({"cp", daemon_program, program}).ending == "exit 0");
    const auto as_nobody = [&](const std::string& path) {
        return run({program, "stat", path}, {.before_exec = [] { become(nobody); }});
    };
    CHECK(as_nobody(mount.view("readable")).output.find(line("real size", 3)) != std::string::npos);
    CHECK(as_nobody(mount.mountpoint()).ending == "exit 0");
    const Run refused = as_nobody(mount.view("secret"));
    CHECK(refused.ending == "exit 1");
    CHECK(refused.errors == fmt::format("nosigbus: {}: Permission denied\n", mount.view("secret")));
}

TEST_SUITE_END();
