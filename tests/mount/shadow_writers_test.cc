// Who may change what a shadow shows: nobody through the view that has it, and everybody by way of the file.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/mount/counters.h"
#include "tests/mount/fd_views.h"
#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

const std::vector<std::string> automatic = {"max_size=4M", "engine=auto"};
constexpr std::size_t length = 64 * KiB;

// A mount with a file of which somebody has a shadow mapped.
struct Shadowed {
    Shadowed()
        : mount(automatic),
          backing(make_file(mount.raw("file"), pattern(0, length))),
          view(open_file(mount.view("file"), O_RDONLY)),
          mapping(view->get(), MiB) {
        REQUIRE(engine_of(mount.view("file")) == "shadow: opened_for_reading");
    }

    // Whether the reader sees that, and zeros behind.
    [[nodiscard]] std::string unlike(const std::string& content) const {
        return difference(mapping.bytes(), padded(content, MiB));
    }
    [[nodiscard]] std::string unlike_file() const { return unlike(read_all(backing.get())); }

    const ViewMount mount;
    const UniqueFd backing;
    std::optional<UniqueFd> view;
    const Mapping mapping;
};

std::string proc_name(int fd) {
    return fmt::format("/proc/self/fd/{}", fd);
}

}  // namespace

TEST_SUITE_BEGIN("shadow");

TEST_CASE("nobody can store into a shadow through a view") {
    if (!kernel_passes_through("shadows")) return;
    const Shadowed shadowed;
    const int view = shadowed.view->get();
    std::byte* const data = shadowed.mapping.data();
    const std::size_t size = shadowed.mapping.size();

    SUBCASE("by another mapping") {
        CHECK(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, view, 0) == MAP_FAILED);
        CHECK(errno == EACCES);
    }
    SUBCASE("by mprotect(2)") {
        CHECK(answer(::mprotect(data, size, PROT_READ | PROT_WRITE)) == "EACCES");
        CHECK(answer(::mprotect(data, size, PROT_WRITE)) == "EACCES");
    }
    SUBCASE("by mremap(2), which keeps what may be done") {
        void* const moved = ::mremap(data, page, page, MREMAP_MAYMOVE);
        REQUIRE(moved != MAP_FAILED);
        CHECK(answer(::mprotect(moved, page, PROT_READ | PROT_WRITE)) == "EACCES");
    }
    SUBCASE("by remap_file_pages(2)") {
        static_cast<void>(::remap_file_pages(data, page, 0, 1, 0));
        CHECK(answer(::mprotect(data, size, PROT_READ | PROT_WRITE)) == "EACCES");
    }
    SUBCASE("by the descriptor's name in /proc, for writing") {
        for (const int flags : {O_RDWR, O_WRONLY, O_RDWR | O_TRUNC, O_RDWR | O_APPEND}) {
            CHECK(opened(proc_name(view), flags) == "ETXTBSY");
            CHECK(opened(fmt::format("/proc/{}/task/{}/fd/{}", ::getpid(), ::gettid(), view), flags) == "ETXTBSY");
        }
    }
    SUBCASE("by write(2)") {
        CHECK(answer(::pwrite(view, "x", 1, 0)) == "EBADF");
    }
    SUBCASE("by ftruncate(2) or fallocate(2)") {
        CHECK(::ftruncate(view, 0) == -1);
        CHECK(::fallocate(view, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page) == -1);
    }
    SUBCASE("by /proc/self/mem, which passes over what is protected") {
        const UniqueFd memory = open_file("/proc/self/mem", O_RDWR);
        CHECK(::pwrite(memory.get(), "x", 1, static_cast<off_t>(reinterpret_cast<std::uintptr_t>(data))) == -1);
    }
    SUBCASE("by process_vm_writev(2)") {
        char byte = 'x';
        const iovec from = {.iov_base = &byte, .iov_len = 1};
        const iovec to = {.iov_base = data, .iov_len = 1};
        CHECK(answer(::process_vm_writev(::getpid(), &from, 1, &to, 1, 0)) == "EFAULT");
    }
    SUBCASE("by madvise(2) that drops pages") {
        CHECK(::madvise(data, size, MADV_REMOVE) == -1);
        static_cast<void>(::madvise(data, size, MADV_DONTNEED));
    }
    SUBCASE("by userfaultfd(2), which puts pages where there are none") {
        const UniqueFd faults(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)));
        REQUIRE(faults);
        uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
        REQUIRE(::ioctl(faults.get(), UFFDIO_API, &api) == 0);
        uffdio_register whole{.range = {.start = reinterpret_cast<std::uintptr_t>(data), .len = size},
                              .mode = UFFDIO_REGISTER_MODE_MISSING,
                              .ioctls = 0};
        CHECK(answer(::ioctl(faults.get(), UFFDIO_REGISTER, &whole)) == "EPERM");
    }
    SUBCASE("in a private mapping, whose stores are its own") {
        const Mapping own(view, size, PROT_READ | PROT_WRITE, MAP_PRIVATE);
        CHECK(own.store(5, "own") == 3);
        CHECK(own.bytes(5, 3) == "own");
    }
    SUBCASE("as an ordinary user, by the name of what is mapped") {
        // Where a mapping leads to is for root to follow: proc(5).
        CHECK(as_user(nobody, [&] {
                  const auto from = reinterpret_cast<std::uintptr_t>(data);
                  return opened(fmt::format("/proc/self/map_files/{:x}-{:x}", from, from + size), O_RDWR);
              }) != "0");
    }
    CHECK(shadowed.unlike(pattern(0, length)) == "");
    CHECK(difference(read_all(shadowed.backing.get()), pattern(0, length)) == "");
}

TEST_CASE("a view that is mapped with a shadow can be opened for writing, and what is written shows at return") {
    if (!kernel_passes_through("shadows")) return;
    Shadowed shadowed;
    const std::string name = shadowed.mount.view("file");
    SUBCASE("while it is open, too") {}
    SUBCASE("while it is mapped only") {
        shadowed.view.reset();
    }
    const UniqueFd writer = open_file(name, O_RDWR);
    CHECK(engine_of(name) == "cache: opened_for_writing");
    CHECK(status(writer.get()).st_ino == status(shadowed.mount.view("file")).st_ino);
    const auto reads = [&](const std::string& what) { CHECK_MESSAGE(shadowed.unlike_file() == "", what); };

    write_at(writer.get(), 3 * page + 7, "written");
    reads("write");
    {
        const UniqueFd appending = open_file(name, O_WRONLY | O_APPEND);
        CHECK(::write(appending.get(), "appended", 8) == 8);
    }
    CHECK(size_of(shadowed.mount.raw("file")) == length + 8);
    reads("append");
    write_at(writer.get(), length + 10 * page, "far behind");
    reads("write behind the end");
    punch(writer.get(), page, 5 * page);
    reads("punch");
    CHECK(::posix_fallocate(writer.get(), 0, static_cast<off_t>(length + 20 * page)) == 0);
    reads("fallocate");
    const UniqueFd other = make_file(shadowed.mount.view("other"), pattern(0, 4 * page, 7));
    off_t from = 0;
    auto to = static_cast<off_t>(2 * page);
    CHECK(::copy_file_range(other.get(), &from, writer.get(), &to, 3 * page, 0) == static_cast<ssize_t>(3 * page));
    reads("copy_file_range");
    resize(writer.get(), 2 * page + 5);
    reads("ftruncate");
    resize(writer.get(), 30 * page);
    reads("ftruncate to more");
    must(::truncate(name.c_str(), 11), "truncate");
    reads("truncate");
    { const UniqueFd truncating = open_file(name, O_WRONLY | O_TRUNC); }
    CHECK(size_of(shadowed.mount.raw("file")) == 0);
    reads("O_TRUNC");
    // Beyond the view that there was: all of them grow.
    write_at(writer.get(), 9 * MiB, "grown");
    reads("growth");
    if (shadowed.view)
        CHECK(Mapping(shadowed.view->get(), page, PROT_READ, MAP_SHARED, 9 * MiB).bytes(0, 5) == "grown");
    CHECK(Mapping(writer.get(), page, PROT_READ, MAP_SHARED, 9 * MiB).bytes(0, 5) == "grown");
}

TEST_CASE("truncate(2) by name shows at return in a shadow that nobody has asked to write to") {
    if (!kernel_passes_through("shadows")) return;
    const Shadowed shadowed;
    must(::truncate(shadowed.mount.view("file").c_str(), 100), "truncate");
    CHECK(shadowed.unlike(pattern(0, 100)) == "");
    must(::truncate(shadowed.mount.view("file").c_str(), 2 * page), "truncate");
    CHECK(shadowed.unlike(pattern(0, 100)) == "");
}

TEST_CASE("stores of a writer show in a shadow at the barrier, on either view, and once they are written back") {
    if (!kernel_passes_through("shadows")) return;
    const Shadowed shadowed;
    const UniqueFd writer = open_file(shadowed.mount.view("file"), O_RDWR);
    const Mapping writing(writer.get(), MiB, PROT_READ | PROT_WRITE);
    CHECK(writing.store(5 * page, "stored") == 6);
    SUBCASE("the reader's") {
        CHECK(::fsync(shadowed.view->get()) == 0);
        CHECK(shadowed.mapping.bytes(5 * page, 6) == "stored");
        CHECK(writing.store(5 * page, "once more") == 9);
        CHECK(::fsync(shadowed.view->get()) == 0);
        CHECK(shadowed.mapping.bytes(5 * page, 9) == "once more");
    }
    SUBCASE("the writer's") {
        CHECK(::fsync(writer.get()) == 0);
        CHECK(shadowed.mapping.bytes(5 * page, 6) == "stored");
    }
    SUBCASE("msync(2)") {
        CHECK(writing.sync() == 0);
        CHECK(shadowed.mapping.bytes(5 * page, 6) == "stored");
    }
    SUBCASE("written back by munmap(2), unasked") {
        if (!munmap_waits_for_write_back()) return;
        const_cast<Mapping&>(writing).unmap();  // NOLINT(*-const-cast)
        must(::sync_file_range(writer.get(), 0, 0, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER),
             "sync_file_range");
        CHECK(eventually([&] { return shadowed.mapping.bytes(5 * page, 6) == "stored"; }));
    }
    CHECK(shadowed.unlike_file() == "");
}

TEST_CASE(
    "readers that come while somebody writes share the writer's pages, and once all are gone there is a shadow again") {
    if (!kernel_passes_through("shadows")) return;
    std::optional<Shadowed> shadowed(std::in_place);
    const ViewMount& mount = shadowed->mount;
    UniqueFd writer = open_file(mount.view("file"), O_RDWR);
    {
        const Mapping writing(writer.get(), MiB, PROT_READ | PROT_WRITE);
        const UniqueFd reader = open_file(mount.view("file"), O_RDONLY);
        const Mapping reading(reader.get(), MiB);
        CHECK(writing.store(0, "stored") == 6);
        CHECK(reading.bytes(0, 6) == "stored");
    }
    CHECK(stats(mount.mountpoint()).at("shadows") == 1);
    writer.reset();
    // The first reader still has it.
    CHECK(::fsync(shadowed->view->get()) == 0);
    CHECK(shadowed->mapping.bytes(0, 6) == "stored");
    shadowed->view.reset();
    const_cast<Mapping&>(shadowed->mapping).unmap();  // NOLINT(*-const-cast)
    CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadows") == 0; }));
    // Not before the time is over for which another writer was expected.
    CHECK(eventually([&] {
        const UniqueFd reader = open_file(mount.view("file"), O_RDONLY);
        CHECK(Mapping(reader.get(), MiB).bytes(0, 6) == "stored");
        return engine_of(mount.view("file")) == "shadow: opened_for_reading";
    }));
}

TEST_CASE("writers and readers of one view come and go in many threads, and none is refused") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount(automatic);
    make_file(mount.raw("file"), pattern(0, length));
    constexpr unsigned rounds = 200;
    std::vector<std::string> complaints(4);
    {
        std::vector<std::jthread> threads;
        for (std::size_t i = 0; i < complaints.size(); ++i) {
            threads.emplace_back([&, i] {
                for (unsigned round = 0; round < rounds && complaints[i].empty(); ++round) {
                    const bool writes = (round + i) % 2 == 0;
                    const UniqueFd view(::open(mount.view("file").c_str(), writes ? O_RDWR : O_RDONLY));
                    if (!view) {
                        complaints[i] = answer(-1);
                        return;
                    }
                    const Mapping mapping(view.get(), MiB, writes ? PROT_READ | PROT_WRITE : PROT_READ);
                    if (mapping.bytes() != padded(pattern(0, length), MiB)) complaints[i] = "other bytes";
                    if (writes && ::pwrite(view.get(), pattern(0, 10).data(), 10, 0) != 10) complaints[i] = answer(-1);
                }
            });
        }
    }
    for (const std::string& complaint : complaints) CHECK(complaint == "");
    CHECK(difference(read_all(mount.raw("file")), pattern(0, length)) == "");
    CHECK(counters(mount)["restarts"] == 0);
}

TEST_CASE("one that writes and three that read only open and close a view, and none is refused") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount(automatic);
    make_file(mount.raw("file"), "bytes");
    constexpr unsigned rounds = 3000;
    std::vector<std::string> complaints(4);
    {
        std::vector<std::jthread> threads;
        for (std::size_t i = 0; i < complaints.size(); ++i) {
            threads.emplace_back([&, i] {
                for (unsigned round = 0; round < rounds && complaints[i].empty(); ++round) {
                    const std::string said = opened(mount.view("file"), i == 0 ? O_WRONLY : O_RDONLY);
                    if (said != "0") complaints[i] = said;
                }
            });
        }
    }
    for (const std::string& complaint : complaints) CHECK(complaint == "");
    CHECK(counters(mount)["restarts"] == 0);
}

TEST_CASE("a view of a descriptor has a shadow, too, and can be written to meanwhile") {
    if (!kernel_passes_through("shadows")) return;
    const ViewMount mount(automatic);
    const UniqueFd file = memfd(pattern(0, length));
    const UniqueFd view = fd_view(mount, file.get());
    CHECK(engine_of(fd_name(mount, file.get())) == "shadow: opened_for_reading");
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.bytes() == padded(pattern(0, length), MiB));
    const UniqueFd writer = fd_view(mount, file.get(), O_RDWR);
    write_at(writer.get(), 0, "written");
    CHECK(mapping.bytes(0, 7) == "written");
    resize(file.get(), 3);
    CHECK(eventually([&] { return mapping.bytes() == padded("wri", MiB); }));
}

TEST_CASE("two views of one file that both use the page cache follow each other") {
    if (!kernel_passes_through("shadows")) return;
    std::optional<Shadowed> shadowed(std::in_place);
    const ViewMount& mount = shadowed->mount;
    // The first view's inode stays known by this one, and can be opened without its name.
    const UniqueFd path = open_file(mount.view("file"), O_PATH);
    const UniqueFd second = open_file(mount.view("file"), O_RDWR);
    const Mapping of_second(second.get(), MiB, PROT_READ | PROT_WRITE);
    shadowed->view.reset();
    const_cast<Mapping&>(shadowed->mapping).unmap();  // NOLINT(*-const-cast)
    CHECK(eventually([&] { return stats(mount.mountpoint()).at("shadows") == 0; }));
    const UniqueFd first = open_file(proc_name(path.get()), O_RDWR);
    const Mapping of_first(first.get(), MiB, PROT_READ | PROT_WRITE);
    CHECK(of_first.touch() == of_second.touch());
    for (const unsigned round : {1U, 2U, 3U}) {
        write_at(first.get(), round * page, "written to one");
        CHECK(of_second.bytes(round * page, 14) == "written to one");
        write_at(second.get(), round * page, "and the other");
        CHECK(of_first.bytes(round * page, 13) == "and the other");
        CHECK(of_first.store(10 * page, std::to_string(round)) == 1);
        CHECK(::fsync(second.get()) == 0);
        CHECK(of_second.bytes(10 * page, 1) == std::to_string(round));
        CHECK(of_second.store(11 * page, std::to_string(round)) == 1);
        CHECK(of_second.sync() == 0);
        CHECK(eventually([&] { return of_first.bytes(11 * page, 1) == std::to_string(round); }));
    }
    resize(first.get(), 100);
    CHECK(eventually([&] { return of_second.bytes() == of_first.bytes(); }));
    CHECK(difference(of_first.bytes(), padded(pattern(0, 100), MiB)) == "");
}

TEST_SUITE_END();
