// nosigbus stat FILE...
#pragma once

namespace nosigbus {

// Shows of each file or mount point what nosigbus has done for it. Returns the exit status: failure where one of them
// is no view, which one line says. Throws BadCommandLine. `argv` begins with "stat".
int show_stats(int argc, char** argv);

}  // namespace nosigbus
