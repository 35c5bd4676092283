// What can happen to a file: the one table of changes, the rows of the matrix.
#pragma once

#include <optional>
#include <span>
#include <string>

namespace nosigbus::test {

// The file as each change finds it, and the length of the mappings that look at it.
inline constexpr unsigned changed_pages = 6;  // whole pages of the file; a part of one more follows
inline constexpr unsigned mapped_pages = 12;
std::string content_before();

// The file that a change is made to: by a descriptor for reading and writing that stays open, and by name. Either the
// backing file or a view of it.
struct Target {
    int fd;
    std::string path;
};

struct Change {
    std::string name;
    void (*make)(const Target& target);
    bool needs_name = false;  // the file cannot have been unlinked before
    bool silent = false;      // made to the backing file no event tells of it: it shows at the barrier only
    bool writes = false;      // by write(2) or the like
};

std::span<const Change> changes();

// What a change leaves: of the file, and of the one that has its name then.
struct Outcome {
    std::string content;
    std::optional<std::string> named;
};

// Makes the change to a file of its own in `directory`, where no view is.
Outcome native_outcome(const Change& change, const std::string& directory);

}  // namespace nosigbus::test
