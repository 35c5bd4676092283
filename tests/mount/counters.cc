#include "tests/mount/counters.h"

#include <sys/xattr.h>

#include <regex>
#include <sstream>

#include "tests/mount/files.h"

namespace nosigbus::test {

namespace {

std::string attribute(const std::string& path, const char* name) {
    std::string text(4096, '\0');
    const auto length = must(::getxattr(path.c_str(), name, text.data(), text.size()), "getxattr");
    text.resize(static_cast<std::size_t>(length));
    return text;
}

}  // namespace

std::map<std::string, std::uint64_t> counters(const std::string& path) {
    std::istringstream lines(attribute(path, "user.nosigbus.counters"));
    std::map<std::string, std::uint64_t> result;
    std::string name;
    for (std::uint64_t number = 0; lines >> name >> number;) result[name] = number;
    return result;
}

std::map<std::string, std::uint64_t> stats(const std::string& path) {
    const std::string text = attribute(path, "user.nosigbus.stats");
    const std::regex number("\"([a-z_]+)\":([0-9]+)");
    std::map<std::string, std::uint64_t> result;
    for (std::sregex_iterator it(text.begin(), text.end(), number); it != std::sregex_iterator(); ++it)
        result[(*it)[1]] = std::stoull((*it)[2]);
    return result;
}

std::string engine_of(const std::string& path) {
    const std::string text = attribute(path, "user.nosigbus.stats");
    std::smatch found;
    const std::regex words("\"engine\":\"([a-z_]+)\",\"engine_reason\":\"([a-z_]+)\"");
    return std::regex_search(text, found, words) ? found[1].str() + ": " + found[2].str() : text;
}

}  // namespace nosigbus::test
