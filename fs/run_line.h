// What stands behind `nosigbus run`.
#pragma once

#include <string>
#include <vector>

#include "lib/options.h"

namespace nosigbus {

struct RunLine {
    std::vector<std::string> directories;
    Options options;
    std::vector<std::string> option_lists;  // the options as they were given, and ours before them
    char** command = nullptr;               // as execvp(3) wants it
    bool help = false;
};

// Throws BadCommandLine or BadOption. `argv` begins with "run".
RunLine parse_run_line(int argc, char** argv);

// What `nosigbus run --help` prints.
std::string run_help_text();

}  // namespace nosigbus
