// The table of operations that libfuse calls, and what we ask of the kernel at INIT.
#pragma once

#include <fuse_lowlevel.h>

namespace nosigbus {

const fuse_lowlevel_ops& operations();

}  // namespace nosigbus
