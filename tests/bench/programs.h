// The other mirroring file systems that nosigbus is measured beside.
#pragma once

#include <string>
#include <vector>

namespace nosigbus::bench {

struct OtherProgram {
    std::string name;
    std::vector<std::string> options;  // that come before the source and the mount point
    std::string version{};             // as it says it; empty where it is not installed

    [[nodiscard]] bool installed() const { return !version.empty(); }
};

// All of them, installed or not. Asked once.
const std::vector<OtherProgram>& other_programs();

}  // namespace nosigbus::bench
