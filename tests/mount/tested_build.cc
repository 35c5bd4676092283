#include "tests/mount/tested_build.h"

#include <cstdlib>
#include <fstream>
#include <string_view>

namespace nosigbus::test {
namespace {

const std::string& directory() {
    static const std::string name = [] {
        const char* const other = std::getenv("NOSIGBUS_TESTED_BUILD");
        return std::string(other != nullptr ? other : NOSIGBUS_BUILD);
    }();
    return name;
}

}  // namespace

std::string tested(const std::string& name) {
    return directory() + '/' + name;
}

const std::string daemon_program = tested("bin/nosigbus");
const std::string mount_script = tested("sbin/mount.nosigbus");

bool daemon_is_sanitized() {
    static const bool answer = [] {
        std::ifstream cache(tested("CMakeCache.txt"));
        for (std::string line; std::getline(cache, line);) {
            constexpr std::string_view name = "NOSIGBUS_SANITIZE:STRING=";
            if (line.starts_with(name)) return line.size() > name.size();
        }
        return false;
    }();
    return answer;
}

}  // namespace nosigbus::test
