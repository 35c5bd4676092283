// A view of a descriptor gives no more access than the descriptor, whoever asks.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <map>

#include "tests/mount/fd_views.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct Way {
    const char* name;
    int flags;
    bool reads;
    bool writes;
};

constexpr Way ways[] = {
    {"O_RDONLY", O_RDONLY, true, false},
    {"O_WRONLY", O_WRONLY, false, true},
    {"O_RDWR", O_RDWR, true, true},
    {"O_RDONLY | O_TRUNC", O_RDONLY | O_TRUNC, true, true},
    {"O_WRONLY | O_TRUNC", O_WRONLY | O_TRUNC, false, true},
    {"O_RDWR | O_TRUNC", O_RDWR | O_TRUNC, true, true},
    {"O_RDWR | O_APPEND", O_RDWR | O_APPEND, true, true},
    {"O_RDONLY | O_CREAT", O_RDONLY | O_CREAT, true, false},
    {"O_RDWR | O_CREAT", O_RDWR | O_CREAT, true, true},
};

struct Right {
    const char* name;
    int flags;  // of the descriptor
    bool reads;
    bool writes;
    mode_t mode;  // of the view
};

constexpr Right rights[] = {
    {"O_RDONLY", O_RDONLY, true, false, 0444},
    {"O_WRONLY", O_WRONLY, false, true, 0222},
    {"O_RDWR", O_RDWR, true, true, 0666},
    {"O_PATH", O_PATH, false, false, 0},
};

// A descriptor of the file for each right.
using Passed = std::map<int, UniqueFd>;

Passed pass(int file) {
    Passed passed;
    for (const Right& right : rights) passed.emplace(right.flags, same_file(file, right.flags));
    return passed;
}

// What the tables above promise, and what is answered, line by line.
std::string wanted_answers() {
    std::string answers;
    for (const Right& right : rights) {
        answers += fmt::format("{}: {:o}, truncate {}\n", right.name, right.mode, right.writes ? "0" : "EACCES");
        for (const Way& way : ways) {
            const bool allowed = (right.reads || !way.reads) && (right.writes || !way.writes);
            answers += fmt::format("    {}: {}\n", way.name, allowed ? "0" : "EACCES");
        }
    }
    return answers;
}

std::string answers(const Directories& mount, const Passed& passed) {
    std::string answers;
    for (const Right& right : rights) {
        const std::string name = fd_name(mount, passed.at(right.flags).get());
        answers += fmt::format("{}: {:o}, truncate {}\n", right.name, status(name).st_mode & ~S_IFMT,
                               answer(::truncate(name.c_str(), 100)));
        for (const Way& way : ways) answers += fmt::format("    {}: {}\n", way.name, opened(name, way.flags));
    }
    return answers;
}

bool is_in_memory(const Mapping& mapping, std::size_t at) {
    unsigned char resident = 0;
    must(::mincore(mapping.data() + at, page, &resident), "mincore");
    return (resident & 1U) != 0;
}

}  // namespace

TEST_SUITE_BEGIN("fd-views");

TEST_CASE("a view can be opened as its descriptor is open, and no further, by root either") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd memory = memfd(pattern(0, 2 * page));
    const UniqueFd unlinked = unlinked_file(mount.plain(), pattern(0, 2 * page));
    CHECK(answers(mount, pass(memory.get())) == wanted_answers());
    CHECK(answers(mount, pass(unlinked.get())) == wanted_answers());
}

TEST_CASE("whoever was passed a descriptor has its view, whatever the file's mode says; and no more than that") {
    const ViewMount mount({"max_size=1M"});
    for (const mode_t mode : {0600, 0000, 0666}) {
        const UniqueFd memory = memfd(pattern(0, 2 * page));
        const UniqueFd unlinked = unlinked_file(mount.plain(), pattern(0, 2 * page));
        for (const int file : {memory.get(), unlinked.get()}) {
            must(::fchmod(file, mode), "fchmod");
            const Passed passed = pass(file);
            CHECK(as_user(nobody, [&] { return answers(mount, passed); }) == wanted_answers());
        }
    }
    const UniqueFd secret = unlinked_file(mount.plain(), "secret");
    must(::fchmod(secret.get(), 0600), "fchmod");
    const UniqueFd passed = same_file(secret.get(), O_RDONLY);
    CHECK(as_user(nobody, [&] { return read_all(fd_name(mount, passed.get())); }) == "secret");
    CHECK(as_user(nobody, [&] {
              const UniqueFd view = fd_view(mount, passed.get());
              return load(Mapping(view.get(), MiB).data(), 6);
          }) == "secret");
}

TEST_CASE("who has a view cannot make more of it: by its name below /proc, chmod, mprotect or another mapping") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd file = unlinked_file(mount.plain(), "content");
    must(::fchown(file.get(), nobody, nobody), "fchown");
    const UniqueFd passed = same_file(file.get(), O_RDONLY);
    const auto attempts = [&] {
        std::string answers;
        const UniqueFd view = fd_view(mount, passed.get());
        const std::string name = fmt::format("/proc/self/fd/{}", view.get());
        for (const int flags : {O_RDWR, O_WRONLY, O_RDONLY | O_TRUNC}) answers += opened(name, flags) + " ";
        answers += opened(name, O_RDONLY) + " ";
        // He owns the file, and may change its mode natively. The view's remains his descriptor's.
        ::fchmod(view.get(), 0666);
        ::chmod(fd_name(mount, passed.get()).c_str(), 0666);
        for (const int flags : {O_RDWR, O_WRONLY}) {
            answers += opened(name, flags) + " ";
            answers += opened(fd_name(mount, passed.get()), flags) + " ";
        }
        answers += answer(::truncate(name.c_str(), 0)) + " ";
        answers += answer(::ftruncate(view.get(), 0)) + " ";
        answers += answer(::write(view.get(), "x", 1)) + " ";
        const Mapping mapping(view.get(), MiB);
        answers += answer(::mprotect(mapping.data(), MiB, PROT_READ | PROT_WRITE)) + " ";
        void* const writable = ::mmap(nullptr, MiB, PROT_READ | PROT_WRITE, MAP_SHARED, view.get(), 0);
        answers += writable == MAP_FAILED ? answer(-1) : "mapped";
        return answers;
    };
    const std::string wanted = "EACCES EACCES EACCES 0 EACCES EACCES EACCES EACCES EACCES EINVAL EBADF EACCES EACCES";
    CHECK(attempts() == wanted);
    CHECK(as_user(nobody, attempts) == wanted);
    CHECK(read_all(file.get()) == "content");
    // Who may only write does not read.
    const UniqueFd blind = same_file(file.get(), O_WRONLY);
    const UniqueFd writing = fd_view(mount, blind.get(), O_WRONLY);
    CHECK(opened(fmt::format("/proc/self/fd/{}", writing.get()), O_RDONLY) == "EACCES");
    CHECK(opened(fmt::format("/proc/self/fd/{}", writing.get()), O_RDWR) == "EACCES");
    std::string buffer(10, '\0');
    CHECK(answer(::pread(writing.get(), buffer.data(), buffer.size(), 0)) == "EBADF");
    CHECK(::mmap(nullptr, MiB, PROT_READ, MAP_SHARED, writing.get(), 0) == MAP_FAILED);
    write_at(writing.get(), 2, "N");
    CHECK(read_all(file.get()) == "coNtent");
}

TEST_CASE("a view belongs to the owner of its file") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd file = unlinked_file(mount.plain(), "abc");
    must(::fchown(file.get(), 1234, 5678), "fchown");
    const struct stat seen = status(fd_name(mount, file.get()));
    CHECK(seen.st_uid == 1234);
    CHECK(seen.st_gid == 5678);
    CHECK(seen.st_mtim.tv_sec == status(file.get()).st_mtim.tv_sec);
    CHECK(seen.st_blocks == status(file.get()).st_blocks);
}

TEST_CASE("descriptors of one file with the same rights share a view, in all processes; with others they do not") {
    const ViewMount mount({"max_size=1M", "engine=cache"});
    const std::size_t length = 16 * page;
    const UniqueFd file = memfd(pattern(0, length));
    const UniqueFd first = same_file(file.get(), O_RDONLY);
    const UniqueFd second = same_file(file.get(), O_RDONLY);
    const UniqueFd writer = same_file(file.get(), O_WRONLY);
    const auto identity = [](const struct stat& of) { return fmt::format("{} {}", of.st_dev, of.st_ino); };
    const std::string reading = identity(status(fd_name(mount, first.get())));
    CHECK(identity(status(fd_name(mount, second.get()))) == reading);
    CHECK(as_user(nobody, [&] { return identity(status(fd_name(mount, second.get()))); }) == reading);
    CHECK(identity(status(fd_name(mount, file.get()))) != reading);
    CHECK(identity(status(fd_name(mount, writer.get()))) != reading);
    CHECK(identity(status(fd_name(mount, writer.get()))) != identity(status(fd_name(mount, file.get()))));
    const UniqueFd view = fd_view(mount, first.get());
    CHECK(identity(status(view.get())) == reading);
    CHECK(status(view.get()).st_dev == status(mount.mountpoint()).st_dev);

    // One page cache: what one process loads is in memory for the other.
    const Mapping mapping(view.get(), length);
    const UniqueFd other = fd_view(mount, second.get());
    REQUIRE(::madvise(mapping.data(), length, MADV_RANDOM) == 0);
    CHECK_FALSE(is_in_memory(mapping, 7 * page));
    CHECK(as_user(nobody, [&] {
              const Mapping theirs(other.get(), length);
              must(::madvise(theirs.data(), length, MADV_RANDOM), "madvise");
              return theirs.bytes(7 * page, 10);
          }) == pattern(7 * page, 10));
    CHECK(is_in_memory(mapping, 7 * page));
    // And each shows what happens, by whichever view.
    const UniqueFd all = fd_view(mount, file.get(), O_RDWR);
    write_at(all.get(), 3 * page, "written");
    REQUIRE(::fsync(view.get()) == 0);
    CHECK(mapping.bytes(3 * page, 7) == "written");
    resize(file.get(), page);
    CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, page), length); }));
}

TEST_SUITE_END();
