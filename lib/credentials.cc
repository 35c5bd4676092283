#include "lib/credentials.h"

#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "lib/log.h"

namespace nosigbus {

void keep_capabilities_across_ids() {
    if (::geteuid() != 0) return;
    // capabilities(7): without this bit, setfsuid(2) to an ordinary user drops CAP_DAC_OVERRIDE and its kin.
    if (::prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) == 0) return;
    log::warning("files are created with the rights of their new owner only: prctl(PR_SET_SECUREBITS): {}",
                 std::strerror(errno));
}

// setfsuid(2) and setfsgid(2) act on the calling thread alone, and glibc does not spread them.
ActAs::ActAs(uid_t user, gid_t group) : switched_(::geteuid() == 0) {
    if (!switched_) return;
    ::setfsgid(group);
    ::setfsuid(user);
}

ActAs::~ActAs() {
    if (!switched_) return;
    ::setfsuid(0);
    ::setfsgid(::getegid());
}

}  // namespace nosigbus
