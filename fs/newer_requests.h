// What libfuse 3.14 does not know of the kernel's requests, or does not tell its handlers.
#pragma once

#include <fuse_lowlevel.h>

#include <cstdint>

#include "fs/current_request.h"

namespace nosigbus {

// linux/fuse.h of Linux 6.6: FUSE_STATX. Debian 12 has that of 6.1.
inline constexpr std::uint32_t statx_opcode = 52;
// The same of Linux 6.18: FUSE_COPY_FILE_RANGE_64.
inline constexpr std::uint32_t copy_file_range_64_opcode = 53;

// Rewrites `request` where libfuse would not understand it, and notes in `current` what its handler must know besides:
//
// TMPFILE is laid out as CREATE is (fuse_create_open), and has O_TMPFILE among its flags.
// STATX begins as GETATTR does. Its reply is another one.
// COPY_FILE_RANGE_64 becomes what nobody knows, also where libfuse does: the kernel then asks for COPY_FILE_RANGE.
// SETXATTR is longer by two words, of which one says what the file has to lose, where `accepted_flags`, the flags of
// our reply to INIT, say that we understand it.
// WRITE has a flag for what the file has to lose.
void put_in_older_words(fuse_buf& request, std::uint64_t accepted_flags, CurrentRequest& current);

}  // namespace nosigbus
