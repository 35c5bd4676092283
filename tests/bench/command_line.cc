#include "tests/bench/command_line.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>
#include <string_view>
#include <vector>

namespace nosigbus::bench {

namespace {

constexpr std::string_view only_switch = "--only=";

Group group_named(std::string_view name) {
    const auto* const found =
        std::find_if(groups.begin(), groups.end(), [&](const Group& group) { return group.name == name; });
    if (found != groups.end()) return *found;
    std::vector<std::string_view> names;
    for (const Group& group : groups) names.push_back(group.name);
    throw BadCommandLine(fmt::format("--only={}: no such group; there are {}", name, fmt::join(names, ", ")));
}

}  // namespace

CommandLine parse_command_line(int argc, char** argv) {
    CommandLine line;
    for (const std::string_view argument : std::span(argv, static_cast<std::size_t>(argc)).subspan(1)) {
        if (argument == "--help" || argument == "-h") {
            line.help = true;
        } else if (argument == "--quick") {
            line.form = Form::quick;
        } else if (argument.starts_with(only_switch)) {
            if (line.only) throw BadCommandLine("--only may be given once");
            line.only = group_named(argument.substr(only_switch.size()));
        } else {
            throw BadCommandLine(fmt::format(
                "unexpected argument {}; usage: nosigbus_bench [--quick] [--only=GROUP] | --help", argument));
        }
    }
    return line;
}

std::string help_text() {
    std::string text =
        "usage: nosigbus_bench [--quick] [--only=GROUP] | --help\n"
        "Measures nosigbus beside a raw tmpfs and, where installed, bindfs and mergerfs; prints tables in Markdown.\n"
        "Needs root, to mount: in a mount namespace of its own.\n\n"
        "  --quick       smaller files and fewer rounds: shows that it works, not how fast\n"
        "  --only=GROUP  one of these groups, not all:\n";
    for (const Group& group : groups) text += fmt::format("      {:<14}{}\n", group.name, group.what);
    return text;
}

}  // namespace nosigbus::bench
