// A FUSE file system whose server runs in the foreground, as our child.
#pragma once

#include <string>
#include <vector>

#include "tests/mount/process.h"

namespace nosigbus::bench {

class FuseMount {
  public:
    // Runs `command`, which mounts on `mountpoint`. Returns when the mount answers; throws where it never does.
    FuseMount(const std::vector<std::string>& command, std::string mountpoint);
    FuseMount(const FuseMount&) = delete;
    FuseMount& operator=(const FuseMount&) = delete;
    // For the way out after a failure: frees the mount point, kills the server, says nothing.
    ~FuseMount();

    [[nodiscard]] const std::string& mountpoint() const { return mountpoint_; }

    // Unmounts, and throws unless the server then ends as it should.
    void end();

  private:
    std::string mountpoint_;
    test::Process server_;
};

}  // namespace nosigbus::bench
