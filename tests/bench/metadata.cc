// Operations on many small files.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <string>
#include <vector>

#include "tests/bench/comparison.h"
#include "tests/bench/contenders.h"
#include "tests/bench/groups.h"
#include "tests/mount/files.h"

namespace nosigbus::bench {

namespace {

using namespace test;

using Operation = void (*)(const char* path);

void create(const char* path) {
    must(::close(must(::open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), "create")), "close");
}

void ask_status(const char* path) {
    struct stat found {};
    must(::stat(path, &found), "stat");
}

void open_and_close(const char* path) {
    must(::close(must(::open(path, O_RDONLY | O_CLOEXEC), "open")), "close");
}

void remove(const char* path) {
    must(::unlink(path), "unlink");
}

constexpr std::array<Operation, 4> operations = {create, ask_status, open_and_close, remove};

}  // namespace

void measure_metadata(Form form) {
    const auto files = choose<std::size_t>(form, 10000, 200);
    const auto rounds = choose<std::size_t>(form, 5, 2);
    Contenders contenders = Contenders::all();
    std::vector<std::vector<std::string>> paths(contenders.count());
    for (std::size_t contender = 0; contender < contenders.count(); ++contender) {
        for (std::size_t i = 0; i < files; ++i)
            paths[contender].push_back(contenders.path(contender, fmt::format("file{:05}", i)));
    }
    const auto each = us_per_operation(files);
    Comparison comparison(fmt::format("{} files, µs per operation", files), contenders.names(),
                          {{"create and close", each}, {"stat", each}, {"open and close", each}, {"unlink", each}});
    contenders.take_turns(rounds, [&](std::size_t contender) {
        for (std::size_t operation = 0; operation < operations.size(); ++operation) {
            comparison.add(operation, contender, time_of([&] {
                               for (const std::string& path : paths[contender]) operations[operation](path.c_str());
                           }));
        }
    });
    contenders.end();
    comparison.print();
    fmt::print(
        "\nMedians of {} rounds; in parentheses how many times as long as raw. One operation after the other. By\n"
        "default bindfs and mergerfs let the kernel remember names and attributes for a second.\n",
        rounds);
}

}  // namespace nosigbus::bench
