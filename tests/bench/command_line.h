// The command line of nosigbus_bench.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>

#include "tests/bench/groups.h"

namespace nosigbus::bench {

struct BadCommandLine : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct CommandLine {
    Form form = Form::full;
    std::optional<Group> only{};
    bool help = false;
};

CommandLine parse_command_line(int argc, char** argv);

std::string help_text();

}  // namespace nosigbus::bench
