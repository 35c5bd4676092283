// The directories of one test case, gone with it.
#pragma once

#include <string>

namespace nosigbus::test {

// A temporary directory with a tmpfs of its own for the source, another one that is never mirrored to compare with, and
// an empty mount point. What is mounted below it is detached at the end.
class Directories {
  public:
    Directories();
    Directories(const Directories&) = delete;
    Directories& operator=(const Directories&) = delete;
    ~Directories();

    [[nodiscard]] const std::string& root() const { return root_; }
    [[nodiscard]] std::string source() const { return root_ + "/source"; }
    [[nodiscard]] std::string plain() const { return root_ + "/plain"; }
    [[nodiscard]] std::string mountpoint() const { return root_ + "/view"; }

    // The file `name` in the source, and as a view.
    [[nodiscard]] std::string raw(const std::string& name) const { return source() + "/" + name; }
    [[nodiscard]] std::string view(const std::string& name) const { return mountpoint() + "/" + name; }

  private:
    std::string root_;
};

// Makes a directory that all may enter, where temporary files belong; its path has no symbolic links, like those in the
// mount table.
std::string make_temporary_directory();

// Detaches what is mounted below `directory` and removes it, unless something is still mounted there: that is not ours
// to remove.
void take_down(const std::string& directory);

// A fresh tmpfs on `directory`, without huge pages: a huge page is mapped whole, across the end of its file.
void mount_tmpfs(const std::string& directory);

}  // namespace nosigbus::test
