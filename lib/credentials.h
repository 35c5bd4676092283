// Changing a directory as the caller: while one lives, what this thread creates belongs to that user and group, and
// what it removes or replaces in a sticky directory must be theirs.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

namespace nosigbus {

// Lets a root daemon switch the file system ids of its threads without losing the capabilities to reach every file:
// whether the caller may do what it asks has been decided by the kernel (default_permissions). Its own groups go: none
// of them may count for a caller. Call before threads start. Does nothing for an ordinary user's daemon, whose files
// are its own anyway.
void keep_capabilities_across_ids();

// Gives this thread a umask of its own, which a new thread shares with all others: unshare(2), CLONE_FS. Returns
// whether it has one; without, ActAs leaves the umask alone.
bool have_own_umask();

// Whose doing something is.
struct Caller {
    uid_t user;
    gid_t group;
    mode_t umask = 0;
    std::vector<gid_t> groups{};  // supplementary
};

class ActAs {
  public:
    enum class Rights { daemons, callers };

    // Unless the caller is root: with Rights::daemons, without CAP_FOWNER and CAP_LINUX_IMMUTABLE; with Rights::callers
    // without CAP_CHOWN and CAP_FSETID besides, so that the kernel asks whose file it is, and of which group.
    explicit ActAs(const Caller& caller, Rights rights = Rights::daemons);
    ActAs(const ActAs&) = delete;
    ActAs& operator=(const ActAs&) = delete;
    ~ActAs();

  private:
    bool switched_;
    bool has_groups_ = false;
    std::uint64_t without_ = 0;  // capabilities
    mode_t umask_ = 0;
};

// While one lives, this thread loses the set-group-ID bit of a file of a group other than `group` when it changes its
// mode: that group alone counts, and CAP_FSETID is gone.
class WithoutSetIds {
  public:
    explicit WithoutSetIds(gid_t group);
    WithoutSetIds(const WithoutSetIds&) = delete;
    WithoutSetIds& operator=(const WithoutSetIds&) = delete;
    ~WithoutSetIds();

  private:
    bool switched_;
    std::uint64_t without_ = 0;  // capabilities
};

}  // namespace nosigbus
