// libfuse's session, with our operations.
#pragma once

#include <fuse_lowlevel.h>

#include <memory>
#include <string>
#include <vector>

#include "fs/file_system.h"
#include "fs/libfuse.h"

namespace nosigbus {

struct DestroySession {
    void operator()(fuse_session* session) const { libfuse::destroy(session); }
};
using Session = std::unique_ptr<fuse_session, DestroySession>;

// A session whose requests go to `fs`, which outlives it; or nowhere. `arguments` start with a program name, as libfuse
// wants it. Empty where libfuse does not take them. Throws std::system_error ENOMEM.
Session make_session(const std::vector<std::string>& arguments, FileSystem& fs);
Session make_session(const std::vector<std::string>& arguments);

}  // namespace nosigbus
