// How many descriptors we may have, and who may have the last of them.
//
// Numbers are given lowest first (alloc_fd), so that the number of a new descriptor tells how full the table is. What
// stays (nodes, open files, what a refresh reads) may not have the last numbers. They are left for what comes and goes:
// a file that is opened to be truncated, a line for the log, the beginning of a worker or of a supervisor, which is an
// execve(2) with its libraries.
#pragma once

#include <vector>

#include "lib/unique_fd.h"

namespace nosigbus {

// All that are open. Throws std::system_error.
std::vector<int> open_descriptors();

// As many as we may have: a known inode takes one, an open file one or two.
void raise_descriptor_limit();

// Whether this one is for what comes and goes.
bool is_reserved(int descriptor) noexcept;

// Whether there are so many, this one included, that what can be done without had better not have any.
bool are_running_short(int descriptor) noexcept;

// Hands on a descriptor that is to stay. Throws std::system_error ENFILE, and closes it, where it is reserved.
UniqueFd to_stay(UniqueFd descriptor);

// Whether each thread there may be can have some more that stay. `any` is an open descriptor.
bool has_room_for_more(int any) noexcept;

// To be asked before something is made that takes a descriptor afterwards, so that nothing is made in vain. Throws
// std::system_error ENFILE.
void check_room_for_more(int any);

}  // namespace nosigbus
