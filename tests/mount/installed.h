// The machine as an installation leaves it, in this mount namespace only.
#pragma once

#include <string>
#include <vector>

#include "tests/mount/directories.h"

namespace nosigbus::test {

// mount.nosigbus in /sbin, where mount(8) looks for it, and the daemon where a shell finds it that has no PATH, for
// mount(8) drops PATH before it calls mount.fuse3. /run, where mount(8) keeps notes, starts empty. They are copies that
// every user can reach, wherever the build is.
class Installed : public Directories {
  public:
    Installed();
    Installed(const Installed&) = delete;
    Installed& operator=(const Installed&) = delete;
    ~Installed();

    [[nodiscard]] std::string program() const { return root() + "/installed/bin/nosigbus"; }
    [[nodiscard]] std::string script() const { return root() + "/installed/sbin/mount.nosigbus"; }

    // The link with which the type fuse.nosigbus does not go through mount.fuse3.
    void link_fuse_type() const;

    // Writes a file of this name in /etc.
    void write_in_etc(const std::string& name, const std::string& text);

    // Writes an fstab of these lines and returns its path.
    [[nodiscard]] std::string fstab(const std::vector<std::string>& lines) const;

    [[nodiscard]] std::string line(const std::string& options, const std::string& type = "nosigbus") const;

  private:
    std::string sbin_;
    bool etc_covered_ = false;
};

}  // namespace nosigbus::test
