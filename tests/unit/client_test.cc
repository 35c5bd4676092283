// libnosigbus where no mount is needed: what it refuses, and what needs no view.
#include <doctest/doctest.h>
#include <sys/inotify.h>
#include <sys/xattr.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "lib/client/nosigbus.h"
#include "tests/unit/mount_variable.h"
#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr off_t largest = INT64_MAX;

const off_t page = ::sysconf(_SC_PAGESIZE);

// The errno of what failed; 0 of what did not.
template <typename Result>
int error_of(Result result) {
    return result == -1 ? errno : 0;
}
int error_of(nosigbus_mapping* mapping) {
    const int error = mapping == nullptr ? errno : 0;
    nosigbus_unmap(mapping);
    return error;
}

UniqueFd memory(off_t size, unsigned seals, unsigned flags = MFD_ALLOW_SEALING) {
    UniqueFd file(sys::check(::memfd_create("test", flags | MFD_CLOEXEC), "memfd_create"));
    sys::check(::ftruncate(file.get(), size), "ftruncate");
    if (seals != 0) sys::check(::fcntl(file.get(), F_ADD_SEALS, seals), "F_ADD_SEALS");
    return file;
}

UniqueFd open_directory(const std::string& path) {
    return sys::open_at(AT_FDCWD, path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
}

// Where the kernel promises no more memory than it has, even what is sealed may fault.
bool holes_are_sure() {
    char mode = '2';
    std::ifstream("/proc/sys/vm/overcommit_memory") >> mode;
    return mode != '2';
}

auto descriptors() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
}

}  // namespace

TEST_CASE("a mapping cannot fault where the file is sealed against shrinking and long enough") {
    const int sure = holes_are_sure() ? 1 : 0;
    const UniqueFd sealed = memory(2 * page + 1, F_SEAL_SHRINK);
    CHECK(nosigbus_cannot_fault(sealed.get(), 1) == sure);
    CHECK(nosigbus_cannot_fault(sealed.get(), 2 * page + 1) == sure);
    CHECK(nosigbus_cannot_fault(sealed.get(), 2 * page + 2) == 0);
    CHECK(nosigbus_cannot_fault(sealed.get(), largest) == 0);
    sys::check(::ftruncate(sealed.get(), 3 * page), "ftruncate");
    CHECK(nosigbus_cannot_fault(sealed.get(), 3 * page) == sure);
    CHECK(nosigbus_cannot_fault(memory(page, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL).get(), page) ==
          1);
}

TEST_CASE("all else can") {
    CHECK(nosigbus_cannot_fault(memory(page, 0).get(), page) == 0);
    CHECK(nosigbus_cannot_fault(memory(page, 0, 0).get(), page) == 0);
    CHECK(nosigbus_cannot_fault(memory(page, F_SEAL_GROW | F_SEAL_SEAL).get(), page) == 0);
    const TemporaryDirectory directory;
    const std::string content(10, 'x');
    CHECK(nosigbus_cannot_fault(make_file(directory.file("file"), content).get(), 10) == 0);
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    CHECK(nosigbus_cannot_fault(ends[0], 1) == 0);
    ::close(ends[0]);
    ::close(ends[1]);
    // A file of a tmpfs that has a name takes no seals.
    const UniqueFd named(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (named && ::ftruncate(named.get(), page) == 0) CHECK(nosigbus_cannot_fault(named.get(), page) == 0);
}

TEST_CASE("huge pages that were punched may not come back, sealed or not") {
    const off_t huge = off_t{2} << 20U;
    const UniqueFd file(::memfd_create("huge", MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_CLOEXEC));
    if (!file || ::ftruncate(file.get(), huge) != 0) return;  // a kernel without
    REQUIRE(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    CHECK(nosigbus_cannot_fault(file.get(), huge) == 0);
}

TEST_CASE("whether a mapping can fault is not asked of nothing") {
    const UniqueFd sealed = memory(page, F_SEAL_SHRINK);
    for (const off_t end : {off_t{0}, off_t{-1}, -largest})
        CHECK(error_of(nosigbus_cannot_fault(sealed.get(), end)) == EINVAL);
    CHECK(error_of(nosigbus_cannot_fault(-1, page)) == EBADF);
}

TEST_CASE("what is no mount of ours gives no views") {
    const TemporaryDirectory directory;
    make_file(directory.file("file"));
    const auto before = descriptors();
    CHECK(error_of(nosigbus_find(directory.file("nowhere").c_str())) == ENOENT);
    CHECK(error_of(nosigbus_find("")) == ENOENT);
    CHECK(error_of(nosigbus_find(directory.file("file").c_str())) == ENOTDIR);
    CHECK(error_of(nosigbus_find(directory.path().c_str())) == ENOTSUP);
    CHECK(error_of(nosigbus_find("/proc")) == ENOTSUP);
    std::filesystem::create_directories(directory.file(".nosigbus"));
    make_file(directory.file(".nosigbus/fd"));
    CHECK(error_of(nosigbus_find(directory.path().c_str())) == ENOTSUP);
    std::filesystem::remove(directory.file(".nosigbus/fd"));
    std::filesystem::create_directory_symlink("/", directory.file(".nosigbus/fd"));
    CHECK(error_of(nosigbus_find(directory.path().c_str())) == ENOTSUP);
    std::filesystem::remove(directory.file(".nosigbus/fd"));
    std::filesystem::create_directories(directory.file(".nosigbus/fd"));
    CHECK(error_of(nosigbus_find(directory.path().c_str())) == ENOTSUP);
    CHECK(descriptors() == before);
}

TEST_CASE("no file is opened to find out") {
    const TemporaryDirectory directory;
    const std::string numbers = directory.file(".nosigbus/fd");
    std::filesystem::create_directories(numbers);
    for (int number = 0; number < 64; ++number) make_file(numbers + '/' + std::to_string(number));
    const UniqueFd events(sys::check(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "inotify_init1"));
    sys::check(::inotify_add_watch(events.get(), numbers.c_str(), IN_OPEN), "inotify_add_watch");
    CHECK(error_of(nosigbus_find(directory.path().c_str())) == ENOTSUP);
    char event[1024];
    CHECK(error_of(::read(events.get(), event, sizeof(event))) == EAGAIN);
    (void)content_of(sys::open_at(AT_FDCWD, (numbers + "/7").c_str(), O_RDONLY | O_CLOEXEC, 0).get());
    CHECK(error_of(::read(events.get(), event, sizeof(event))) == 0);
}

TEST_CASE("the mount is looked for where the environment says, unless the caller says where") {
    const TemporaryDirectory directory;
    const MountVariable variable(directory.path());
    CHECK(error_of(nosigbus_find(nullptr)) == ENOTSUP);
    CHECK(error_of(nosigbus_find(directory.file("nowhere").c_str())) == ENOENT);
    {
        const MountVariable nowhere(directory.file("nowhere"));
        CHECK(error_of(nosigbus_find(nullptr)) == ENOENT);
    }
}

TEST_CASE("only regular files, and no flags that make or change them") {
    const TemporaryDirectory directory;
    const UniqueFd views = open_directory(directory.path());
    const UniqueFd file = memory(page, 0);
    for (const int flags :
         {O_CREAT, O_TRUNC, O_APPEND, O_DIRECTORY, O_PATH, O_TMPFILE, O_ACCMODE, O_EXCL, O_DIRECT, -1}) {
        CAPTURE(flags);
        CHECK(error_of(nosigbus_open(views.get(), file.get(), flags)) == EINVAL);
    }
    CHECK(error_of(nosigbus_open(views.get(), views.get(), O_RDONLY)) == EOPNOTSUPP);
    CHECK(error_of(nosigbus_open(views.get(), -1, O_RDONLY)) == EBADF);
    CHECK(error_of(nosigbus_open(views.get(), 1 << 20U, O_RDONLY)) == EBADF);
    CHECK(error_of(nosigbus_open(-1, file.get(), O_RDONLY)) == EBADF);
    CHECK(error_of(nosigbus_open(views.get(), file.get(), O_RDONLY)) == EBADF);  // not in this directory
}

TEST_CASE("of a view there is another descriptor, with no more access") {
    // A file on the same file system as the directory of views stands for a view.
    const TemporaryDirectory directory;
    const UniqueFd views = open_directory(directory.path());
    const std::string path = directory.file("file");
    make_file(path, "abc");
    const struct {
        int own;
        std::string allowed;
    } accesses[] = {{O_RDONLY, "r"}, {O_WRONLY, "w"}, {O_RDWR, "rwb"}, {O_PATH, ""}};
    for (const auto& access : accesses) {
        const int own = access.own;  // clang 14 captures no structured binding
        const std::string& allowed = access.allowed;
        CAPTURE(own);
        const UniqueFd file = sys::open_at(AT_FDCWD, path.c_str(), own | O_CLOEXEC, 0);
        for (const auto& [flags, letter] :
             {std::pair{O_RDONLY, 'r'}, std::pair{O_WRONLY, 'w'}, std::pair{O_RDWR, 'b'}}) {
            const UniqueFd view(nosigbus_open(views.get(), file.get(), flags | O_NONBLOCK | O_CLOEXEC));
            const int error = view ? 0 : errno;
            CHECK(error == (allowed.find(letter) == std::string::npos ? EACCES : 0));
            if (view) CHECK(::fcntl(view.get(), F_GETFD) == FD_CLOEXEC);
            CHECK(view.get() != file.get());
        }
    }
}

TEST_CASE("a range to synchronise is one of a file") {
    const UniqueFd file = memory(page, 0);
    CHECK(error_of(nosigbus_sync(file.get(), -1, 0)) == EINVAL);
    CHECK(error_of(nosigbus_sync(file.get(), 0, -1)) == EINVAL);
    CHECK(error_of(nosigbus_sync(file.get(), 1, largest)) == EINVAL);
    CHECK(error_of(nosigbus_sync(file.get(), largest, 1)) == EINVAL);
    CHECK(error_of(nosigbus_sync(-1, 0, 0)) == EBADF);
    // No view: there is nothing to wait for.
    CHECK(error_of(nosigbus_sync(file.get(), 0, largest)) == 0);
    CHECK(error_of(nosigbus_sync(file.get(), largest, 0)) == 0);
}

TEST_CASE("what is no view has no sizes, whatever its attributes say") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("file"), "abc");
    CHECK(error_of(nosigbus_real_size(file.get())) == ENOTSUP);
    CHECK(error_of(nosigbus_view_size(file.get())) == ENOTSUP);
    for (const char* name : {"user.nosigbus.real_size", "user.nosigbus.view_size"})
        (void)::fsetxattr(file.get(), name, "4096", 4, 0);  // where it can be
    CHECK(error_of(nosigbus_real_size(file.get())) == ENOTSUP);
    CHECK(error_of(nosigbus_view_size(file.get())) == ENOTSUP);
    CHECK(error_of(nosigbus_real_size(-1)) == EBADF);
    CHECK(error_of(nosigbus_view_size(-1)) == EBADF);
}

TEST_CASE("what cannot fault is mapped plainly, with no mount") {
    if (!holes_are_sure()) return;
    const UniqueFd file = memory(3 * page, F_SEAL_SHRINK);
    sys::write_at(file.get(), std::as_bytes(std::span("abc", 3)), static_cast<off_t>(page));
    nosigbus_mapping* const mapping = nosigbus_map(-1, file.get(), PROT_READ | PROT_WRITE, page, page + 1);
    REQUIRE(mapping != nullptr);
    CHECK(nosigbus_view(mapping) == -1);
    CHECK(nosigbus_length(mapping) == static_cast<std::size_t>(page) + 1);
    char* const bytes = static_cast<char*>(nosigbus_data(mapping));
    CHECK(std::string(bytes, 3) == "abc");
    bytes[0] = 'x';
    CHECK(content_of(file.get()).substr(static_cast<std::size_t>(page), 3) == "xbc");
    CHECK(error_of(nosigbus_sync_mapping(mapping, 0, 0)) == 0);
    CHECK(error_of(nosigbus_sync_mapping(mapping, page, 1)) == 0);
    CHECK(error_of(nosigbus_sync_mapping(mapping, page + 1, 0)) == 0);
    CHECK(error_of(nosigbus_sync_mapping(mapping, page + 1, 1)) == EINVAL);
    CHECK(error_of(nosigbus_sync_mapping(mapping, page + 2, 0)) == EINVAL);
    CHECK(error_of(nosigbus_sync_mapping(mapping, 1, SIZE_MAX)) == EINVAL);
    errno = ENOENT;
    nosigbus_unmap(mapping);
    nosigbus_unmap(nullptr);
    CHECK(errno == ENOENT);
}

TEST_CASE("what cannot be mapped is refused, and leaves nothing behind") {
    if (!holes_are_sure()) return;
    const TemporaryDirectory directory;
    const UniqueFd views = open_directory(directory.path());
    const UniqueFd file = memory(3 * page, F_SEAL_SHRINK);
    const UniqueFd unsealed = memory(3 * page, 0);
    const UniqueFd sealed_against_writes = memory(page, F_SEAL_SHRINK | F_SEAL_WRITE);
    const UniqueFd reader = sys::open_at(AT_FDCWD, sys::proc_path(file.get()).c_str(), O_RDONLY | O_CLOEXEC, 0);
    const UniqueFd path = sys::open_at(AT_FDCWD, sys::proc_path(file.get()).c_str(), O_PATH | O_CLOEXEC, 0);
    const auto before = descriptors();
    const auto refusal = [&](int fd, int protection, off_t offset, std::size_t length) {
        return error_of(nosigbus_map(views.get(), fd, protection, offset, length));
    };
    const auto size = static_cast<std::size_t>(page);
    for (const int protection : {PROT_NONE, PROT_WRITE, PROT_EXEC, PROT_READ | PROT_EXEC, -1})
        CHECK(refusal(file.get(), protection, 0, size) == EINVAL);
    CHECK(refusal(file.get(), PROT_READ, 1, size) == EINVAL);
    CHECK(refusal(file.get(), PROT_READ, -page, size) == EINVAL);
    CHECK(refusal(file.get(), PROT_READ, 0, 0) == EINVAL);
    if constexpr (sizeof(std::size_t) >= sizeof(off_t)) CHECK(refusal(file.get(), PROT_READ, 0, SIZE_MAX) == EOVERFLOW);
    CHECK(refusal(file.get(), PROT_READ, INT64_MAX - page + 1, size) == EOVERFLOW);
    CHECK(refusal(-1, PROT_READ, 0, size) == EBADF);
    CHECK(refusal(path.get(), PROT_READ, 0, size) == EBADF);
    CHECK(refusal(reader.get(), PROT_READ | PROT_WRITE, 0, size) == EACCES);
    CHECK(refusal(sealed_against_writes.get(), PROT_READ | PROT_WRITE, 0, size) == EPERM);
    CHECK(refusal(views.get(), PROT_READ, 0, size) == EBADF);     // O_PATH
    CHECK(refusal(unsealed.get(), PROT_READ, 0, size) == EBADF);  // not in this directory
    CHECK(refusal(file.get(), PROT_READ, 0, 4 * size) == EBADF);  // not long enough: it wants a view
    CHECK(descriptors() == before);
}

TEST_CASE("what is no view is not mapped as one") {
    // As above: a file beside the directory of views.
    const TemporaryDirectory directory;
    const UniqueFd views = open_directory(directory.path());
    const UniqueFd file = make_file(directory.file("file"), "abc");
    const auto before = descriptors();
    CHECK(error_of(nosigbus_map(views.get(), file.get(), PROT_READ, 0, 3)) == ENOTSUP);
    CHECK(descriptors() == before);
}
