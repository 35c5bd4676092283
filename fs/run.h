// nosigbus run --dir DIR... [-o options] COMMAND...
//
// COMMAND is executed by this very process, in a mount namespace of its own in which each DIR is covered by its views.
// So its process id, terminal, signals and exit status are its own.
#pragma once

namespace nosigbus {

// Returns only where COMMAND is not run, or none is asked for: the exit status, having said why. `argv` begins with
// "run".
int run_command(int argc, char** argv);

}  // namespace nosigbus
