#include "lib/credentials.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "lib/capabilities.h"
#include "lib/log.h"

namespace nosigbus {
namespace {

// With CAP_FOWNER the kernel would not look whose file it is that a name in a sticky directory stands for by the time
// we act; when it checked the caller, another file may have stood there. With CAP_LINUX_IMMUTABLE it would not look
// whether the caller may take a flag away that root has set since.
constexpr std::uint64_t owners_rights = mask_of(CAP_FOWNER) | mask_of(CAP_LINUX_IMMUTABLE);
constexpr std::uint64_t mode_rights = mask_of(CAP_CHOWN) | mask_of(CAP_FSETID);

thread_local bool umask_is_own = false;

// Takes `wanted` from what this thread may do. Returns those that it could do before.
std::uint64_t drop_effective(std::uint64_t wanted) {
    Capabilities sets{};
    if (!get_capabilities(sets)) return 0;
    const std::uint64_t dropped = sets.effective & wanted;
    if (dropped == 0) return 0;
    sets.effective &= ~dropped;
    return set_capabilities(sets) ? dropped : 0;
}

void give_back(std::uint64_t dropped) {
    Capabilities sets{};
    if (dropped == 0 || !get_capabilities(sets)) return;
    sets.effective |= dropped;
    set_capabilities(sets);
}

}  // namespace

void keep_capabilities_across_ids() {
    if (::geteuid() != 0) return;
    // Where this is refused, in a user namespace that denies it, files are created all the same.
    static_cast<void>(::setgroups(0, nullptr));
    // capabilities(7): without this bit, setfsuid(2) to an ordinary user drops CAP_DAC_OVERRIDE and its kin.
    if (::prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) == 0) return;
    log::warning("files are created with the rights of their new owner only: prctl(PR_SET_SECUREBITS): {}",
                 std::strerror(errno));
}

bool have_own_umask() {
    umask_is_own = umask_is_own || ::unshare(CLONE_FS) == 0;
    return umask_is_own;
}

// The older call of some machines takes groups of 16 bits.
#if defined(SYS_setgroups32)
constexpr long setgroups_number = SYS_setgroups32;
#else
constexpr long setgroups_number = SYS_setgroups;
#endif

// setfsuid(2), setfsgid(2), capset(2) and the system call setgroups act on the calling thread alone. glibc spreads the
// last of them only, when asked by its name.
ActAs::ActAs(const Caller& caller, Rights rights) : switched_(::geteuid() == 0) {
    if (umask_is_own) umask_ = ::umask(caller.umask);
    if (!switched_) return;
    has_groups_ =
        !caller.groups.empty() && ::syscall(setgroups_number, caller.groups.size(), caller.groups.data()) == 0;
    if (caller.user != 0)
        without_ = drop_effective(rights == Rights::callers ? owners_rights | mode_rights : owners_rights);
    ::setfsgid(caller.group);
    ::setfsuid(caller.user);
}

ActAs::~ActAs() {
    if (umask_is_own) ::umask(umask_);
    if (!switched_) return;
    ::setfsuid(0);
    ::setfsgid(::getegid());
    give_back(without_);
    if (has_groups_) ::syscall(setgroups_number, 0, nullptr);
}

WithoutSetIds::WithoutSetIds(gid_t group) : switched_(::geteuid() == 0) {
    if (!switched_) return;
    without_ = drop_effective(mask_of(CAP_FSETID));
    ::setfsgid(group);
}

WithoutSetIds::~WithoutSetIds() {
    if (!switched_) return;
    ::setfsgid(::getegid());
    give_back(without_);
}

}  // namespace nosigbus
