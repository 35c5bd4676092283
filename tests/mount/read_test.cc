// Reads stop at R, whatever call makes them, while mappings of the same descriptor reach V.
#include <doctest/doctest.h>
#include <libaio.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include <cstdlib>
#include <memory>

#include "tests/mount/files.h"
#include "tests/mount/io_uring_read.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t room = 4 * MiB;

// Aligned as O_DIRECT wants it, and full of bytes that no file here has.
class Buffer {
  public:
    Buffer() : bytes_(static_cast<char*>(std::aligned_alloc(page, room)), &std::free) {
        std::fill_n(bytes_.get(), room, '\xff');
    }

    [[nodiscard]] char* data() const { return bytes_.get(); }

    // What a call that answered `got` put here.
    [[nodiscard]] std::string taken(long got) const {
        return got < 0 ? answer(got) : std::string(bytes_.get(), static_cast<std::size_t>(got));
    }

  private:
    std::unique_ptr<char, decltype(&std::free)> bytes_;
};

// Each way to read asks for `length` bytes at `offset`, a multiple of the page size, and says what came.
using Read = std::string (*)(int fd, std::size_t offset, std::size_t length);

std::string by_read(int fd, std::size_t offset, std::size_t length) {
    const Buffer buffer;
    must(::lseek(fd, static_cast<off_t>(offset), SEEK_SET), "lseek");
    return buffer.taken(::read(fd, buffer.data(), length));
}

std::string by_pread(int fd, std::size_t offset, std::size_t length) {
    const Buffer buffer;
    return buffer.taken(::pread(fd, buffer.data(), length, static_cast<off_t>(offset)));
}

std::string by_readv(int fd, std::size_t offset, std::size_t length) {
    const Buffer buffer;
    must(::lseek(fd, static_cast<off_t>(offset), SEEK_SET), "lseek");
    const iovec parts[] = {{buffer.data(), page}, {buffer.data() + page, length - page}};
    return buffer.taken(::readv(fd, parts, 2));
}

std::string by_aio(int fd, std::size_t offset, std::size_t length) {
    const Buffer buffer;
    io_context_t context = nullptr;
    if (const int error = ::io_setup(1, &context); error < 0)
        return "io_setup: " + std::string(::strerrorname_np(-error));
    iocb request{};
    ::io_prep_pread(&request, fd, buffer.data(), length, static_cast<long long>(offset));
    iocb* requests[] = {&request};
    io_event event{};
    std::string taken = "io_submit failed";
    if (::io_submit(context, 1, requests) == 1 && ::io_getevents(context, 1, 1, &event, nullptr) == 1) {
        taken = buffer.taken(static_cast<long>(event.res));
    }
    ::io_destroy(context);
    return taken;
}

std::string by_io_uring(int fd, std::size_t offset, std::size_t length) {
    const Buffer buffer;
    return buffer.taken(io_uring_pread(fd, buffer.data(), length, static_cast<off_t>(offset)));
}

// A container or a careful administrator may forbid it.
bool io_uring_is_there() {
    static const bool there = [] {
        const UniqueFd file = open_file("/dev/zero", O_RDONLY);
        char byte = 1;
        return io_uring_pread(file.get(), &byte, 1, 0) == 1 || (errno != ENOSYS && errno != EPERM);
    }();
    return there;
}

struct Way {
    std::string name;
    Read read;
    int flags;
};

const Way ways[] = {
    {"read", by_read, 0},
    {"pread", by_pread, 0},
    {"readv", by_readv, 0},
    {"libaio", by_aio, 0},
    {"io_uring", by_io_uring, 0},
    {"read with O_DIRECT", by_read, O_DIRECT},
    {"pread with O_DIRECT", by_pread, O_DIRECT},
    {"readv with O_DIRECT", by_readv, O_DIRECT},
    {"libaio with O_DIRECT", by_aio, O_DIRECT},
    {"io_uring with O_DIRECT", by_io_uring, O_DIRECT},
};

// Every way through `path`, of those whose flags have all of `flags`, sees `content` and then the end of the file.
void check_reads(const std::string& path, const std::string& content, int flags = 0) {
    for (const Way& way : ways) {
        if ((way.flags & flags) != flags) continue;
        CAPTURE(way.name);
        if (way.read == by_io_uring && !io_uring_is_there()) continue;
        const UniqueFd file = open_file(path, O_RDONLY | way.flags);
        CHECK(difference(way.read(file.get(), 0, room), content) == "");
        const std::size_t last_page = content.size() / page * page;
        CHECK(difference(way.read(file.get(), last_page, 4 * page), content.substr(last_page)) == "");
        for (const std::size_t past : {last_page + page, MiB, 2 * MiB, 8 * MiB}) {
            if (past >= content.size()) CHECK(way.read(file.get(), past, 4 * page) == "");
        }
    }
}

bool can_test() {
    if (!io_uring_is_there()) MESSAGE("io_uring is not to be had here, and is left out");
    return reads_end("where reads stop");
}

}  // namespace

TEST_SUITE_BEGIN("read");

TEST_CASE("every kind of read stops at the real size") {
    const ViewMount mount({"max_size=1M"});
    if (!can_test()) return;
    for (const std::size_t real : {std::size_t{0}, std::size_t{1}, std::size_t{5000}, page, MiB - 1, MiB, MiB + 5000}) {
        CAPTURE(real);
        const std::string name = std::to_string(real);
        make_file(mount.raw(name), pattern(0, real));
        check_reads(mount.view(name), pattern(0, real));
        // The same while the page cache holds the zero tail.
        const UniqueFd view = open_file(mount.view(name), O_RDONLY);
        const Mapping mapping(view.get(), MiB);
        CHECK(mapping.touch() == MiB / page);
        check_reads(mount.view(name), pattern(0, real));
        CHECK(mapping.touch() == MiB / page);
    }
}

TEST_CASE("reads follow the real size as the file changes") {
    const ViewMount mount({"max_size=1M"});
    if (!can_test()) return;
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 5000));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.touch() == MiB / page);
    CHECK(difference(read_all(view.get()), pattern(0, 5000)) == "");
    write_at(backing.get(), 5000, pattern(5000, 2 * MiB));
    CHECK(difference(read_all(view.get()), pattern(0, 5000 + 2 * MiB)) == "");
    check_reads(mount.view("file"), pattern(0, 5000 + 2 * MiB));
    resize(backing.get(), 100);
    CHECK(difference(read_all(view.get()), pattern(0, 100)) == "");
    check_reads(mount.view("file"), pattern(0, 100));
    resize(backing.get(), 0);
    CHECK(read_all(view.get()).empty());
}

TEST_CASE("a read that reached the end goes on when the file has grown") {
    const ViewMount mount({"max_size=1M"});
    if (!can_test()) return;
    const UniqueFd backing = make_file(mount.raw("file"), "abc");
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    char buffer[16];
    REQUIRE(::read(view.get(), buffer, sizeof buffer) == 3);
    CHECK(::read(view.get(), buffer, sizeof buffer) == 0);
    write_at(backing.get(), 3, "defg");
    CHECK(::read(view.get(), buffer, sizeof buffer) == 4);
    CHECK(std::string(buffer, 4) == "defg");
    CHECK(::read(view.get(), buffer, sizeof buffer) == 0);
}

TEST_CASE("where direct files cannot be mapped, those who open with O_DIRECT read to the real size") {
    const ViewMount mount({"max_size=1M", "cached_opens"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 5000));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.touch() == MiB / page);
    check_reads(mount.view("file"), pattern(0, 5000), O_DIRECT);
    CHECK(difference(by_pread(view.get(), 0, room), padded(pattern(0, 5000), MiB)) == "");
    write_at(backing.get(), 5000, pattern(5000, 2 * MiB));
    check_reads(mount.view("file"), pattern(0, 5000 + 2 * MiB), O_DIRECT);
    resize(backing.get(), 100);
    check_reads(mount.view("file"), pattern(0, 100), O_DIRECT);
    CHECK(mapping.touch() == MiB / page);

    const UniqueFd direct = open_file(mount.view("file"), O_RDONLY | O_DIRECT);
    CHECK(::mmap(nullptr, page, PROT_READ, MAP_SHARED, direct.get(), 0) == MAP_FAILED);
    CHECK(errno == ENODEV);
    const Mapping copy(direct.get(), MiB, PROT_READ, MAP_PRIVATE);
    CHECK(copy.touch() == MiB / page);
}

TEST_CASE("sendfile and splice take the page cache's side: they see the zero tail") {
    const ViewMount mount({"max_size=1M", "engine=cache"});
    make_file(mount.raw("file"), pattern(0, 5000));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const UniqueFd sink = make_file(mount.plain() + "/sink");
    const std::size_t asked = 8 * page;
    SUBCASE("sendfile") {
        CHECK(::sendfile(sink.get(), view.get(), nullptr, asked) == static_cast<ssize_t>(asked));
    }
    SUBCASE("splice") {
        int ends[2];
        must(::pipe2(ends, O_CLOEXEC), "pipe2");
        const UniqueFd out(ends[0]);
        const UniqueFd in(ends[1]);
        CHECK(::splice(view.get(), nullptr, in.get(), nullptr, asked, 0) == static_cast<ssize_t>(asked));
        CHECK(::splice(out.get(), nullptr, sink.get(), nullptr, asked, 0) == static_cast<ssize_t>(asked));
    }
    CHECK(difference(read_all(sink.get()), padded(pattern(0, 5000), asked)) == "");
}

TEST_CASE("SEEK_DATA and SEEK_HOLE are those of the backing file") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"));
    write_at(backing.get(), 16 * page, pattern(0, 2 * page));
    resize(backing.get(), 40 * page);
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    for (const std::size_t from :
         {std::size_t{0}, 5 * page, 16 * page, 17 * page, 18 * page, 39 * page, 40 * page, 50 * page}) {
        CAPTURE(from);
        for (const int whence : {SEEK_DATA, SEEK_HOLE}) {
            CAPTURE(whence);
            const std::string wanted = answer(::lseek(backing.get(), static_cast<off_t>(from), whence));
            CHECK(answer(::lseek(view.get(), static_cast<off_t>(from), whence)) == wanted);
        }
    }
}

TEST_SUITE_END();
