// A well-formed request of every kind that libfuse looks into.
#pragma once

#include <linux/fuse.h>

#include <cstdint>
#include <string>
#include <vector>

namespace nosigbus::test {

// What the requests ask of, in the directory that is the root.
struct Subjects {
    std::uint64_t directory;         // nodes
    std::uint64_t file;              // called "file"
    std::uint64_t link;              // symbolic
    std::uint64_t opened_directory;  // handles
    std::uint64_t opened_file;
};

struct Example {
    fuse_opcode opcode;
    std::uint64_t node;
    std::string body;
    bool is_answered = true;
};

// Also TMPFILE and STATX, which libfuse 3.14 does not know. None of them destroys a subject, and none is INIT.
std::vector<Example> examples(const Subjects& subjects);

}  // namespace nosigbus::test
