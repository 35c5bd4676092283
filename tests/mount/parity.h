// The parity oracle: what a plain directory says, the mount must say too.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/mount/view_mount.h"

namespace nosigbus::test {

// Something done in `directory`; says what it came to, as answer() does or in any words that do not name the directory.
using Step = std::function<std::string(const std::string& directory)>;

// A mount, and beside it a plain tmpfs directory where the same steps are taken.
class Parity {
  public:
    explicit Parity(const std::vector<std::string>& options = {"max_size=1M"}) : mount_(options) {}

    [[nodiscard]] const ViewMount& mount() const { return mount_; }

    // Takes `step` in the mount and in the plain directory, and checks that both say the same. Returns what the plain
    // one said.
    std::string same(const std::string& name, const Step& step) { return same_for(0, name, step); }

    // The same, as user `uid`.
    std::string same_for(uid_t uid, const std::string& name, const Step& step);

    // Checks that the plain directory, the source and the mount hold the same tree now. CTest sees the first line that
    // differs.
    void same_trees() const;

  private:
    ViewMount mount_;
};

// The tree below `directory` in words, a line for each name in order: type, mode, owner, links, blocks, and content by
// reading it. No times, and no st_size of a file, which is the view's in a mount.
std::string tree(const std::string& directory);

}  // namespace nosigbus::test
