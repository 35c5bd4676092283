#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string_view>

#include "tests/bench/command_line.h"
#include "tests/bench/machine.h"
#include "tests/mount/guard.h"
#include "tests/mount/kernel.h"

namespace {

using namespace nosigbus::bench;

void measure(const Group& group, Form form) {
    fmt::print("\n## {}: {}\n", group.name, group.what);
    std::fflush(stdout);
    group.measure(form);
    std::fflush(stdout);
}

int measure_all(const CommandLine& line) {
    std::string_view now = "start";
    try {
        nosigbus::test::kernel_maps_direct_files();  // tests/mount asks for it, and later its mount would be in the way
        fmt::print("{}", description_of_machine());
        if (line.form == Form::quick) fmt::print("The short form: it shows that it works, not how fast.\n");
        for (const Group& group : groups) {
            if (line.only && line.only->name != group.name) continue;
            now = group.name;
            measure(group, line.form);
        }
        return EXIT_SUCCESS;
    } catch (const std::exception& failure) {
        std::fflush(stdout);
        fmt::print(stderr, "nosigbus_bench: {}: {}\n", now, failure.what());
        return EXIT_FAILURE;
    }
}

}  // namespace

int main(int argc, char** argv) {
    CommandLine line;
    try {
        line = parse_command_line(argc, argv);
    } catch (const BadCommandLine& bad) {
        fmt::print(stderr, "nosigbus_bench: {}\n", bad.what());
        return EXIT_FAILURE;
    }
    if (line.help) {
        fmt::print("{}", help_text());
        return EXIT_SUCCESS;
    }
    // The guard's deadline is made for tests. The full form may take longer, also on a slow machine.
    if (line.form == Form::full) ::setenv("NOSIGBUS_TEST_DEADLINE", "1800", 0);
    return nosigbus::test::guarded([&line] { return measure_all(line); });
}
