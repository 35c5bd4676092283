#include "lib/capabilities.h"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

namespace nosigbus {
namespace {

using Halves = std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3>;

__user_cap_header_struct this_thread() {
    return {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
}

constexpr std::uint64_t joined(std::uint32_t low, std::uint32_t high) {
    return low | std::uint64_t{high} << 32;
}

}  // namespace

bool get_capabilities(Capabilities& sets) noexcept {
    auto thread = this_thread();
    Halves halves{};
    if (::syscall(SYS_capget, &thread, halves.data()) != 0) return false;
    const auto& [low, high] = halves;
    sets = {.effective = joined(low.effective, high.effective),
            .permitted = joined(low.permitted, high.permitted),
            .inheritable = joined(low.inheritable, high.inheritable)};
    return true;
}

bool set_capabilities(const Capabilities& sets) noexcept {
    auto thread = this_thread();
    Halves halves{};
    for (unsigned half = 0; half < halves.size(); ++half) {
        const auto of = [half](std::uint64_t set) { return static_cast<std::uint32_t>(set >> (32 * half)); };
        halves[half] = {
            .effective = of(sets.effective), .permitted = of(sets.permitted), .inheritable = of(sets.inheritable)};
    }
    return ::syscall(SYS_capset, &thread, halves.data()) == 0;
}

}  // namespace nosigbus
