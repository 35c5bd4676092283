// A mount namespace for one program and those it starts.
#pragma once

#include <string>

namespace nosigbus {

// Moves this process, which must have one thread only, into a copy of its mount namespace that changes on its own. For
// who may not do so, in a user namespace in which nobody has more rights than before: the user and the group of the
// process are there under their own numbers, and no others. Throws MountFailed or std::system_error.
void enter_private_namespace();

// Has `mounted`, a directory, appear at `directory` too: one that is the same as the descriptor `expected`, wherever
// the path leads by now. Throws MountFailed or std::system_error.
void cover(const std::string& directory, int expected, const std::string& mounted);

}  // namespace nosigbus
