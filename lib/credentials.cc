#include "lib/credentials.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
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

namespace {

// Takes CAP_FOWNER from what this thread may do, or gives it back. With it the kernel would not look whose file it is
// that a name in a sticky directory stands for by the time we act; when it checked the caller, another file may have
// stood there.
bool set_owner_rights(bool wanted) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};  // 0: this thread
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> capabilities{};
    if (::syscall(SYS_capget, &header, capabilities.data()) != 0) return false;
    std::uint32_t& effective = capabilities[CAP_TO_INDEX(CAP_FOWNER)].effective;
    constexpr std::uint32_t owner = CAP_TO_MASK(CAP_FOWNER);
    if (((effective & owner) != 0) == wanted) return false;
    effective ^= owner;
    return ::syscall(SYS_capset, &header, capabilities.data()) == 0;
}

}  // namespace

// setfsuid(2), setfsgid(2) and capset(2) act on the calling thread alone, and glibc does not spread them.
ActAs::ActAs(uid_t user, gid_t group)
    : switched_(::geteuid() == 0), without_owner_rights_(switched_ && user != 0 && set_owner_rights(false)) {
    if (!switched_) return;
    ::setfsgid(group);
    ::setfsuid(user);
}

ActAs::~ActAs() {
    if (!switched_) return;
    ::setfsuid(0);
    ::setfsgid(::getegid());
    if (without_owner_rights_) set_owner_rights(true);
}

}  // namespace nosigbus
