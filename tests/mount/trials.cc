#include "tests/mount/trials.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <sstream>
#include <system_error>

#include "tests/mount/files.h"
#include "tests/mount/kernel.h"

namespace nosigbus::test {
namespace {

constexpr char end_of_trial = '\x1e';

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
    return parts;
}

std::string without(std::string text, const std::string& directory) {
    for (std::size_t at = text.find(directory); at != std::string::npos; at = text.find(directory, at))
        text.replace(at, directory.size(), "DIR");
    return text;
}

std::string place(const std::string& base, std::size_t trial) {
    return base + "/" + std::to_string(trial);
}

// What each trial says below `base`, and then how its directory looks.
std::vector<std::string> taken(const std::string& base, const User& user, const std::vector<Trial>& trials) {
    must(::mkdir(base.c_str(), 0755), "mkdir");
    for (std::size_t i = 0; i < trials.size(); ++i) {
        const std::string directory = place(base, i);
        must(::mkdir(directory.c_str(), 0755), "mkdir");
        must(::chmod(directory.c_str(), 0777), "chmod");
        if (trials[i].prepare) trials[i].prepare(directory);
    }
    const std::string all = as_user(user, [&] {
        std::string said;
        for (std::size_t i = 0; i < trials.size(); ++i) {
            const std::string directory = place(base, i);
            ::umask(022);
            try {
                said += without(trials[i].act(directory), directory);
            } catch (const std::exception& failure) {
                said += without(failure.what(), directory);
            }
            said += end_of_trial;
        }
        return said;
    });
    return split(all, end_of_trial);
}

// The extended attributes, each with its value in hexadecimal.
std::string attributes_of(const std::string& path) {
    std::array<char, 1000> list{};
    const ssize_t length = ::llistxattr(path.c_str(), list.data(), list.size());
    if (length < 0) return errno == EOPNOTSUPP ? std::string() : " attributes " + answer(-1);
    const auto names = split(std::string(list.data(), static_cast<std::size_t>(length)), '\0');
    std::string found;
    for (const std::string& name : std::set<std::string>(names.begin(), names.end())) {
        const ssize_t size = ::lgetxattr(path.c_str(), name.c_str(), nullptr, 0);
        std::string value(static_cast<std::size_t>(std::max<ssize_t>(size, 0)), '\0');
        ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
        found += fmt::format(" {}=", name);
        if (value.size() > 100)
            found += fmt::format("{} bytes", value.size());
        else
            for (const char byte : value) found += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    }
    return found;
}

// In one small read: a buffer as large as those of read_all() would take most of the time of thousands of trials. It
// goes past the end, where reads tell that.
std::string content_of(const std::string& path, off_t size) {
    const UniqueFd file = open_file(path, O_RDONLY);
    std::string content(static_cast<std::size_t>(size) + (kernel_maps_direct_files() ? 1 : 0), '\0');
    const auto got = must(::pread(file.get(), content.data(), content.size(), 0), "pread");
    content.resize(static_cast<std::size_t>(got));
    return content;
}

void describe(const std::filesystem::path& path, const std::filesystem::path& name, std::string& lines) {
    lines += name.string() + ": " + looks(path.string()) + "\n";
    if (!S_ISDIR(status(path.string()).st_mode)) return;
    std::set<std::filesystem::path> names;
    for (const auto& entry : std::filesystem::directory_iterator(path)) names.insert(entry.path().filename());
    for (const auto& found : names) describe(path / found, name / found, lines);
}

std::string looks_below(const std::string& directory) {
    std::string lines;
    describe(directory, ".", lines);
    return lines;
}

}  // namespace

std::string first_difference(const std::string& got, const std::string& wanted) {
    const auto here = split(got, '\n');
    const auto there = split(wanted, '\n');
    for (std::size_t i = 0; i < std::max(here.size(), there.size()); ++i) {
        const std::string one = i < here.size() ? here[i] : "nothing";
        const std::string other = i < there.size() ? there[i] : "nothing";
        if (one != other) return fmt::format("\"{}\" where \"{}\" should be", one, other);
    }
    return {};
}

void try_all(const Parity& parity, const User& user, const std::vector<Trial>& trials) {
    static int rounds = 0;
    const std::string round = fmt::format("/round {}", ++rounds);
    const std::string plain = parity.mount().plain() + round;
    const std::string mounted = parity.mount().mountpoint() + round;
    const std::string source = parity.mount().source() + round;
    const auto wanted = taken(plain, user, trials);
    const auto got = taken(mounted, user, trials);
    REQUIRE(wanted.size() == trials.size());
    REQUIRE_MESSAGE(got.size() == trials.size(), got.back());
    for (std::size_t i = 0; i < trials.size(); ++i) {
        const std::string name = fmt::format("{}, by {}", trials[i].name, user.name);
        const std::string said = first_difference(got[i], wanted[i]);
        CHECK_MESSAGE(said.empty(), name, ": the mount says ", said);
        const std::string look = looks_below(place(plain, i));
        const std::string seen = first_difference(looks_below(place(mounted, i)), look);
        CHECK_MESSAGE(seen.empty(), name, ": the mount shows ", seen);
        const std::string kept = first_difference(looks_below(place(source, i)), look);
        CHECK_MESSAGE(kept.empty(), name, ": the source has ", kept);
    }
}

std::string in_turn(std::initializer_list<std::string> answers) {
    std::string all;
    for (const std::string& one : answers) all += (all.empty() ? "" : " ") + one;
    return all;
}

std::string words(const Owner& owner) {
    return fmt::format("{}:{}", owner.uid, owner.gid);
}

void make_object(const std::string& type, const std::string& path) {
    if (type == "file") {
        make_file(path, "content");
    } else if (type == "directory") {
        must(::mkdir(path.c_str(), 0755), "mkdir");
    } else if (type == "link") {
        must(::symlink("target", path.c_str()), "symlink");
    } else if (type == "fifo") {
        must(::mkfifo(path.c_str(), 0644), "mkfifo");
    } else if (type == "socket") {
        must(::mknod(path.c_str(), S_IFSOCK | 0644, 0), "mknod");
    } else if (type == "character device") {
        must(::mknod(path.c_str(), S_IFCHR | 0644, makedev(1, 3)), "mknod");
    } else {
        must(::mknod(path.c_str(), S_IFBLK | 0644, makedev(240, 77)), "mknod");  // a number for local use
    }
}

std::string looks(const std::string& path) {
    struct stat found {};
    if (::lstat(path.c_str(), &found) != 0) return answer(-1);
    std::string line =
        fmt::format("{:06o} {}:{} links {} size {} device {}:{}", found.st_mode, found.st_uid, found.st_gid,
                    found.st_nlink, found.st_size, major(found.st_rdev), minor(found.st_rdev)) +
        attributes_of(path);
    if (S_ISLNK(found.st_mode)) return line + " -> " + std::filesystem::read_symlink(path).string();
    if (!S_ISREG(found.st_mode) || found.st_size > static_cast<off_t>(16 * MiB)) return line;
    const std::string content = content_of(path, found.st_size);
    line += fmt::format(" blocks {} bytes {} hash {:x}", found.st_blocks, content.size(),
                        std::hash<std::string>()(content));
    return line;
}

std::string opened(const std::string& path, int flags, mode_t mode) {
    const UniqueFd file(::open(path.c_str(), flags | O_CLOEXEC, mode));
    return file ? "0" : answer(-1);
}

std::size_t to_read(int fd, std::size_t length, off_t offset) {
    const struct stat found = status(fd);
    if (kernel_maps_direct_files() || !S_ISREG(found.st_mode)) return length;
    return std::min(length, static_cast<std::size_t>(std::max<off_t>(found.st_size - offset, 0)));
}

int direct_for(const std::string& path) {
    struct statfs found {};
    must(::statfs(path.c_str(), &found), "statfs");
    const bool is_refused = found.f_type == TMPFS_MAGIC && S_ISREG(status(path).st_mode) && !tmpfs_opens_directly();
    return is_refused ? 0 : O_DIRECT;
}

void note_missing_attributes() {
    if (!tmpfs_has_user_attributes()) MESSAGE("left out, where tmpfs has no user.*: attributes that are there before");
}

void note_missing_direct_opens() {
    if (!tmpfs_opens_directly())
        MESSAGE("tmpfs has no O_DIRECT: a view that is given it is compared with a file that is not");
}

std::string mode_of(const std::string& path) {
    struct stat found {};
    return ::lstat(path.c_str(), &found) == 0 ? fmt::format("{:06o}", found.st_mode) : answer(-1);
}

}  // namespace nosigbus::test
