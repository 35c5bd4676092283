// The source directory and where its views are mounted: what may go together.
#pragma once

#include <stdexcept>
#include <string>

#include "lib/unique_fd.h"

namespace nosigbus {

// A directory that cannot be used as it was given. what() is one line that names it and says what is accepted.
class BadDirectory : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// An O_PATH descriptor of the source directory. Everything in it is reached from here, never by a path. Throws
// BadDirectory.
UniqueFd open_source(const std::string& path);

// The source as /proc/mounts shows it: as given, so that mount -a finds it there again, but for a relative path, which
// is made absolute. Throws BadDirectory.
std::string absolute_source(const std::string& path);

// The absolute path of `mount_point`, which can take the views of `source`: a directory that is neither inside the
// source nor above it, since views of views would have no end, and a hidden source no use. The source itself is fine:
// its views then cover it. Throws BadDirectory.
std::string check_mount_point(const std::string& mount_point, const std::string& source_name, const UniqueFd& source);

// Whether `path` is `directory` or below it: two absolute paths without links, of which only the words are looked at.
bool is_within(const std::string& path, const std::string& directory);

}  // namespace nosigbus
