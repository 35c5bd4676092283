#include "tests/bench/programs.h"

#include <stdexcept>

#include "tests/mount/process.h"

namespace nosigbus::bench {

namespace {

std::string version_of(const std::string& program) {
    const test::Run asked = test::run({program, "--version"});
    if (asked.ending == "exit 127") return {};  // no such program
    std::string line = asked.output.substr(0, asked.output.find('\n'));
    if (asked.ending != "exit 0" || line.empty())
        throw std::runtime_error(program + " --version: " + asked.ending + ": " + asked.errors);
    return line;
}

}  // namespace

const std::vector<OtherProgram>& other_programs() {
    static const std::vector<OtherProgram> programs = [] {
        // In the foreground, so that they are our children. mergerfs creates nothing where less than 4 GiB are free,
        // unless it is told otherwise.
        std::vector<OtherProgram> found = {{"bindfs", {"-f"}}, {"mergerfs", {"-f", "-o", "minfreespace=0"}}};
        for (OtherProgram& program : found) program.version = version_of(program.name);
        return found;
    }();
    return programs;
}

}  // namespace nosigbus::bench
