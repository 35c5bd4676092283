#include "tests/mount/counters.h"

#include <sys/xattr.h>

#include <sstream>

#include "tests/mount/files.h"

namespace nosigbus::test {

std::map<std::string, std::uint64_t> counters(const std::string& path) {
    std::string text(4096, '\0');
    const auto length = must(::getxattr(path.c_str(), "user.nosigbus.counters", text.data(), text.size()), "getxattr");
    text.resize(static_cast<std::size_t>(length));
    std::istringstream lines(text);
    std::map<std::string, std::uint64_t> result;
    std::string name;
    for (std::uint64_t number = 0; lines >> name >> number;) result[name] = number;
    return result;
}

}  // namespace nosigbus::test
