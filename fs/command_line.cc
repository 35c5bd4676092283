#include "fs/command_line.h"

#include <fmt/format.h>
#include <getopt.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <span>

namespace nosigbus {
namespace {

constexpr std::array long_options = {
    option{"foreground", no_argument, nullptr, 'f'}, option{"debug", no_argument, nullptr, 'd'},
    option{"version", no_argument, nullptr, 'V'}, option{"reload", required_argument, nullptr, 'r'},
    // What a supervisor says to its successor; of no use to people.
    option{"resume", required_argument, nullptr, 'R'}, option{"check-resume", required_argument, nullptr, 'C'},
    option{"help", no_argument, nullptr, 'h'}, option{nullptr, 0, nullptr, 0}};

constexpr const char* usage =
    "usage: nosigbus SOURCE MOUNTPOINT [-o option[,option...]] [-f] [-d] | run --dir DIR COMMAND... | stat FILE... | "
    "--reload MOUNTPOINT | -V | -h";

std::string unknown_switch(std::span<char*> arguments) {
    // getopt(3) leaves the letter in optopt, and nothing there for a long option.
    if (::optopt != 0 && ::optopt < 128) return fmt::format("-{}", static_cast<char>(::optopt));
    return arguments[static_cast<std::size_t>(::optind) - 1];
}

int descriptor_in(const std::string& text) {
    int descriptor = -1;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, descriptor);
    if (error != std::errc() || stop != end || descriptor < 0)
        throw BadCommandLine(fmt::format("{} is not a descriptor; {}", text, usage));
    return descriptor;
}

}  // namespace

CommandLine parse_command_line(int argc, char** argv) {
    const std::span arguments(argv, static_cast<std::size_t>(argc));
    CommandLine line;
    line.options.allow_other = ::geteuid() == 0;
    ::opterr = 0;
    ::optind = 0;  // from the start, also where the last line was refused in the midst: getopt(3), NOTES
    for (int letter = 0; (letter = ::getopt_long(argc, argv, ":o:fdVh", long_options.data(), nullptr)) != -1;) {
        switch (letter) {
            case 'o':
                parse_options(::optarg, line.options);
                line.option_lists.emplace_back(::optarg);
                break;
            case 'f':
                line.foreground = true;
                break;
            case 'd':
                line.debug = line.foreground = true;
                break;
            case 'r':
                line.reload = ::optarg;
                break;
            case 'R':
                line.resume = descriptor_in(::optarg);
                break;
            case 'C':
                line.check = descriptor_in(::optarg);
                break;
            case 'V':
                line.version = true;
                return line;
            case 'h':
                line.help = true;
                return line;
            case ':':
                throw BadCommandLine(fmt::format("{} needs an argument; {}", unknown_switch(arguments), usage));
            default:
                throw BadCommandLine(fmt::format("unknown switch {}; {}", unknown_switch(arguments), usage));
        }
    }
    const auto operands = arguments.subspan(static_cast<std::size_t>(::optind));
    if (!line.reload.empty()) {
        if (!operands.empty()) throw BadCommandLine(fmt::format("unexpected argument {}; {}", operands[0], usage));
        return line;
    }
    if (operands.empty()) throw BadCommandLine(fmt::format("no source and no mount point; {}", usage));
    if (operands.size() == 1) throw BadCommandLine(fmt::format("no mount point; {}", usage));
    if (operands.size() > 2) throw BadCommandLine(fmt::format("unexpected argument {}; {}", operands[2], usage));
    line.source = operands[0];
    line.mount_point = operands[1];
    return line;
}

std::string help_text() {
    std::string text = fmt::format(
        "{}\n\n"
        "Mounts the files of the directory SOURCE at MOUNTPOINT as views: a program that maps one never gets "
        "SIGBUS.\n"
        "`nosigbus run` runs one program with the views of a directory in its place, `nosigbus stat` shows what was\n"
        "done for a view or a mount; each has its own --help. For a source of such a name say ./run or ./stat.\n\n"
        "  -o OPTIONS        mount options, see below\n"
        "  -f, --foreground  stay in the foreground\n"
        "  -d, --debug       show each request on stderr; stays in the foreground\n"
        "  --reload DIR      have the nosigbus that is installed now take over the mount DIR, files open and mapped\n"
        "  -V, --version     print the version\n"
        "  -h, --help        print this\n\n"
        "Options:\n",
        usage);
    std::string others;
    for (const OptionRule& rule : option_rules()) {
        const std::string name = fmt::format("{}{}", rule.name, rule.value == OptionRule::Value::required ? "=" : "");
        if (!rule.help.empty()) {
            text += fmt::format("  {:<16}  {}\n", name, rule.help);
        } else if (rule.action == OptionRule::Action::pass || rule.action == OptionRule::Action::ignore) {
            others += ' ' + name;
        }
    }
    return text + "Those of mount(8), fstab(5) and systemd.mount(5):\n " + others + "\n";
}

}  // namespace nosigbus
