// The request that this thread is at work on, as far as libfuse does not tell its handler.
#pragma once

#include <fuse_lowlevel.h>

#include <cstdint>

#include "lib/shared_state.h"

namespace nosigbus {

// linux/fuse.h of Linux 6.9: FUSE_UNIQUE_RESEND.
inline constexpr std::uint64_t asked_again_bit = std::uint64_t{1} << 63;

struct CurrentRequest {
    RequestNumber number = 0;
    std::uint32_t opcode = 0;
    bool asked_again = false;  // a worker that died had it before, and did not answer
    // The caller may not keep the set-user-ID and set-group-ID bits of what it changes (FUSE_WRITE_KILL_SUIDGID,
    // FUSE_SETXATTR_ACL_KILL_SGID).
    bool kills_set_ids = false;
    bool has_begun = false;  // its handler has been called
    bool no_memory = false;  // libfuse had none to call it
};

// What stands at the head of the request in `buffer`; all 0 where it has none.
CurrentRequest request_in(const fuse_buf& buffer);

// That of this thread; all 0 between requests.
CurrentRequest& current_request();

// As fuse(4) calls it, less the prefix: "LOOKUP".
const char* name_of_operation(std::uint32_t opcode);

}  // namespace nosigbus
