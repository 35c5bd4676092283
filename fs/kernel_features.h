// What a kernel can do for us and not all kernels do. Each is known by what the kernel offers in INIT, never by its
// version; a version is only what a user is told to look for.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

struct fuse_init_in;

namespace nosigbus {

struct KernelFeature {
    std::string_view name;  // as in linux/fuse.h
    std::uint64_t flag;     // of INIT; 0 where it has none
    std::uint32_t minor;    // of the protocol, which then tells
    std::string_view since;
    std::string_view without;  // what a user has where it is missing
};

namespace kernel {

// linux/fuse.h of Linux 6.6 and 6.9; Debian 12 has that of 6.1.
inline constexpr std::uint64_t direct_io_allow_mmap = std::uint64_t{1} << 36;
inline constexpr std::uint64_t passthrough = std::uint64_t{1} << 37;
inline constexpr std::uint64_t has_resend = std::uint64_t{1} << 39;

}  // namespace kernel

std::span<const KernelFeature> kernel_features();

// The flags of INIT, both halves.
std::uint64_t offered_flags(const fuse_init_in& init);

// What this kernel lacks and what that means, in one line; empty where it lacks nothing.
std::string missing_features(const fuse_init_in& init);

}  // namespace nosigbus
