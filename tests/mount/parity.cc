#include "tests/mount/parity.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>

#include "tests/mount/files.h"

namespace nosigbus::test {

namespace {

std::string described(const std::filesystem::path& path) {
    const struct stat found = status(path.string());
    std::string line = fmt::format("{:06o} {}:{} links {}", found.st_mode, found.st_uid, found.st_gid, found.st_nlink);
    if (S_ISLNK(found.st_mode)) return line + " -> " + std::filesystem::read_symlink(path).string();
    if (!S_ISREG(found.st_mode)) return line + fmt::format(" size {}", found.st_size);
    const std::string content = read_all(path.string());
    return line + fmt::format(" blocks {} bytes {} hash {:x}", found.st_blocks, content.size(),
                              std::hash<std::string>()(content));
}

// The first line of `one` that `other` has not at that place, and that of `other`.
std::string first_difference(const std::string& one, const std::string& other) {
    const auto [here, there] = std::mismatch(one.begin(), one.end(), other.begin(), other.end());
    const auto line = [](const std::string& text, auto place) {
        const auto at = static_cast<std::size_t>(place - text.begin());
        if (at >= text.size()) return std::string("nothing");
        const std::size_t start = at == 0 ? 0 : text.rfind('\n', at - 1) + 1;
        return text.substr(start, text.find('\n', at) - start);
    };
    return one == other ? std::string() : line(one, here) + "\nwhere should be\n" + line(other, there);
}

// Adds a line for `path`, which is `name` below where it began, and all below it.
void describe_below(const std::filesystem::path& path, const std::filesystem::path& name, std::string& lines) {
    lines += name.string() + " " + described(path) + "\n";
    if (!S_ISDIR(status(path.string()).st_mode)) return;
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
        const std::string found = entry.path().filename().string();
        REQUIRE_MESSAGE(names.insert(found).second, (name / found).string(), " is listed twice");
    }
    for (const std::string& found : names) describe_below(path / found, name / found, lines);
}

}  // namespace

std::string Parity::same_for(uid_t uid, const std::string& name, const Step& step) {
    const auto asked = [&](const std::string& directory) {
        return uid == 0 ? step(directory) : as_user(uid, [&] { return step(directory); });
    };
    const std::string wanted = asked(mount_.plain());
    const std::string got = asked(mount_.mountpoint());
    CHECK_MESSAGE(got == wanted, name, ": the mount says ", got, ", a plain directory ", wanted);
    return wanted;
}

void Parity::same_trees() const {
    const std::string wanted = tree(mount_.plain());
    CHECK(first_difference(tree(mount_.source()), wanted) == "");
    CHECK(first_difference(tree(mount_.mountpoint()), wanted) == "");
}

std::string tree(const std::string& directory) {
    std::string lines;
    describe_below(directory, ".", lines);
    return lines;
}

}  // namespace nosigbus::test
