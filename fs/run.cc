#include "fs/run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "fs/exit_status.h"
#include "fs/hidden_mounts.h"
#include "fs/mount.h"
#include "fs/private_namespace.h"
#include "fs/run_line.h"
#include "lib/log.h"
#include "lib/source_dir.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

std::vector<SourceDirectory> open_directories(const std::vector<std::string>& names) {
    std::vector<SourceDirectory> directories;
    for (const std::string& name : names) {
        UniqueFd descriptor = open_source(name);
        const std::string path = std::filesystem::canonical(name).string();
        for (const SourceDirectory& other : directories) {
            if (!is_within(path, other.path) && !is_within(other.path, path)) continue;
            throw BadDirectory(
                fmt::format("--dir {} and {}: one is inside the other, and its views, too", other.path, path));
        }
        directories.push_back({path, std::move(descriptor)});
    }
    return directories;
}

// Where a standard stream is closed, no descriptor of ours takes its number; the command finds it closed.
std::vector<UniqueFd> stand_in_for_streams() {
    std::vector<UniqueFd> descriptors;
    do descriptors.push_back(sys::open_at(AT_FDCWD, "/dev/null", O_RDWR));
    while (descriptors.back().get() <= STDERR_FILENO);
    return descriptors;
}

// Empty where nobody can tell: a directory that was deleted.
std::string working_directory() {
    std::error_code none;
    return std::filesystem::current_path(none).string();
}

// This process stands on what has been covered.
void enter_again(const std::string& here, const std::vector<SourceDirectory>& directories) {
    for (const SourceDirectory& each : directories) {
        if (is_within(here, each.path)) sys::check(::chdir(here.c_str()), here.c_str());
    }
}

int execute(char** command) {
    ::execvp(*command, command);
    const int error = errno;
    log::error("{}: {}", *command, std::generic_category().message(error));
    return error == ENOENT ? exit_status::not_found : exit_status::not_executable;
}

int run_line(const RunLine& line) {
    const std::vector<UniqueFd> stand_ins = stand_in_for_streams();
    const std::vector<SourceDirectory> directories = open_directories(line.directories);
    const std::string here = working_directory();
    {
        HiddenMounts mounts(directories, line);
        enter_private_namespace();
        for (std::size_t i = 0; i < directories.size(); ++i)
            cover(directories[i].path, directories[i].descriptor.get(), mounts.path(i));
        mounts.take_away();
    }
    enter_again(here, directories);
    return execute(line.command);
}

}  // namespace

int run_command(int argc, char** argv) {
    try {
        const RunLine line = parse_run_line(argc, argv);
        if (!line.help) return run_line(line);
        fmt::print("{}", run_help_text());
        return exit_status::success;
    } catch (const std::exception& failure) {
        if (*failure.what() != '\0') log::error("{}", failure.what());
        return exit_status::run_failed;
    }
}

}  // namespace nosigbus
