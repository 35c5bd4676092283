// Programs that map or read files, on views of files that shrink under them: none dies of a signal.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t size = 8 * MiB;

// Lines of text, every tenth with a needle in it.
std::string haystack() {
    std::string text;
    for (int i = 0; text.size() < size; ++i) text += fmt::format("line {} {}\n", i, i % 10 == 0 ? "needle" : "hay");
    text.resize(size);
    return text;
}

// A thread that shrinks and refills a file for as long as this lives.
class Shrinking {
  public:
    Shrinking(int fd, const std::string& content)
        : thread_([this, fd, &content] {
              std::mt19937 random(1);
              while (!over_) {
                  resize(fd, random() % content.size());
                  if (random() % 4 == 0) resize(fd, 0);
                  write_at(fd, 0, content);
              }
          }) {}
    Shrinking(const Shrinking&) = delete;
    Shrinking& operator=(const Shrinking&) = delete;
    ~Shrinking() {
        over_ = true;
        thread_.join();
    }

  private:
    std::atomic<bool> over_ = false;
    std::thread thread_;
};

// Runs `command` `times` times. Says how the first run ended that did not exit; empty when all did.
std::string first_death(const std::vector<std::string>& command, int times) {
    for (int i = 0; i < times; ++i) {
        const Run finished = run(command);
        if (!finished.ending.starts_with("exit ") || finished.ending == "exit 127")
            return finished.ending + ": " + finished.errors;
    }
    return {};
}

std::string first_word(const std::string& text) {
    return text.substr(0, text.find_first_of(" \n"));
}

// Maps a file by one name, truncates it by another, and loads all of it.
const char* const python_reader = R"(import mmap, os, sys
name, backing = sys.argv[1:]
content = open(backing, 'rb').read()
with open(name, 'rb') as file:
    mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    assert mapping[0] == content[0]
    os.truncate(backing, 10)
    everything = mapping[:]
    assert len(everything) == len(mapping) >= len(content)
    os.fsync(file.fileno())
    assert mapping[:] == content[:10] + bytes(len(mapping) - 10)
    assert mapping.find(b'needle', 10) == -1
)";

}  // namespace

TEST_SUITE_BEGIN("programs");

TEST_CASE("Python's mmap of a file that it truncates itself") {
    const ViewMount mount({"max_size=16M"});
    make_file(mount.raw("file"), haystack());
    make_file(mount.raw("other"), haystack());
    CHECK(run({"python3", "-c", python_reader, mount.raw("file"), mount.raw("file")}).ending == "killed by SIGBUS");
    const Run viewing = run({"python3", "-c", python_reader, mount.view("other"), mount.raw("other")});
    CHECK_MESSAGE(viewing.ending == "exit 0", viewing.ending, ": ", viewing.errors);
}

TEST_CASE("Python's mmap of a file that shrinks under it") {
    const ViewMount mount({"max_size=16M"});
    const std::string content = haystack();
    const UniqueFd backing = make_file(mount.raw("file"), content);
    const std::string reader = R"(import mmap, sys
with open(sys.argv[1], 'rb') as file:
    for i in range(30): mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:].count(b'needle')
)";
    const Shrinking shrinking(backing.get(), content);
    CHECK(first_death({"python3", "-c", reader, mount.view("file")}, 5) == "");
    WARN_MESSAGE(first_death({"python3", "-c", reader, mount.raw("file")}, 20) != "",
                 "the raw file killed no reader this time");
}

TEST_CASE("ripgrep with --mmap on a file that shrinks under it") {
    REQUIRE_MESSAGE(run({"rg", "--version"}).ending == "exit 0", "ripgrep is not installed");
    const ViewMount mount({"max_size=16M"});
    const std::string content = haystack();
    const UniqueFd backing = make_file(mount.raw("file"), content);
    const auto command = [](const std::string& path) {
        return std::vector<std::string>{"rg", "--mmap", "--text", "--count", "needle", path};
    };
    const Run quiet = run(command(mount.view("file")));
    CHECK(quiet.ending == "exit 0");
    CHECK(quiet.output == run(command(mount.raw("file"))).output);
    {
        const Shrinking shrinking(backing.get(), content);
        CHECK(first_death(command(mount.view("file")), 60) == "");
        WARN_MESSAGE(first_death(command(mount.raw("file")), 200) != "", "the raw file killed no ripgrep this time");
    }
    CHECK(eventually([&] { return run(command(mount.view("file"))).output == quiet.output; }));
}

TEST_CASE("sha256sum on a file that shrinks under it") {
    const ViewMount mount({"max_size=16M"});
    const std::string content = haystack();
    const UniqueFd backing = make_file(mount.raw("file"), content);
    const auto sum = [](const std::string& path) { return first_word(run({"sha256sum", path}).output); };
    if (reads_end("the sum of a file")) CHECK(sum(mount.view("file")) == sum(mount.raw("file")));
    {
        const Shrinking shrinking(backing.get(), content);
        CHECK(first_death({"sha256sum", mount.view("file")}, 60) == "");
    }
    if (reads_end("the sum of a file")) CHECK(sum(mount.view("file")) == sum(mount.raw("file")));
    CHECK(sum(mount.raw("file")).size() == 64);
}

TEST_SUITE_END();
