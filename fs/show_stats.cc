#include "fs/show_stats.h"

#include <fmt/format.h>
#include <getopt.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "fs/command_line.h"
#include "fs/exit_status.h"
#include "fs/stats_text.h"
#include "lib/log.h"

namespace nosigbus {
namespace {

constexpr const char* stat_usage = "usage: nosigbus stat [--json] FILE|MOUNTPOINT...";

constexpr std::array stat_switches = {option{"json", no_argument, nullptr, 'j'},
                                      option{"help", no_argument, nullptr, 'h'}, option{nullptr, 0, nullptr, 0}};

// Throws std::system_error with why it cannot be had.
std::string stats_attribute(const char* path) {
    struct statfs found {};
    if (::statfs(path, &found) != 0) throw std::system_error(errno, std::generic_category());
    // Other file systems keep what anybody wants them to, under this name too.
    if (found.f_type != FUSE_SUPER_MAGIC) throw std::system_error(ENODATA, std::generic_category());
    std::string value(4096, '\0');
    const ssize_t length = ::getxattr(path, "user.nosigbus.stats", value.data(), value.size());
    if (length < 0) throw std::system_error(errno, std::generic_category());
    value.resize(static_cast<std::size_t>(length));
    return value;
}

std::string in_words(std::string_view name) {
    std::string words(name);
    std::ranges::replace(words, '_', ' ');
    return words;
}

void print_for_people(const char* path, const Stats& stats) {
    fmt::print("{}:\n", log::printable(path));
    for (const auto& [name, value] : stats) {
        fmt::print("  {:<23}{}\n", in_words(name), in_words(value));
    }
}

bool show(const char* path, bool is_json) {
    constexpr const char* no_view = "neither a view nor the mount point of one";
    try {
        const std::string text = stats_attribute(path);
        const auto stats = parse_stats(text);
        if (stats && is_json) {
            fmt::print("{}\n", text);
        } else if (stats) {
            print_for_people(path, *stats);
        } else {
            log::error("{}: {}", path, no_view);
        }
        return stats.has_value();
    } catch (const std::system_error& failure) {
        const int error = failure.code().value();
        // For what is neither file nor directory, EPERM: xattr(7).
        const bool is_other = error == ENODATA || error == EOPNOTSUPP || error == EPERM;
        log::error("{}: {}", path, is_other ? no_view : failure.code().message());
        return false;
    }
}

}  // namespace

int show_stats(int argc, char** argv) {
    bool is_json = false;
    ::opterr = 0;
    ::optind = 0;
    for (int letter = 0; (letter = ::getopt_long(argc, argv, "h", stat_switches.data(), nullptr)) != -1;) {
        if (letter == 'h') {
            fmt::print("{}\n", stat_usage);
            return exit_status::success;
        }
        if (letter != 'j') throw BadCommandLine(fmt::format("unknown switch; {}", stat_usage));
        is_json = true;
    }
    const auto paths = std::span(argv, static_cast<std::size_t>(argc)).subspan(static_cast<std::size_t>(::optind));
    if (paths.empty()) throw BadCommandLine(fmt::format("no file; {}", stat_usage));
    bool is_all_shown = true;
    for (const char* const path : paths) is_all_shown &= show(path, is_json);
    if (std::fflush(stdout) != 0) throw std::system_error(errno, std::generic_category(), "stdout");
    return is_all_shown ? exit_status::success : exit_status::usage;
}

}  // namespace nosigbus
