// Programs that map files die when these shrink under them, and do not under `nosigbus run`.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/mount/files.h"
#include "tests/mount/run_place.h"
#include "tests/mount/user_place.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// Programs take a tenth of a second and more to go through it. It costs no memory until they do.
constexpr std::size_t size = 128 * MiB;

void without_core() {
    const rlimit none{.rlim_cur = 0, .rlim_max = 0};
    must(::setrlimit(RLIMIT_CORE, &none), "setrlimit");
}

bool has_mapped(pid_t pid, const std::string& path) {
    std::ifstream file(fmt::format("/proc/{}/maps", pid));
    const std::string maps((std::istreambuf_iterator<char>(file)), {});
    return maps.find(path) != std::string::npos;
}

struct Reading {
    bool has_mapped;
    std::string end;
};

// A program whose file becomes empty as soon as it has it mapped. What it says of the file then may be wrong.
Reading read_what_shrinks(const RunPlace& place, const std::vector<std::string>& command) {
    const std::string path = place.raw("victim");
    const UniqueFd backing = open_file(path, O_RDWR | O_CREAT);
    resize(backing.get(), size);
    Process process(command, {.environment = {"XDG_RUNTIME_DIR=" + place.runtime(), "GIT_CONFIG_NOSYSTEM=1"},
                              .before_exec = without_core});
    bool is_mapped = false;
    eventually([&] { return (is_mapped = has_mapped(process.pid(), path)) || !process.running(); });
    resize(backing.get(), 0);
    return {is_mapped, process.wait()};
}

void check_survives(const std::vector<std::string>& command) {
    const RunPlace place;
    std::vector<std::string> words = command;
    words.push_back(place.raw("victim"));
    // It may have gone through the file before that was truncated.
    const bool dies =
        eventually([&] { return read_what_shrinks(place, words).end == "killed by SIGBUS"; }, run_patience);
    CHECK_MESSAGE(dies, command.front(), " survives without nosigbus: this shows nothing");
    int rounds_left = 5;
    const bool is_tried = eventually(
        [&] {
            const Reading reading = read_what_shrinks(place, place.command(words));
            CHECK_MESSAGE((reading.end == "exit 0" || reading.end == "exit 1"), reading.end);
            if (reading.has_mapped) --rounds_left;
            return rounds_left == 0;
        },
        run_patience);
    CHECK(is_tried);
}

}  // namespace

TEST_SUITE_BEGIN("run-programs");

TEST_CASE("Python survives a file that shrinks under it with nosigbus run, and dies without") {
    check_survives({"python3", "-c", R"(import mmap, os, sys
with open(sys.argv[1], 'rb') as file:
    mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    while os.fstat(file.fileno()).st_size > 0: pass
    assert mapping[len(mapping) - 1] == 0
)"});
}

TEST_CASE("ripgrep survives a file that shrinks under it with nosigbus run, and dies without") {
    if (sizeof(void*) == 4) {
        MESSAGE("skipped: ripgrep maps no file where addresses have 32 bits");
        return;
    }
    check_survives({"rg", "--mmap", "--text", "--count", "needle"});
}

TEST_CASE("git survives a file that shrinks under it with nosigbus run, and dies without") {
    // Not where the test runs: that may be a work tree whose repository is elsewhere, out of reach.
    check_survives({"git", "-C", "/", "hash-object", "--no-filters"});
}

TEST_CASE("README: one program") {
    const RunPlace place;
    mount_tmpfs("/dev/shm");
    const std::string command = readme_command("run");
    const std::string wrapper = "nosigbus run --dir . ";
    REQUIRE(command.find(wrapper) != std::string::npos);
    const auto output_of = [&](const std::string& line) {
        const std::string path = std::filesystem::path(daemon_program).parent_path().string() + ":/usr/bin:/bin";
        return run({"sh", "-c", line},
                   {.environment = {"PATH=" + path, "XDG_RUNTIME_DIR=" + place.runtime()}, .before_exec = without_core})
            .output;
    };
    CHECK(output_of(command) == "0\n");
    CHECK(std::filesystem::is_empty("/dev/shm"));
    std::string plain = command;
    plain.erase(plain.find(wrapper), wrapper.size());
    CHECK(output_of(plain).empty());
    CHECK(::umount2("/dev/shm", MNT_DETACH) == 0);
}

TEST_SUITE_END();
