// Whether a request holds what it says. libfuse 3.14 takes every length, count and name in it on trust, and hands its
// handlers pointers to where they should be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

struct fuse_in_header;

namespace nosigbus {

// How many words of 8 bytes stand as extensions at the end of a request: fuse_in_header.total_extlen of Linux 6.3,
// which is padding in older headers.
std::uint16_t extension_words(const fuse_in_header& head);
void set_extension_words(fuse_in_header& head, std::uint16_t words);

// Whether the kernel waits for an answer.
bool is_answered(const fuse_in_header& head);

// Whether `request`, a head and what follows it as the kernel sent it, is as long as its head says, and all that
// libfuse or a handler would look at lies within. `accepted_flags` are those of our reply to INIT. What it asks for may
// be nonsense all the same: handlers answer that. An opcode that libfuse does not know is well formed: libfuse answers
// ENOSYS and looks no further.
bool is_well_formed(std::span<const std::byte> request, std::uint64_t accepted_flags = 0);

// Answers a request that is not well formed: EINVAL on `device`, or nothing where the kernel waits for no answer.
void turn_down(std::span<const std::byte> request, int device);

}  // namespace nosigbus
