// What a thread may do beyond its user: capabilities(7), by the system calls that glibc has no names for. They act on
// the calling thread alone.
#pragma once

#include <cstdint>

namespace nosigbus {

// A set of them is a mask.
constexpr std::uint64_t mask_of(unsigned capability) {
    return std::uint64_t{1} << capability;
}

struct Capabilities {
    std::uint64_t effective;
    std::uint64_t permitted;
    std::uint64_t inheritable;
};

// Those of this thread: capget(2), capset(2). Return whether that went well, else errno says why not.
bool get_capabilities(Capabilities& sets) noexcept;
bool set_capabilities(const Capabilities& sets) noexcept;

}  // namespace nosigbus
