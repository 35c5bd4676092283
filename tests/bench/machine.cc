#include "tests/bench/machine.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <ctime>
#include <fstream>

#include "tests/bench/programs.h"
#include "tests/mount/files.h"

namespace nosigbus::bench {

namespace {

// What `file` has behind the colon of the line that begins with `key`, or nothing.
std::string field(const std::string& file, const std::string& key) {
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);) {
        if (const auto colon = line.find(": "); line.starts_with(key) && colon != std::string::npos)
            return line.substr(colon + 2);
    }
    return {};
}

std::string first_line(const std::string& file) {
    std::ifstream lines(file);
    std::string line;
    std::getline(lines, line);
    return line;
}

std::string processor(const utsname& system) {
    const std::string model = field("/proc/cpuinfo", "model name");
    return model.empty() ? system.machine : model;
}

double memory_in_gib() {
    return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(test::page) /
           static_cast<double>(test::GiB);
}

// Nothing where this build is fit to be measured.
std::string warning() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return "\nBuilt with a sanitizer: the times mean nothing.\n";
#elif !defined(__OPTIMIZE__)
    return "\nBuilt without optimization: the times mean nothing.\n";
#else
    return {};
#endif
}

}  // namespace

std::string description_of_machine() {
    utsname system{};
    test::must(::uname(&system), "uname");
    std::string text = fmt::format("# nosigbus_bench {}, {:%Y-%m-%d %H:%M} UTC\n\n", NOSIGBUS_VERSION,
                                   fmt::gmtime(std::time(nullptr)));
    text += fmt::format("- Machine: Linux {}, {}, {} cores, {:.0f} GiB of memory\n", system.release, processor(system),
                        ::sysconf(_SC_NPROCESSORS_ONLN), memory_in_gib());
    text += fmt::format("- Transparent huge pages: {}; the source is a tmpfs with huge=never\n",
                        first_line("/sys/kernel/mm/transparent_hugepage/enabled"));
    for (const OtherProgram& program : other_programs()) {
        text += program.installed() ? fmt::format("- {}\n", program.version)
                                    : fmt::format("- {} is not installed: its column is left out\n", program.name);
    }
    return text + warning();
}

}  // namespace nosigbus::bench
