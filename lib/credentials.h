// Changing a directory as the caller: while one lives, what this thread creates belongs to that user and group, and
// what it removes or replaces in a sticky directory must be theirs.
#pragma once

#include <sys/types.h>

namespace nosigbus {

// Lets a root daemon switch the file system ids of its threads without losing the capabilities to reach every file:
// whether the caller may do what it asks has been decided by the kernel (default_permissions). Call before threads
// start. Does nothing for an ordinary user's daemon, whose files are its own anyway.
void keep_capabilities_across_ids();

class ActAs {
  public:
    ActAs(uid_t user, gid_t group);
    ActAs(const ActAs&) = delete;
    ActAs& operator=(const ActAs&) = delete;
    ~ActAs();

  private:
    bool switched_;
    bool without_owner_rights_;
};

}  // namespace nosigbus
