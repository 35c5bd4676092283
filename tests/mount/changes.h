// What can happen to a backing file behind our back: the one table of changes.
#pragma once

#include <span>
#include <string>

namespace nosigbus::test {

// The file as each change finds it, and the length of the mappings that look at it.
inline constexpr unsigned changed_pages = 6;  // whole pages of the file; a part of one more follows
inline constexpr unsigned mapped_pages = 12;
std::string content_before();

// The backing file: by a descriptor that stays open, and by name.
struct Backing {
    int fd;
    std::string path;
};

struct Change {
    std::string name;
    void (*make)(const Backing& backing);
    bool needs_name = false;  // the file cannot have been unlinked before
    bool silent = false;      // no event tells of it: it shows at the barrier only
};

std::span<const Change> changes();

}  // namespace nosigbus::test
