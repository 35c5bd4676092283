// The directory .nosigbus of a mount: there for who knows it, in nobody's way, and not to be changed.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include <cstdio>
#include <filesystem>
#include <set>

#include "tests/mount/fd_views.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::set<std::string> names_in(const std::string& directory) {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) names.insert(entry.path().filename());
    return names;
}

// All that there is below a directory: names, modes, owners, sizes, times of change, contents.
std::string everything_in(const std::string& directory) {
    const Run listed = run({"sh", "-c",
                            "cd \"$1\" && find . -printf '%p %M %u %g %n %s %T@ %C@\\n' | sort && "
                            "find . -type f -exec sha256sum {} + | sort",
                            "sh", directory});
    REQUIRE(listed.ending == "exit 0");
    return listed.output;
}

using Names = std::set<std::string>;

}  // namespace

TEST_SUITE_BEGIN("fd-views");

TEST_CASE("it is listed nowhere, and where it is looked at it holds nothing") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("file"), "abc");
    must(::mkdir(mount.raw("directory").c_str(), 0755), "mkdir");
    const UniqueFd file = memfd("abc");
    CHECK(names_in(mount.mountpoint()) == Names{"file", "directory"});
    CHECK(names_in(mount.view(".nosigbus")) == Names{"fd"});
    CHECK(names_in(mount.view(".nosigbus/fd")).empty());
    for (const std::string name : {".nosigbus", ".nosigbus/fd"}) {
        CHECK(S_ISDIR(status(mount.view(name)).st_mode));
        CHECK(as_user(nobody, [&] { return answer(::access(mount.view(name).c_str(), R_OK | X_OK)); }) == "0");
    }
    // Only in the root.
    CHECK(opened(mount.view("directory/.nosigbus"), O_RDONLY) == "ENOENT");
    CHECK(opened(mount.view(".nosigbus/.nosigbus"), O_RDONLY) == "ENOENT");
    CHECK(opened(mount.view(".nosigbus/fd/.nosigbus"), O_RDONLY) == "ENOENT");
    const std::string here = fmt::format("/fd/{}", file.get());
    CHECK(read_all(mount.view("directory/../.nosigbus" + here)) == "abc");
    CHECK(read_all(mount.view(".nosigbus/fd/../../.nosigbus/./fd/.." + here)) == "abc");
}

TEST_CASE("whoever walks through all of the mount meets no error and nothing that is not in the source") {
    const ViewMount mount({"max_size=64K", "stat=real"});
    make_file(mount.raw("file"), "abc");
    must(::mkdir(mount.raw("directory").c_str(), 0755), "mkdir");
    make_file(mount.raw("directory/other"), "other");
    const UniqueFd file = memfd("passed");
    const UniqueFd view = fd_view(mount, file.get());
    const std::string copy = mount.plain() + "/copy";
    const auto sh = [&](const std::string& command) {
        const Run done = run({"sh", "-c", command, "sh", mount.mountpoint(), copy});
        CHECK_MESSAGE(done.ending + ": " + done.errors == "exit 0: ", command);
        return done.output;
    };
    CHECK(sh("cd \"$1\" && find . | sort") == ".\n./directory\n./directory/other\n./file\n");
    CHECK(sh("ls -a \"$1\"") == ".\n..\ndirectory\nfile\n");
    sh("ls -laR \"$1\"");
    if (reads_end("cp and diff")) sh("cp -a \"$1\" \"$2\" && diff -r \"$1\" \"$2\"");
    sh("du -s \"$1\" && df \"$1\" \"$1/.nosigbus\" \"$1/.nosigbus/fd\"");
    sh("tar -C \"$1\" -c . | tar -t");
    // And through what is not listed.
    sh("find \"$1/.nosigbus\" && ls -laR \"$1/.nosigbus\" && stat \"$1/.nosigbus\" \"$1/.nosigbus/fd\"");
    sh("cp -r \"$1/.nosigbus\" \"$2/\"");
    for (const std::string& name : {mount.view(".nosigbus"), mount.view(".nosigbus/fd"), fd_name(mount, file.get())}) {
        CAPTURE(name);
        CHECK(::listxattr(name.c_str(), nullptr, 0) >= 0);
        struct statvfs system {};
        CHECK(::statvfs(name.c_str(), &system) == 0);
        CHECK(answer(::getxattr(name.c_str(), "user.nothing", nullptr, 0)) == "ENODATA");
        std::string counted(4096, '\0');
        CHECK(::getxattr(name.c_str(), "user.nosigbus.counters", counted.data(), counted.size()) > 0);
    }
    std::string size(32, '\0');
    const auto length = ::fgetxattr(view.get(), "user.nosigbus.real_size", size.data(), size.size());
    CHECK(size.substr(0, static_cast<std::size_t>(std::max<ssize_t>(length, 0))) == "6");
}

TEST_CASE("nothing in it can be made, removed, renamed or changed, and the source does not change by trying") {
    const ViewMount mount({"max_size=1M"});
    SUBCASE("there is no such name in the source") {}
    SUBCASE("there is one") {
        must(::mkdir(mount.raw(".nosigbus").c_str(), 0755), "mkdir");
        must(::mkdir(mount.raw(".nosigbus/fd").c_str(), 0755), "mkdir");
        make_file(mount.raw(".nosigbus/real"), "real");
    }
    make_file(mount.raw("file"), "abc");
    must(::mkdir(mount.raw("directory").c_str(), 0755), "mkdir");
    const UniqueFd file = memfd("abc");
    const UniqueFd elsewhere = make_file(mount.plain() + "/elsewhere", "content");
    const std::string before = everything_in(mount.source());
    const std::string here = mount.view("file");
    const std::vector<std::string> names = {
        mount.view(".nosigbus"),        mount.view(".nosigbus/fd"), mount.view(".nosigbus/new"),
        mount.view(".nosigbus/fd/new"), fd_name(mount, 987),        fd_name(mount, file.get()),
        fd_name(mount, elsewhere.get())};
    for (const std::string& name : names) {
        CAPTURE(name);
        const char* const path = name.c_str();
        CHECK(answer(::mkdir(path, 0755)) != "0");
        CHECK(answer(::mknod(path, S_IFREG | 0600, 0)) != "0");
        CHECK(answer(::mknod(path, S_IFIFO | 0600, 0)) != "0");
        CHECK(opened(path, O_RDWR | O_CREAT | O_EXCL) != "0");
        CHECK(answer(::symlink("file", path)) != "0");
        CHECK(answer(::link(here.c_str(), path)) != "0");
        CHECK(answer(std::rename(here.c_str(), path)) != "0");
        CHECK(answer(std::rename(mount.view("directory").c_str(), path)) != "0");
        CHECK(answer(std::rename(path, mount.view("moved").c_str())) != "0");
        CHECK(answer(::renameat2(AT_FDCWD, path, AT_FDCWD, here.c_str(), RENAME_EXCHANGE)) != "0");
        CHECK(answer(::renameat2(AT_FDCWD, here.c_str(), AT_FDCWD, path, RENAME_NOREPLACE)) != "0");
        CHECK(answer(::link(path, mount.view("linked").c_str())) != "0");
        CHECK(answer(::unlink(path)) != "0");
        CHECK(answer(::rmdir(path)) != "0");
    }
    for (const std::string name : {".nosigbus", ".nosigbus/fd"}) {
        CAPTURE(name);
        const std::string path = mount.view(name);
        CHECK(opened(path + "/987", O_RDWR | O_CREAT) != "0");
        CHECK(opened(path, O_TMPFILE | O_RDWR) != "0");
        CHECK(answer(::chmod(path.c_str(), 0777)) != "0");
        CHECK(answer(::chown(path.c_str(), nobody, nobody)) != "0");
        CHECK(answer(::utimensat(AT_FDCWD, path.c_str(), nullptr, 0)) != "0");
        CHECK(answer(::setxattr(path.c_str(), "user.name", "value", 5, 0)) != "0");
        CHECK(answer(::setxattr(path.c_str(), "trusted.name", "value", 5, 0)) != "0");
        CHECK(answer(::removexattr(path.c_str(), "user.name")) != "0");
    }
    CHECK(everything_in(mount.source()) == before);
    CHECK(names_in(mount.mountpoint()) == Names{"directory", "file"});
    CHECK(read_all(fd_name(mount, file.get())) == "abc");
}

TEST_CASE("a view of a descriptor has no other name in the mount") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd file = make_file(mount.plain() + "/named", "abc");
    const UniqueFd view = fd_view(mount, file.get(), O_RDWR);
    const std::string there = mount.view("linked");
    CHECK(answer(::link(fd_name(mount, file.get()).c_str(), there.c_str())) == "EXDEV");
    const std::string open_one = fmt::format("/proc/self/fd/{}", view.get());
    CHECK(answer(::linkat(AT_FDCWD, open_one.c_str(), AT_FDCWD, there.c_str(), AT_SYMLINK_FOLLOW)) == "EXDEV");
    CHECK(answer(::linkat(view.get(), "", AT_FDCWD, there.c_str(), AT_EMPTY_PATH)) == "EXDEV");
    // One of the source, which could be linked there, neither.
    const UniqueFd behind = make_file(mount.raw("behind"), "abc");
    CHECK(answer(::link(fd_name(mount, behind.get()).c_str(), there.c_str())) == "EXDEV");
    // These have no name at all, of which the kernel says ENOENT by itself.
    for (const UniqueFd& nameless : {memfd("abc"), tmpfile(mount.plain()), tmpfile(mount.source())}) {
        const std::string refused = answer(::link(fd_name(mount, nameless.get()).c_str(), there.c_str()));
        CHECK_MESSAGE((refused == "EXDEV" || refused == "ENOENT"), refused);
    }
    CHECK(names_in(mount.source()) == Names{"behind"});
}

TEST_CASE("a file of that name in the source is hidden, and comes to no harm") {
    const ViewMount mount({"max_size=1M"});
    SUBCASE("a file") {
        make_file(mount.raw(".nosigbus"), "real");
    }
    SUBCASE("a directory") {
        must(::mkdir(mount.raw(".nosigbus").c_str(), 0755), "mkdir");
        make_file(mount.raw(".nosigbus/fd"), "real");
    }
    SUBCASE("a link") {
        must(::symlink("/etc", mount.raw(".nosigbus").c_str()), "symlink");
    }
    const UniqueFd file = memfd("abc");
    CHECK(read_all(fd_name(mount, file.get())) == "abc");
    CHECK(names_in(mount.mountpoint()).empty());
    CHECK(names_in(mount.view(".nosigbus")) == Names{"fd"});
    CHECK(answer(::rmdir(mount.view(".nosigbus").c_str())) != "0");
    CHECK(names_in(mount.source()) == Names{".nosigbus"});
}

TEST_CASE("with fd_views=no there is nothing of it, and the name is as good as others") {
    const ViewMount mount({"max_size=1M", "fd_views=no"});
    const UniqueFd file = memfd("abc");
    CHECK(opened(mount.view(".nosigbus"), O_RDONLY) == "ENOENT");
    CHECK(opened(fd_name(mount, file.get()), O_RDONLY) == "ENOENT");
    must(::mkdir(mount.view(".nosigbus").c_str(), 0755), "mkdir");
    must(::mkdir(mount.view(".nosigbus/fd").c_str(), 0755), "mkdir");
    make_file(mount.view(".nosigbus/fd/777777"), "seven");  // no descriptor of ours
    CHECK(read_all(mount.raw(".nosigbus/fd/777777")) == "seven");
    CHECK(names_in(mount.mountpoint()) == Names{".nosigbus"});
    CHECK(names_in(mount.view(".nosigbus/fd")) == Names{"777777"});
    CHECK(opened(fd_name(mount, file.get()), O_RDONLY) == "ENOENT");
    must(std::rename(mount.view(".nosigbus").c_str(), mount.view("other").c_str()), "rename");
    CHECK(names_in(mount.source()) == Names{"other"});
}

TEST_CASE("on a mount with ro views of descriptors can be read and not written") {
    const ViewMount mount({"max_size=1M", "ro"});
    const UniqueFd file = memfd("abc");
    CHECK(shows(fd_view(mount, file.get()).get(), "abc"));
    CHECK(opened(fd_name(mount, file.get()), O_RDWR) == "EROFS");
    CHECK(answer(::truncate(fd_name(mount, file.get()).c_str(), 1)) == "EROFS");
    CHECK(read_all(file.get()) == "abc");
}

TEST_SUITE_END();
