#include "lib/source_dir.h"

#include <doctest/doctest.h>

#include <filesystem>

#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::string complaint(const std::string& source, const std::string& mount_point) {
    try {
        check_mount_point(mount_point, source, open_source(source));
    } catch (const BadDirectory& bad) {
        return bad.what();
    }
    return {};
}

bool says(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a source and a mount point must not lie in each other") {
    const TemporaryDirectory directory;
    const std::string a = directory.file("a");
    const std::string b = directory.file("b");
    std::filesystem::create_directories(a + "/in/deep");
    std::filesystem::create_directory(b);
    std::filesystem::create_directory_symlink(a + "/in", directory.file("link"));
    CHECK(complaint(a, b).empty());
    CHECK(complaint(a, a).empty());
    CHECK(complaint(a, directory.file("a/")).empty());
    CHECK(says(complaint(a, a + "/in/deep"), "is inside the source"));
    CHECK(says(complaint(a, directory.file("link")), "is inside the source"));
    CHECK(says(complaint(a + "/in/deep", a), "is inside the mount point"));
    CHECK(complaint(a, directory.file("ab")).find("is inside") == std::string::npos);
}

TEST_CASE("what is no directory is named") {
    const TemporaryDirectory directory;
    make_file(directory.file("file"));
    const std::string nowhere = directory.file("nowhere");
    CHECK(says(complaint(nowhere, directory.path()), "source " + nowhere + ": No such file or directory"));
    CHECK(says(complaint(directory.file("file"), directory.path()), "Not a directory"));
    CHECK(says(complaint(directory.path(), nowhere), "mount point " + nowhere + ": No such file or directory"));
    CHECK(says(complaint(directory.path(), directory.file("file")), "Not a directory"));
    CHECK(says(complaint("", directory.path()), "No such file or directory"));
}

TEST_CASE("the source is shown as given, but always absolute") {
    CHECK(absolute_source("/dev/../dev") == "/dev/../dev");
    CHECK(absolute_source(".") == std::filesystem::current_path().string());
    CHECK_THROWS_AS(absolute_source("not/here"), BadDirectory);
}
