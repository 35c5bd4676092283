// libFuzzer: lists of options and whole command lines. Each is taken, or refused in one line; and what was taken makes
// sense, and libfuse takes it too.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "fs/command_line.h"
#include "fs/mount.h"
#include "fs/session.h"
#include "lib/options.h"

using namespace nosigbus;

namespace {

void must(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "fuzz_options: %s\n", what);
    std::abort();
}

void check(const Options& options) {
    must(options.max_size > 0 && options.max_size % 4096 == 0, "a view size of no whole pages");
    must(options.refresh.count() >= 0, "a time before now");
    for (const std::string& option : options.kernel) must(!option.empty(), "an empty option");
    const Session session = make_session(session_arguments("/source", options, false));
    must(static_cast<bool>(session), "libfuse does not take it");
}

void parse_list(std::string_view list) {
    Options options;
    try {
        parse_options(list, options);
    } catch (const BadOption& bad) {
        must(!std::string_view(bad.what()).empty(), "refused without a word");
        return;
    }
    check(options);
}

// One argument a line, each in memory of its own, and without what stands behind a NUL. Returns whether it was taken.
bool parse_line(std::string_view text) {
    std::vector<std::string> arguments = {"nosigbus"};
    while (!text.empty()) {
        const std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(line.size() + 1, text.size()));
        arguments.emplace_back(line.substr(0, line.find('\0')));
    }
    std::vector<char*> argv;
    argv.reserve(arguments.size() + 1);
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    try {
        const CommandLine line = parse_command_line(static_cast<int>(arguments.size()), argv.data());
        check(line.options);
        must(line.version || line.help || !line.reload.empty() || arguments.size() > 2, "taken without a mount point");
        return true;
    } catch (const BadCommandLine& bad) {
        must(!std::string_view(bad.what()).empty(), "refused without a word");
    } catch (const BadOption& bad) {
        must(!std::string_view(bad.what()).empty(), "refused without a word");
    }
    return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    parse_list(text);
    parse_line(text);
    // getopt(3) remembers where it was.
    must(parse_line("source\ntarget"), "one line has spoilt the next");
    return 0;
}
