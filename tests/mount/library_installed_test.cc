// libnosigbus as it is installed: what programs outside of this tree compile and link.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <set>
#include <sstream>

#include "tests/mount/files.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// An installation of its own, and programs made from it. Not where the build was told that it would be.
class Prefix {
  public:
    Prefix() : root_(make_temporary_directory()) { done({"cmake", "--install", NOSIGBUS_BUILD, "--prefix", path("")}); }
    Prefix(const Prefix&) = delete;
    Prefix& operator=(const Prefix&) = delete;
    ~Prefix() { take_down(root_); }

    // Below the prefix.
    [[nodiscard]] std::string path(const std::string& name) const { return root_ + "/prefix" + name; }
    // Beside it.
    [[nodiscard]] std::string beside(const std::string& name) const { return root_ + '/' + name; }

    [[nodiscard]] std::string libraries() const { return path("/" NOSIGBUS_LIBDIR); }

    // Runs a command that must succeed; `text` is what it wrote.
    [[nodiscard]] std::string text(const std::vector<std::string>& command) const {
        const Run finished = run(command, {.environment = {"PKG_CONFIG_PATH=" + libraries() + "/pkgconfig"}});
        REQUIRE_MESSAGE(finished.ending == "exit 0", fmt::format("{}: ", fmt::join(command, " ")), finished.output,
                        finished.errors);
        return finished.output;
    }
    void done(const std::vector<std::string>& command) const { (void)text(command); }

    [[nodiscard]] std::string write(const std::string& name, const std::string& content) const {
        std::ofstream(beside(name)) << content;
        return beside(name);
    }

    // Compiles `source` by `compiler` with what pkg-config says, and returns the program.
    [[nodiscard]] std::string compile(const std::string& source, const std::string& compiler,
                                      const std::string& flags = {}) const {
        done({"sh", "-c",
              fmt::format("{0} -Wall -Wextra -Wpedantic -Werror -o {1}.out {1} $(pkg-config --cflags --libs {2} "
                          "libnosigbus)",
                          compiler, source, flags)});
        return source + ".out";
    }

  private:
    std::string root_;
};

std::string content_of(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator(file), {}};
}

// The program in the README: it prints byte 4095 of its standard input.
std::string readme_program() {
    const std::string readme = content_of(NOSIGBUS_README);
    const std::string before = "<!-- program -->\n```c\n";
    const std::size_t start = readme.find(before);
    REQUIRE(start != std::string::npos);
    const std::size_t from = start + before.size();
    return readme.substr(from, readme.find("```\n", from) - from);
}

// The program in libnosigbus(3), as man(1) shows it: it prints the sum of so many bytes of its standard input.
std::string manual_program(const std::string& page) {
    const std::string text = content_of(page);
    const std::size_t start = text.find(".EX\n#include");
    REQUIRE(start != std::string::npos);
    const std::string program = text.substr(start + 4, text.find(".EE\n", start) - start - 4);
    return std::regex_replace(std::regex_replace(program, std::regex(R"(\\&)"), ""), std::regex(R"(\\e)"), "\\");
}

// Runs a program on a memfd of so many bytes that is shorter than it once was, and says what it wrote.
std::string on_memory(const Prefix& prefix, const ViewMount& mount, const std::vector<std::string>& program,
                      std::size_t size) {
    const UniqueFd file(must(::memfd_create("input", MFD_CLOEXEC), "memfd_create"));
    write_at(file.get(), 0, std::string(10000, 'A'));
    resize(file.get(), size);
    const Run finished =
        run(program, {.environment = {"NOSIGBUS_MOUNT=" + mount.mountpoint(), "LD_LIBRARY_PATH=" + prefix.libraries()},
                      .before_exec = [&] { must(::dup2(file.get(), 0), "dup2"); }});
    return finished.ending + ", " + finished.output + finished.errors;
}

void check_first_program(const Prefix& prefix, const ViewMount& mount, const std::string& program) {
    CAPTURE(program);
    CHECK(on_memory(prefix, mount, {program}, 4096) == "exit 0, 65\n");
    CHECK(on_memory(prefix, mount, {program}, 4095) == "exit 0, 0\n");
    CHECK(on_memory(prefix, mount, {program}, 0) == "exit 0, 0\n");
}

// The symbols that others can link, with their versions.
std::set<std::string> symbols(const Prefix& prefix, const std::vector<std::string>& command) {
    std::istringstream lines(prefix.text(command));
    std::set<std::string> names;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string address;
        std::string type;
        std::string name;
        if (!(words >> address >> type >> name) || type == "A") continue;
        if (!name.starts_with("__x86.get_pc_thunk.")) names.insert(name);  // the compiler's, on i386
    }
    return names;
}

// All that the header declares.
std::set<std::string> declared(const Prefix& prefix) {
    const std::string header = content_of(prefix.path("/include/nosigbus.h"));
    const std::regex pattern(R"(\n\w[\w *]*[ *](nosigbus_\w+)\()");
    std::set<std::string> names;
    for (std::sregex_iterator found(header.begin(), header.end(), pattern), end; found != end; ++found)
        names.insert((*found)[1]);
    return names;
}

}  // namespace

TEST_SUITE_BEGIN("library-installed");

TEST_CASE("programs in C and C++ need the installed header and pkg-config, and nothing else") {
    const Prefix prefix;
    const ViewMount mount({"max_size=1M"});
    const std::string in_c = prefix.write("first.c", readme_program());
    const std::string in_cpp = prefix.write("first.cc", readme_program());
    check_first_program(prefix, mount, prefix.compile(in_c, "cc -std=c11"));
    check_first_program(prefix, mount, prefix.compile(in_cpp, "c++ -std=c++11"));
    CHECK(prefix.text({"readelf", "-d", in_c + ".out"}).find("[libnosigbus.so.0]") != std::string::npos);

    const std::string manual = prefix.write("manual.c", manual_program(prefix.path("/share/man/man3/libnosigbus.3")));
    const std::string sum = prefix.compile(manual, "cc");
    CHECK(on_memory(prefix, mount, {sum, "5000"}, 5000) == "exit 0, 325000\n");
    CHECK(on_memory(prefix, mount, {sum, "5000"}, 10) == "exit 0, 650\n");
    CHECK(on_memory(prefix, mount, {sum, "5000000"}, 10) ==
          "exit 1, nosigbus_map: Value too large for defined data type\n");

    const std::string fixed = prefix.compile(in_c, "cc -static", "--static");
    check_first_program(prefix, mount, fixed);
    // A program that is set-user-ID goes where its caller says only by default.
    must(::chown(fixed.c_str(), 0, 0), "chown");
    const auto run_by_nobody = [&] {
        return run({fixed}, {.environment = {"NOSIGBUS_MOUNT=/proc"}, .before_exec = [] { become(nobody); }}).errors;
    };
    mount_tmpfs("/run");
    CHECK(run_by_nobody() == "nosigbus_find: Operation not supported\n");
    must(::chmod(fixed.c_str(), 04755), "chmod");
    CHECK(run_by_nobody() == "nosigbus_find: No such file or directory\n");
    ::umount2("/run", MNT_DETACH);
}

TEST_CASE("programs that are built by CMake find the package") {
    const Prefix prefix;
    const ViewMount mount({"max_size=1M"});
    (void)prefix.write("first.c", readme_program());
    (void)prefix.write("CMakeLists.txt", R"(cmake_minimum_required(VERSION 3.16)
project(first LANGUAGES C)
find_package(nosigbus 0.1 REQUIRED)
foreach(library nosigbus nosigbus_static)
  add_executable(with_${library} first.c)
  target_link_libraries(with_${library} PRIVATE nosigbus::${library})
endforeach()
)");
    prefix.done({"cmake", "-G", "Ninja", "-S", prefix.beside(""), "-B", prefix.beside("build"),
                 "-DCMAKE_PREFIX_PATH=" + prefix.path("")});
    prefix.done({"cmake", "--build", prefix.beside("build")});
    for (const char* program : {"build/with_nosigbus", "build/with_nosigbus_static"})
        check_first_program(prefix, mount, prefix.beside(program));
}

TEST_CASE("what the header declares is what the libraries have, and each has a manual page") {
    const Prefix prefix;
    const std::set<std::string> names = declared(prefix);
    CHECK(names.size() == 12);
    std::set<std::string> versioned;
    for (const std::string& name : names) {
        CAPTURE(name);
        versioned.insert(name + "@@NOSIGBUS_0.1");
        const std::string page = content_of(prefix.path("/share/man/man3/" + name + ".3"));
        const bool is_other_name = page.starts_with(".so ");
        const std::string real_page =
            is_other_name ? content_of(prefix.path("/share/man/" + page.substr(4, page.size() - 5))) : page;
        CHECK(real_page.substr(0, real_page.find(".SH SYNOPSIS")).find(name) != std::string::npos);
    }
    CHECK(symbols(prefix, {"nm", "-D", "--defined-only", prefix.libraries() + "/libnosigbus.so"}) == versioned);
    CHECK(symbols(prefix, {"nm", "-g", "--defined-only", prefix.libraries() + "/libnosigbus.a"}) == names);
    CHECK(std::filesystem::read_symlink(prefix.libraries() + "/libnosigbus.so.0") ==
          "libnosigbus.so." NOSIGBUS_VERSION);
}

TEST_SUITE_END();
