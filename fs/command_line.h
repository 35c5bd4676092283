// nosigbus SOURCE MOUNTPOINT [-o option[,option...]] [-f] [-d] | --reload MOUNTPOINT | -V | -h
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "lib/options.h"

namespace nosigbus {

struct CommandLine {
    std::string source;
    std::string mount_point;
    Options options;
    std::vector<std::string> option_lists;  // the options as they were given
    std::string reload;                     // the mount point whose server is to be replaced by what is installed now
    int resume = -1;                        // a descriptor: the state to take over
    int check = -1;                         // a descriptor: the state to look at, whether it could be taken over
    bool is_for_a_program = false;          // nosigbus run: what is written to its standard error is the program's own
    bool foreground = false;
    bool debug = false;
    bool version = false;
    bool help = false;
};

// what() is one line that names what is wrong and says what is accepted.
class BadCommandLine : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Throws BadCommandLine or BadOption.
CommandLine parse_command_line(int argc, char** argv);

// What -h prints.
std::string help_text();

}  // namespace nosigbus
