#include "tests/mount/fault_operations.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <array>
#include <cstdio>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <set>

#include "tests/mount/fault_points.h"
#include "tests/mount/files.h"

namespace nosigbus::test {

Place::Place(const ViewMount& of_mount, const std::string& name)
    : mount(of_mount), raw(of_mount.raw(name)), view(of_mount.view(name)) {
    must(::mkdir(raw.c_str(), 0755), "mkdir");
    directory = open_file(view, O_PATH | O_DIRECTORY);
}

void set_immutable(const std::string& directory, bool is_immutable) {
    const int flags = is_immutable ? FS_IMMUTABLE_FL : 0;
    must(::ioctl(open_file(directory, O_RDONLY).get(), FS_IOC_SETFLAGS, &flags), "FS_IOC_SETFLAGS");
}

namespace {

void nothing(Place& /*place*/) {}

void a_file(Place& place) {
    make_file(place.raw + "/file", pattern(0, 3 * page + 100));
}

void two_files(Place& place) {
    a_file(place);
    make_file(place.raw + "/other", "the other");
}

void an_empty_directory(Place& place) {
    must(::mkdir((place.raw + "/directory").c_str(), 0755), "mkdir");
}

void a_full_directory(Place& place) {
    an_empty_directory(place);
    make_file(place.raw + "/directory/file", "in it");
}

void a_link(Place& place) {
    must(::symlink("to nowhere", (place.raw + "/link").c_str()), "symlink");
}

void fifty_files(Place& place) {
    for (int i = 0; i < 50; ++i) make_file(fmt::format("{}/entry {}", place.raw, i), std::to_string(i));
}

// The kernel knows it, and its view is too small by now.
void an_outgrown_file(Place& place) {
    const UniqueFd file = make_file(place.raw + "/file", pattern(0, 1000));
    place.other = open_file(place.view + "/file", O_PATH);
    resize(file.get(), MiB + 5 * page);
    write_at(file.get(), MiB + 4 * page, pattern(MiB + 4 * page, page));
}

template <void (*prepare)(Place&)>
void immutable(Place& place) {
    prepare(place);
    set_immutable(place.raw, true);
}

std::string opened_and_read(Place& place) {
    place.file.reset(::openat(place.directory.get(), "file", O_RDONLY | O_CLOEXEC));
    return place.file ? read_all(place.file.get()) : answer(-1);
}

std::string opened_and_cut(Place& place) {
    place.file.reset(::openat(place.directory.get(), "file", O_RDWR | O_TRUNC | O_CLOEXEC));
    return place.file ? read_all(place.file.get()) : answer(-1);
}

std::string opened_and_mapped(Place& place) {
    place.file.reset(::openat(place.directory.get(), "file", O_RDONLY | O_CLOEXEC));
    if (!place.file) return answer(-1);
    return Mapping(place.file.get(), 2 * MiB).bytes(MiB + 4 * page, 2 * page);
}

template <int flags>
std::string created(Place& place) {
    place.file.reset(::openat(place.directory.get(), "new", O_RDWR | O_CREAT | O_CLOEXEC | flags, 0640));
    if (!place.file) return answer(-1);
    write_at(place.file.get(), 3, "content");
    return read_all(place.file.get());
}

// A file without a name is given one.
std::string made_and_named(Place& place) {
    place.file.reset(::openat(place.directory.get(), ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0640));
    if (!place.file) return answer(-1);
    write_at(place.file.get(), 3, "content");
    const std::string self = fmt::format("/proc/self/fd/{}", place.file.get());
    const int result = ::linkat(AT_FDCWD, self.c_str(), place.directory.get(), "new", AT_SYMLINK_FOLLOW);
    return answer(result) + " " + read_all(place.file.get());
}

std::string directory_made(Place& place) {
    return answer(::mkdirat(place.directory.get(), "new", 0750));
}

std::string fifo_made(Place& place) {
    return answer(::mknodat(place.directory.get(), "new", S_IFIFO | 0640, 0));
}

std::string file_made(Place& place) {
    return answer(::mknodat(place.directory.get(), "new", S_IFREG | 0640, 0));
}

std::string symlink_made(Place& place) {
    return answer(::symlinkat("its target", place.directory.get(), "new"));
}

std::string linked(Place& place) {
    return answer(::linkat(place.directory.get(), "file", place.directory.get(), "new", 0));
}

std::string unlinked(Place& place) {
    return answer(::unlinkat(place.directory.get(), "file", 0));
}

std::string directory_removed(Place& place) {
    return answer(::unlinkat(place.directory.get(), "directory", AT_REMOVEDIR));
}

std::string renamed(const Place& place, const char* from, const char* to, unsigned flags = 0) {
    return answer(::renameat2(place.directory.get(), from, place.directory.get(), to, flags));
}

std::string listed(Place& place) {
    DIR* const directory = ::fdopendir(::openat(place.directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory == nullptr) return answer(-1);
    std::multiset<std::string> names;
    while (const dirent* entry = ::readdir(directory)) names.insert(fmt::format("{} {}", entry->d_name, entry->d_type));
    ::closedir(directory);
    std::string all;
    for (const std::string& name : names) all += name + "\n";
    return all;
}

std::string described(Place& place) {
    struct stat found {};
    if (::fstatat(place.directory.get(), "file", &found, AT_SYMLINK_NOFOLLOW) != 0) return answer(-1);
    return fmt::format("{:o} {} {} {}", found.st_mode, found.st_nlink, found.st_size, found.st_blocks);
}

std::string statistics(Place& place) {
    struct statfs found {};
    if (::fstatfs(place.directory.get(), &found) != 0) return answer(-1);
    return fmt::format("{} {} {}", found.f_bsize, found.f_blocks, found.f_namelen);
}

std::string link_read(Place& place) {
    std::array<char, 100> target{};
    const auto length = ::readlinkat(place.directory.get(), "link", target.data(), target.size());
    return length < 0 ? answer(-1) : std::string(target.data(), static_cast<std::size_t>(length));
}

// That of a name, and of the node it finds, which the kernel does not know yet.
const Points looks_up = around({"LOOKUP"}) + Points{"lookup.counted", "lookup.noted", "lookup.answered"};

}  // namespace

std::vector<Operation> operations_on_names() {
    // What makes something notes the deed, the node and the lookup, in this order, and gives back the last and the
    // first of them. What opens it has an open file besides.
    // To look a name up is the same for all of them: not each has points for that.
    const Points makes = noted_deed + Points{"lookup.counted", "lookup.noted", "lookup.answered"};
    const Points opens = around({"OPEN"}) + slots(3, 1);
    return {
        {"open and read", a_file, opened_and_read,
         looks_up + opens + around({"READ"}) + Points{"request.READ 1", "inbox.read", "inbox.read 1", "inbox.read 2"}},
        {"open with O_TRUNC", a_file, opened_and_cut, around({"OPEN", "SETATTR"})},
        {"open of an outgrown file", an_outgrown_file, opened_and_mapped,
         Points{"request.LOOKUP", "processed.LOOKUP", "request.OPEN", "refresher.turn"} + outgrows},
        {"create with O_EXCL", nothing, created<O_EXCL>, around({"LOOKUP", "CREATE", "WRITE"}) + makes + slots(4, 2)},
        {"create", nothing, created<0>, around({"CREATE"}) + makes},
        {"create, refused", immutable<nothing>, created<O_EXCL>, around({"CREATE"}) + refused_deed},
        {"open with O_TMPFILE, and link", nothing, made_and_named,
         around({"TMPFILE"}) +
             Points{"lookup.counted", "lookup.noted", "lookup.answered", "lookup.counted 1", "deed.begun",
                    "deed.executed"} +
             slots(3, 1)},
        {"mkdir", nothing, directory_made, around({"LOOKUP", "MKDIR"}) + makes + Points{"inbox.read", "inbox.read 1"}},
        {"mkdir of what exists", [](Place& p) { must(::mkdir((p.raw + "/new").c_str(), 0700), "mkdir"); },
         directory_made, looks_up},
        {"mkdir, refused", immutable<nothing>, directory_made, around({"MKDIR"}) + refused_deed},
        {"mknod of a fifo", nothing, fifo_made, around({"MKNOD"}) + makes},
        {"mknod of a file", nothing, file_made, around({"MKNOD"}) + makes},
        {"mknod, refused", immutable<nothing>, fifo_made, around({"MKNOD"}) + refused_deed},
        {"symlink", nothing, symlink_made, around({"SYMLINK"}) + makes},
        {"symlink, refused", immutable<nothing>, symlink_made, around({"SYMLINK"}) + refused_deed},
        {"link", a_file, linked, around({"LINK"}) + makes},
        {"link, refused", immutable<a_file>, linked, around({"LINK"}) + refused_deed},
        {"unlink", a_file, unlinked,
         around({"LOOKUP", "UNLINK"}) + noted_deed + slots(3, 2) +
             Points{"request.FORGET", "processed.FORGET", "forget", "inbox.read", "inbox.read 1", "inbox.read 2"}},
        {"unlink of what is not there", nothing, unlinked, around({"LOOKUP"})},
        {"unlink, refused", immutable<a_file>, unlinked, around({"UNLINK"}) + refused_deed},
        {"rmdir", an_empty_directory, directory_removed, around({"RMDIR"}) + noted_deed},
        {"rmdir of what is not empty", a_full_directory, directory_removed, around({"RMDIR"}) + refused_deed},
        {"rename", a_file, [](Place& p) { return renamed(p, "file", "new"); },
         around({"LOOKUP", "RENAME"}) + noted_deed},
        {"rename of a directory", a_full_directory, [](Place& p) { return renamed(p, "directory", "new"); },
         around({"RENAME"}) + noted_deed},
        {"rename onto what exists", two_files, [](Place& p) { return renamed(p, "file", "other"); },
         around({"RENAME"}) + noted_deed},
        {"rename onto a full directory",
         [](Place& p) {
             a_full_directory(p);
             must(::mkdir((p.raw + "/new").c_str(), 0700), "mkdir");
         },
         [](Place& p) { return renamed(p, "new", "directory"); }, around({"RENAME"}) + refused_deed},
        {"rename with RENAME_NOREPLACE", a_file, [](Place& p) { return renamed(p, "file", "new", RENAME_NOREPLACE); },
         around({"RENAME"}) + noted_deed},
        {"rename with RENAME_NOREPLACE onto what exists", two_files,
         [](Place& p) { return renamed(p, "file", "other", RENAME_NOREPLACE); }, around({"LOOKUP"})},
        {"rename with RENAME_EXCHANGE", two_files,
         [](Place& p) { return renamed(p, "file", "other", RENAME_EXCHANGE); }, around({"RENAME"}) + noted_deed},
        {"rename with RENAME_WHITEOUT", a_file, [](Place& p) { return renamed(p, "file", "new", RENAME_WHITEOUT); },
         around({"RENAME"}) + noted_deed},
        {"rename, refused", immutable<a_file>, [](Place& p) { return renamed(p, "file", "new"); },
         around({"RENAME"}) + refused_deed},
        {"readdir", fifty_files, listed,
         around({"OPENDIR", "READDIRPLUS", "READDIR", "RELEASEDIR"}) +
             Points{"lookup.counted", "lookup.noted 10", "lookup.answered", "lookup.answered 10", "slot.published 21"}},
        {"stat", a_file, described, looks_up + around({"GETATTR"}) + slots(2, 1)},
        {"stat of what is not there", nothing, described, around({"LOOKUP"})},
        {"stat of an outgrown file", an_outgrown_file, described, around({"GETATTR"}) + outgrows},
        {"statfs", nothing, statistics, around({"STATFS"})},
        {"readlink", a_link, link_read, around({"READLINK"})},
    };
}

}  // namespace nosigbus::test
