// What the protocol forbids. A compositor answers each with an error, which ends the connection.
#pragma once

#include <string>
#include <vector>

#include "tests/wayland/connection.h"

namespace nosigbus::test {

struct Crime {
    const char* name;
    const char* error;  // as Connection::error() has it
    // `pool` is one of `size` bytes.
    void (*commit)(Connection& connection, wl_shm_pool* pool, std::int32_t size);
};

const std::vector<Crime>& crimes();

}  // namespace nosigbus::test
