// nosigbus SOURCE MOUNTPOINT [-o option[,option...]] [-f] [-d] [-V] [-h]
#pragma once

#include <stdexcept>
#include <string>

#include "lib/options.h"

namespace nosigbus {

struct CommandLine {
    std::string source;
    std::string mount_point;
    Options options;
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
