// Mounts that nobody is to find: made in a directory of ours for the process that called to bind them where it wants
// them, and taken out of sight then. They last while somebody has them bound, or files of them open or mapped.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "fs/run_line.h"
#include "lib/unique_fd.h"

namespace nosigbus {

struct SourceDirectory {
    std::string path;     // absolute and without links
    UniqueFd descriptor;  // O_PATH
};

class HiddenMounts {
  public:
    // Mounts each of `sources` with the options of `line`. The servers are none of this process's descendants, have
    // none of its descriptors, and stay in the namespaces of now. Returns when all answer. Throws MountFailed (whose
    // what() is empty where it has been said) or std::system_error, and then nothing is mounted.
    HiddenMounts(const std::vector<SourceDirectory>& sources, const RunLine& line);
    HiddenMounts(const HiddenMounts&) = delete;
    HiddenMounts& operator=(const HiddenMounts&) = delete;
    // As take_away, should this process have gone another way, or none: when it dies.
    ~HiddenMounts();

    // Where the mount of sources[i] is.
    [[nodiscard]] std::string path(std::size_t i) const;

    // Unmounts all here, where nothing is left of them. Throws MountFailed where that fails.
    void take_away();

  private:
    void start_mounter(const std::vector<SourceDirectory>& sources, const RunLine& line);
    [[noreturn]] static void mount_until_told(const std::vector<SourceDirectory>& sources, const RunLine& line,
                                              int end);
    void wait_for_mounter();

    std::string place_;
    UniqueFd mounter_end_;  // a socket whose other end the mounter has, a child of ours
    pid_t mounter_ = 0;
};

}  // namespace nosigbus
