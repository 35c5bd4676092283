// Writable views: what reaches the backing file, where it ends, and what other mappings see of it.
#include <doctest/doctest.h>

#include "tests/mount/files.h"
#include "tests/mount/kernel.h"
#include "tests/mount/loading.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// A file of some pages and a part of one, its view opened for reading and writing, and a mapping of that.
struct WritableView {
    static constexpr std::size_t length = MiB;
    explicit WritableView(const ViewMount& mount, int flags = O_RDWR)
        : size(3 * page + 100),
          backing(make_file(mount.raw("file"), pattern(0, size))),
          view(open_file(mount.view("file"), flags)) {}

    [[nodiscard]] Mapping shared() const { return {view.get(), length, PROT_READ | PROT_WRITE}; }
    [[nodiscard]] std::string content() const { return read_all(backing.get()); }

    std::size_t size;
    UniqueFd backing;
    UniqueFd view;
};

}  // namespace

TEST_SUITE_BEGIN("write");

TEST_CASE("a store inside the file reaches the backing file") {
    const ViewMount mount({"max_size=1M"});
    WritableView file(mount);
    std::string wanted = pattern(0, file.size);
    Mapping mapping = file.shared();
    for (const std::size_t at : {std::size_t{5}, page - 2, file.size - 4}) {
        REQUIRE(mapping.store(at, "mine") == 4);
        wanted.replace(at, 4, "mine");
    }
    SUBCASE("after msync") {
        CHECK(mapping.sync() == 0);
        CHECK(difference(file.content(), wanted) == "");
    }
    SUBCASE("after fsync") {
        CHECK(::fsync(file.view.get()) == 0);
        CHECK(difference(file.content(), wanted) == "");
    }
    SUBCASE("after munmap and close") {
        mapping.unmap();
        file.view.reset();
        CHECK(eventually([&] { return file.content() == wanted; }));
    }
    CHECK(size_of(file.backing.get()) == file.size);
}

TEST_CASE("a store past the end never grows the file and is gone after the barrier") {
    const ViewMount mount({"max_size=1M"});
    const WritableView file(mount);
    const Mapping mapping = file.shared();
    for (const std::size_t at : {file.size, file.size + 50, 4 * page, 8 * page + 5, MiB - 4})
        CHECK(mapping.store(at, "mine") == 4);
    // Over the end: one byte inside, three outside.
    CHECK(mapping.store(file.size - 1, "mine") == 4);
    std::string wanted = pattern(0, file.size);
    wanted.back() = 'm';
    CHECK(mapping.sync() == 0);
    CHECK(::fsync(file.view.get()) == 0);
    CHECK(size_of(file.backing.get()) == file.size);
    CHECK(difference(file.content(), wanted) == "");
    CHECK(difference(mapping.bytes(), padded(wanted, MiB)) == "");
    // Nor does it come back when the file grows over it.
    resize(file.backing.get(), MiB);
    CHECK(::fsync(file.view.get()) == 0);
    CHECK(difference(mapping.bytes(), padded(wanted, MiB)) == "");
    CHECK(difference(file.content(), padded(wanted, MiB)) == "");
}

TEST_CASE("a store past the end is gone after a change from outside, and not in the file") {
    const ViewMount mount({"max_size=1M"});
    const WritableView file(mount);
    const Mapping mapping = file.shared();
    std::string wanted = pattern(0, file.size);
    for (const std::size_t at : {file.size, 4 * page, 8 * page + 5, MiB - 4}) CHECK(mapping.store(at, "mine") == 4);
    write_at(file.backing.get(), page + 3, "new");
    wanted.replace(page + 3, 3, "new");
    CHECK(eventually([&] { return mapping.bytes() == padded(wanted, MiB); }));
    CHECK(difference(mapping.bytes(), padded(wanted, MiB)) == "");
    CHECK(size_of(file.backing.get()) == file.size);
    CHECK(mapping.sync() == 0);
    CHECK(difference(file.content(), wanted) == "");
}

TEST_CASE("stores to pages that a shrink took away do not bring the file back") {
    const ViewMount mount({"max_size=1M"});
    const WritableView file(mount);
    const Mapping mapping = file.shared();
    for (const std::size_t to : {2 * page + 5, std::size_t{0}}) {
        CAPTURE(to);
        resize(file.backing.get(), file.size);
        write_at(file.backing.get(), 0, pattern(0, file.size));
        CHECK(::fsync(file.view.get()) == 0);
        for (std::size_t at = 0; at < 8 * page; at += page) CHECK(mapping.store(at + 50, "mine") == 4);
        resize(file.backing.get(), to);
        CHECK(mapping.sync() == 0);
        CHECK(::fsync(file.view.get()) == 0);
        CHECK(size_of(file.backing.get()) == to);
        CHECK(difference(mapping.bytes(), padded(file.content(), MiB)) == "");
    }
}

TEST_CASE("O_APPEND appends at the real end") {
    const ViewMount mount({"max_size=1M"});
    const WritableView file(mount, O_WRONLY | O_APPEND);
    const UniqueFd other = open_file(mount.view("file"), O_WRONLY | O_APPEND);
    std::string wanted = pattern(0, file.size);
    for (const int fd : {file.view.get(), other.get(), file.backing.get(), file.view.get()}) {
        const std::string line = "a line " + std::to_string(wanted.size());
        if (fd == file.backing.get()) {
            write_at(fd, wanted.size(), line);  // behind our back, in between
        } else {
            CHECK(::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size()));
        }
        wanted += line;
        CHECK(difference(file.content(), wanted) == "");
    }
    const UniqueFd reader = open_file(mount.view("file"), O_RDONLY);
    CHECK(eventually([&] { return Mapping(reader.get(), MiB).bytes() == padded(wanted, MiB); }));
    CHECK(size_of(reader.get()) == MiB);
}

TEST_CASE("an append shows in the mappings when it returns") {
    const ViewMount mount({"max_size=1M"});
    const WritableView file(mount, O_WRONLY | O_APPEND);
    const UniqueFd reader = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(reader.get(), MiB);
    std::string wanted = pattern(0, file.size);
    for (int round = 0; round < 200; ++round) {
        CAPTURE(round);
        const std::size_t end = wanted.size();
        REQUIRE(mapping.byte(end) == 0);
        CHECK(::write(file.view.get(), "line", 4) == 4);
        // What is written to a file opened cached shows soon.
        CHECK((kernel_maps_direct_files() ? mapping.bytes(end, 4) == "line"
                                          : eventually([&] { return mapping.bytes(end, 4) == "line"; })));
        wanted += "line";
    }
    CHECK(difference(file.content(), wanted) == "");
}

TEST_CASE("a write shows in the mappings when it returns, and grows the file") {
    const ViewMount mount({"max_size=1M"});
    const WritableView file(mount);
    const Mapping shared = file.shared();
    const UniqueFd reader = open_file(mount.view("file"), O_RDONLY);
    const Mapping other(reader.get(), MiB, PROT_READ, MAP_PRIVATE);
    std::string wanted = pattern(0, file.size);
    CHECK(difference(shared.bytes(), padded(wanted, MiB)) == "");
    CHECK(difference(other.bytes(), padded(wanted, MiB)) == "");
    for (const std::size_t at : {std::size_t{10}, page - 3, file.size - 2, 8 * page + 77}) {
        CAPTURE(at);
        const std::string bytes = pattern(at, page + 9, 1);
        CHECK(::pwrite(file.view.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)) ==
              static_cast<ssize_t>(bytes.size()));
        wanted = padded(wanted, std::max(wanted.size(), at + bytes.size())).replace(at, bytes.size(), bytes);
        CHECK(difference(file.content(), wanted) == "");
        CHECK(difference(shared.bytes(), padded(wanted, MiB)) == "");
        CHECK(difference(other.bytes(), padded(wanted, MiB)) == "");
    }
}

TEST_CASE(
    "a change of size or a hole through the view acts on the file, and shows in every mapping when the call returns") {
    const ViewMount mount({"max_size=1M"});
    const WritableView file(mount);
    const Mapping shared = file.shared();
    const UniqueFd reader = open_file(mount.view("file"), O_RDONLY);
    const Mapping reading(reader.get(), MiB);
    const Mapping copying(reader.get(), MiB, PROT_READ, MAP_PRIVATE);
    const std::string name = mount.view("file");
    std::string wanted = pattern(0, file.size);
    const auto check = [&](const std::string& call, std::size_t size) {
        CAPTURE(call);
        wanted = padded(wanted, size);
        CHECK(size_of(file.backing.get()) == size);
        for (const Mapping* mapping : {&shared, &reading, &copying}) {
            CHECK(difference(mapping->bytes(), padded(wanted, MiB)) == "");
        }
        CHECK(difference(file.content(), wanted) == "");
        CHECK(size_of(reader.get()) == MiB);
    };
    for (int round = 0; round < 5; ++round) {
        CAPTURE(round);
        write_at(file.view.get(), 0, pattern(0, file.size));
        wanted = pattern(0, file.size);
        check("pwrite", file.size);
        resize(file.view.get(), 2 * page + 9);
        check("a shrinking ftruncate", 2 * page + 9);
        resize(file.view.get(), 6 * page);
        check("a growing ftruncate", 6 * page);
        punch(file.view.get(), page / 2, page);
        wanted.replace(page / 2, page, page, '\0');
        check("a punched hole", 6 * page);
        must(::truncate(name.c_str(), static_cast<off_t>(page)), "truncate");
        check("truncate", page);
        must(::fallocate(file.view.get(), 0, 0, 5 * static_cast<off_t>(page)), "fallocate");
        check("fallocate", 5 * page);
        write_at(file.view.get(), 4 * page, "z");
        wanted.replace(4 * page, 1, "z");
        check("pwrite of a byte", 5 * page);
        open_file(name, O_WRONLY | O_TRUNC);
        wanted.clear();
        check("O_TRUNC", 0);
    }
}

TEST_CASE("a reader never faults while the file is truncated and rewritten through the view") {
    const ViewMount mount({"max_size=1M"});
    const WritableView file(mount);
    const UniqueFd reader = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(reader.get(), MiB);
    const Loading loading(mapping);
    for (unsigned round = 0; round < 300; ++round) {
        const UniqueFd writer = open_file(mount.view("file"), O_WRONLY | (round % 2 == 0 ? O_TRUNC : 0));
        write_at(writer.get(), 0, pattern(0, 20 * page, round));
        resize(writer.get(), round * page % MiB);
    }
    CHECK(eventually([&] { return loading.rounds() > 10; }));
    CHECK(loading.faults() == 0);
    CHECK(eventually([&] { return mapping.bytes() == padded(file.content(), MiB); }));
}

TEST_CASE("stores through two mappings of one view are one") {
    const ViewMount mount({"max_size=1M"});
    const WritableView file(mount);
    const UniqueFd other = open_file(mount.view("file"), O_RDWR);
    const Mapping one = file.shared();
    const Mapping two(other.get(), MiB, PROT_READ | PROT_WRITE);
    CHECK(one.store(100, "one") == 3);
    CHECK(two.bytes(100, 3) == "one");
    CHECK(two.store(page, "two") == 3);
    CHECK(one.bytes(page, 3) == "two");
    std::string buffer(3, ' ');
    CHECK(::pread(other.get(), buffer.data(), 3, static_cast<off_t>(page)) == 3);
    CHECK(buffer == "two");
}

TEST_SUITE_END();
