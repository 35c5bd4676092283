// The directories of one group, gone with it.
#pragma once

#include <string>

namespace nosigbus::bench {

// A temporary directory with a tmpfs of its own, the source, and room for mount points. What is mounted below it is
// detached at the end.
class Scratch {
  public:
    Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch();

    [[nodiscard]] std::string source() const { return root_ + "/source"; }

    // A new empty directory, to mount on.
    [[nodiscard]] std::string make_directory(const std::string& name) const;

  private:
    std::string root_;
};

}  // namespace nosigbus::bench
