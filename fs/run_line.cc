#include "fs/run_line.h"

#include <fmt/format.h>
#include <getopt.h>
#include <unistd.h>

#include <array>
#include <span>

#include "fs/command_line.h"

namespace nosigbus {
namespace {

constexpr const char* run_usage =
    "usage: nosigbus run --dir DIR [--dir DIR...] [-o option[,option...]] [--] COMMAND [ARGUMENT...]";

constexpr std::array run_switches = {option{"dir", required_argument, nullptr, 'd'},
                                     option{"help", no_argument, nullptr, 'h'}, option{nullptr, 0, nullptr, 0}};

// Programs are to see their files as they are.
constexpr const char* default_options = "stat=real";

}  // namespace

RunLine parse_run_line(int argc, char** argv) {
    const std::span arguments(argv, static_cast<std::size_t>(argc));
    RunLine line;
    line.options.allow_other = ::geteuid() == 0;
    const auto add_options = [&line](const char* list) {
        parse_options(list, line.options);
        line.option_lists.emplace_back(list);
    };
    add_options(default_options);
    ::opterr = 0;
    ::optind = 0;
    // +: what stands behind COMMAND is for COMMAND.
    for (int letter = 0; (letter = ::getopt_long(argc, argv, "+:o:h", run_switches.data(), nullptr)) != -1;) {
        switch (letter) {
            case 'd':
                line.directories.emplace_back(::optarg);
                break;
            case 'o':
                add_options(::optarg);
                break;
            case 'h':
                line.help = true;
                return line;
            case ':':
                throw BadCommandLine(fmt::format("{} needs an argument; {}",
                                                 arguments[static_cast<std::size_t>(::optind) - 1], run_usage));
            default:
                throw BadCommandLine(
                    fmt::format("unknown switch {}; {}", arguments[static_cast<std::size_t>(::optind) - 1], run_usage));
        }
    }
    if (line.directories.empty()) throw BadCommandLine(fmt::format("no --dir; {}", run_usage));
    if (::optind == argc) throw BadCommandLine(fmt::format("no command; {}", run_usage));
    line.command = argv + ::optind;
    return line;
}

std::string run_help_text() {
    return fmt::format(
        "{}\n\n"
        "Runs COMMAND where each DIR shows its views: what COMMAND maps there never gets SIGBUS. Nobody else sees "
        "that.\n\n"
        "  --dir DIR   a directory to be replaced by its views\n"
        "  -o OPTIONS  mount options, behind stat=real: see nosigbus --help\n"
        "  -h, --help  print this\n\n"
        "Exit status: that of COMMAND; 125 where nosigbus fails, 126 where COMMAND cannot be executed, 127 where "
        "there\n"
        "is none.\n",
        run_usage);
}

}  // namespace nosigbus
