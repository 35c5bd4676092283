// The build whose programs are tested: the one these tests are part of, or another, of other flags, that
// $NOSIGBUS_TESTED_BUILD names. So the tests are built once, and not with each sanitizer.
#pragma once

#include <string>

namespace nosigbus::test {

// The path of `name`, relative to the build directory, in that build.
std::string tested(const std::string& name);

extern const std::string daemon_program;
extern const std::string mount_script;

// Whether the daemon looks at itself, and so takes more memory, time and system calls than is its own.
bool daemon_is_sanitized();

}  // namespace nosigbus::test
