// $NOSIGBUS_MOUNT, by which libnosigbus finds a mount, for as long as this lives.
#pragma once

#include <cstdlib>
#include <string>

namespace nosigbus::test {

class MountVariable {
  public:
    explicit MountVariable(const std::string& value) { ::setenv("NOSIGBUS_MOUNT", value.c_str(), 1); }
    MountVariable(const MountVariable&) = delete;
    MountVariable& operator=(const MountVariable&) = delete;
    ~MountVariable() { ::unsetenv("NOSIGBUS_MOUNT"); }
};

}  // namespace nosigbus::test
