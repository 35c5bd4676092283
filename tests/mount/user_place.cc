#include "tests/mount/user_place.h"

#include <fmt/format.h>

#include <fstream>

namespace nosigbus::test {

std::string status_line(pid_t pid, const std::string& name) {
    std::ifstream file(fmt::format("/proc/{}/status", pid));
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with(name + ":\t")) return line.substr(name.size() + 2);
    }
    return {};
}

std::string readme_command(const std::string& name) {
    std::ifstream readme(NOSIGBUS_README);
    std::string line;
    while (line != fmt::format("<!-- command: {} -->", name)) REQUIRE(std::getline(readme, line));
    REQUIRE(std::getline(readme, line));
    REQUIRE(line == "```sh");
    REQUIRE(std::getline(readme, line));
    return line;
}

}  // namespace nosigbus::test
