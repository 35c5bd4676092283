#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <span>
#include <string_view>

#include "fs/command_line.h"
#include "fs/daemon.h"
#include "fs/exit_status.h"
#include "fs/mount.h"
#include "fs/reload.h"
#include "fs/run.h"
#include "fs/show_stats.h"
#include "fs/supervise.h"
#include "lib/log.h"
#include "lib/source_dir.h"

namespace {

using namespace nosigbus;

int run(int argc, char** argv) {
    // A source of such a name is ./run.
    const std::string_view first = argc > 1 ? std::span(argv, static_cast<std::size_t>(argc))[1] : "";
    if (first == "run") return run_command(argc - 1, argv + 1);
    if (first == "stat") return show_stats(argc - 1, argv + 1);
    CommandLine line = parse_command_line(argc, argv);
    if (line.help) {
        fmt::print("{}", help_text());
        return exit_status::success;
    }
    if (line.version) {
        fmt::print("nosigbus {}\n", NOSIGBUS_VERSION);
        return exit_status::success;
    }
    if (!line.reload.empty()) return reload(line.reload);
    if (line.check >= 0) {
        check_state(line);
        return exit_status::success;
    }
    if (line.resume >= 0) return supervise_again(line);
    UniqueFd source = open_source(line.source);
    const std::string mount_point = check_mount_point(line.mount_point, line.source, source);
    line.source = absolute_source(line.source);
    Daemon daemon = line.foreground ? Daemon() : Daemon::fork_off();
    return supervise_new_mount(std::move(source), mount_point, line, std::move(daemon));
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const BadCommandLine& bad) {
        log::error("{}", bad.what());
        return exit_status::usage;
    } catch (const BadOption& bad) {
        log::error("{}", bad.what());
        return exit_status::usage;
    } catch (const BadDirectory& bad) {
        log::error("{}", bad.what());
        return exit_status::mount_failed;
    } catch (const MountFailed& failed) {
        if (*failed.what() != '\0') log::error("{}", failed.what());
        return failed.exit_status();
    } catch (const std::exception& failure) {
        log::error("{}", failure.what());
        return exit_status::system_error;
    }
}
