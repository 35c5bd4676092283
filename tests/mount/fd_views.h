// Views of descriptors, <mount>/.nosigbus/fd/N: how they are asked for, and the files that are passed around without a
// name.
#pragma once

#include <cstdint>
#include <string>

#include "lib/client/protocol.h"
#include "lib/unique_fd.h"
#include "tests/mount/directories.h"
#include "tests/mount/files.h"

namespace nosigbus::test {

// The name by which whoever opens it has a view of its own descriptor of this number.
std::string fd_name(const Directories& mount, const std::string& number);
std::string fd_name(const Directories& mount, int fd);

// A view of our own descriptor. Throws where there is none.
UniqueFd fd_view(const Directories& mount, int fd, int flags = O_RDONLY);

// How open(2) of a path ends: "0", or the name of the error.
std::string opened(const std::string& path, int flags);

// Another descriptor of the same file, whatever it is called.
UniqueFd same_file(int fd, int flags);

UniqueFd memfd(const std::string& content = {}, unsigned flags = 0);
UniqueFd unlinked_file(const std::string& directory, const std::string& content = {});
UniqueFd tmpfile(const std::string& directory, const std::string& content = {});

// Has `fd` under this number too, until the end.
class Numbered {
  public:
    Numbered(int fd, int number) : number_(must(::dup3(fd, number, O_CLOEXEC), "dup3")) {}
    [[nodiscard]] int get() const { return number_.get(); }

  private:
    UniqueFd number_;
};

// An ext4 in a file, mounted below the test's directories and gone with them.
class Ext4 {
  public:
    explicit Ext4(const Directories& directories);
    [[nodiscard]] const std::string& path() const { return path_; }

  private:
    std::string path_;
};

// What ioctl(2) says of a view, and the barrier for a part of it: "0", or the name of the error.
nosigbus_sizes sizes_of(int view);
std::string sync_range(int view, std::uint64_t offset, std::uint64_t length);

// Whether the view and a mapping of all of it show this content, then zeros.
bool shows(int view, const std::string& content);

}  // namespace nosigbus::test
