// The size rule: V is R rounded up to the next multiple of max_size, at least max_size, and never shrinks.
#include <doctest/doctest.h>
#include <sys/xattr.h>

#include <array>

#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

std::string xattr(const std::string& path, const char* name) {
    std::array<char, 64> text{};
    const ssize_t length = ::getxattr(path.c_str(), name, text.data(), text.size());
    return length < 0 ? answer(length) : std::string(text.data(), static_cast<std::size_t>(length));
}

std::string real_size(const std::string& path) {
    return xattr(path, "user.nosigbus.real_size");
}
std::string view_size(const std::string& path) {
    return xattr(path, "user.nosigbus.view_size");
}

struct Rule {
    std::size_t real;
    std::size_t view;
};

// Loads at both ends of what is file and of what is zero tail; every page where the view is small enough to walk.
void check_loads(const std::string& path, const Rule& rule) {
    const UniqueFd file = open_file(path, O_RDONLY);
    for (const int flags : {MAP_SHARED, MAP_PRIVATE}) {
        CAPTURE(flags);
        const Mapping mapping(file.get(), rule.view, PROT_READ, flags);
        CHECK(mapping.byte(0) == (rule.real > 0 ? 'a' : 0));
        if (rule.real > 0) CHECK(mapping.byte(rule.real - 1) == (rule.real > 1 ? 'z' : 'a'));
        for (const std::size_t offset : {rule.real, (rule.real + rule.view) / 2, rule.view - 1}) {
            if (offset < rule.view && offset >= rule.real) CHECK(mapping.byte(offset) == 0);
        }
        if (rule.view <= 8 * MiB) CHECK(mapping.touch() == rule.view / page);
    }
}

void check_rule(const ViewMount& mount, const Rule& rule) {
    CAPTURE(rule.real);
    const std::string name = std::to_string(rule.real);
    {
        // Sparse but for its first and its last byte.
        const UniqueFd backing = make_file(mount.raw(name));
        resize(backing.get(), rule.real);
        if (rule.real > 1) write_at(backing.get(), rule.real - 1, "z");
        if (rule.real > 0) write_at(backing.get(), 0, "a");
    }
    CHECK(size_of(mount.view(name)) == rule.view);
    CHECK(real_size(mount.view(name)) == std::to_string(rule.real));
    CHECK(view_size(mount.view(name)) == std::to_string(rule.view));
    CHECK(status(mount.view(name)).st_blocks == status(mount.raw(name)).st_blocks);
    check_loads(mount.view(name), rule);
    CHECK(size_of(mount.raw(name)) == rule.real);
}

}  // namespace

TEST_SUITE_BEGIN("size");

TEST_CASE("the view size with max_size=1M") {
    const ViewMount mount({"max_size=1M"});
    for (const Rule rule : {Rule{0, MiB},
                            {1, MiB},
                            {page, MiB},
                            {MiB - 1, MiB},
                            {MiB, MiB},
                            {MiB + 1, 2 * MiB},
                            {3 * MiB + MiB / 2, 4 * MiB},
                            {GiB + 1, GiB + MiB}}) {
        check_rule(mount, rule);
    }
}

TEST_CASE("the view size is 1 GiB when nothing is said") {
    const ViewMount mount;
    for (const Rule rule :
         {Rule{0, GiB}, {1, GiB}, {GiB - 1, GiB}, {GiB, GiB}, {GiB + 1, 2 * GiB}, {3 * GiB + GiB / 2, 4 * GiB}}) {
        if (rule.view >= rule.real) check_rule(mount, rule);  // not where a size_t of 32 bits cannot hold it
    }
}

TEST_CASE("max_size takes a number of bytes and the suffixes K, M, G and T") {
    for (const auto& [text, size] :
         {std::pair("65536", 64 * KiB), {"64K", 64 * KiB}, {"2M", 2 * MiB}, {"3G", 3 * GiB}, {"1T", 1024 * GiB}}) {
        const std::string option = std::string("max_size=") + text;
        CAPTURE(option);
        const ViewMount mount({option});
        make_file(mount.raw("file"), "a");
        CHECK(size_of(mount.view("file")) == size);
    }
}

TEST_CASE("a view has no other attribute of ours, and these two cannot be set") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("file"), "a");
    CHECK(xattr(mount.view("file"), "user.nosigbus.nonsense") == "ENODATA");
    CHECK(::setxattr(mount.view("file").c_str(), "user.nosigbus.real_size", "5", 1, 0) == -1);
    CHECK(real_size(mount.view("file")) == "1");
}

// Which takes more addresses than there are with 32 bits.
TEST_CASE("a view of 3 GiB stays that large when the file shrinks to one byte" * doctest::skip(sizeof(void*) < 8)) {
    const Directories control;
    const ViewMount mount;
    const auto shrink = [](const std::string& backing, const std::string& name, auto check) {
        const UniqueFd file = make_file(backing, "a");
        resize(file.get(), 3 * GiB);
        write_at(file.get(), 2 * GiB, "b");
        const UniqueFd opened = open_file(name, O_RDONLY);
        const Mapping mapping(opened.get(), 3 * GiB);
        REQUIRE(mapping.byte(2 * GiB) == 'b');
        resize(file.get(), 1);
        check(mapping, opened);
    };
    shrink(control.raw("file"), control.raw("file"),
           [](const Mapping& mapping, const UniqueFd& /*file*/) { CHECK(mapping.byte(2 * GiB) == fault); });
    shrink(mount.raw("file"), mount.view("file"), [&](const Mapping& mapping, const UniqueFd& file) {
        CHECK(eventually([&] { return mapping.byte(2 * GiB) == 0; }));
        for (const std::size_t offset : {std::size_t{1}, page, GiB, 2 * GiB, 3 * GiB - 1})
            CHECK(mapping.byte(offset) == 0);
        CHECK(mapping.byte(0) == 'a');
        must(::link(mount.raw("file").c_str(), mount.raw("other").c_str()), "link");
        for (const std::string& name : {mount.view("file"), mount.view("other")}) {
            CHECK(size_of(name) == 3 * GiB);
            CHECK(real_size(name) == "1");
            CHECK(view_size(name) == std::to_string(3 * GiB));
        }
        CHECK(size_of(file.get()) == 3 * GiB);
        CHECK(mapping.byte(2 * GiB) == 0);
        const UniqueFd again = open_file(mount.view("other"), O_RDONLY);
        CHECK(Mapping(again.get(), 3 * GiB).byte(3 * GiB - 1) == 0);
    });
}

TEST_CASE("the view size never shrinks while the file is open, however the file changes") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"));
    const UniqueFd view = open_file(mount.view("file"), O_RDWR);
    std::size_t largest = MiB;
    for (const std::size_t real : {5 * MiB, std::size_t{3}, 9 * MiB + 1, std::size_t{0}, 2 * MiB, 10 * MiB}) {
        for (const int through : {backing.get(), view.get()}) {
            CAPTURE(real);
            resize(through, real);
            largest = std::max(largest, (real + MiB - 1) / MiB * MiB);
            CHECK(size_of(view.get()) == largest);
            CHECK(size_of(backing.get()) == real);
        }
    }
}

TEST_CASE("a file that grew after it was mapped, within its view") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, 10));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(difference(mapping.bytes(), padded(pattern(0, 10), MiB)) == "");
    write_at(backing.get(), 10, pattern(10, MiB / 2));
    CHECK(eventually([&] { return mapping.byte(MiB / 2) != 0; }));
    CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, 10 + MiB / 2), MiB); }));
}

TEST_CASE("a file that grew after it was mapped, beyond its view") {
    const ViewMount mount({"max_size=1M"});
    const std::size_t real = 2 * MiB + MiB / 2;
    bool barrier = false;
    SUBCASE("unasked") {
        barrier = false;
    }
    SUBCASE("at the barrier") {
        barrier = true;
    }
    for (const int flags : {MAP_SHARED, MAP_PRIVATE}) {
        for (const bool sparse : {false, true}) {
            CAPTURE(flags);
            CAPTURE(sparse);
            const std::string name = std::to_string(flags) + (sparse ? "sparse" : "full");
            const UniqueFd backing = make_file(mount.raw(name), pattern(0, 10));
            const UniqueFd view = open_file(mount.view(name), O_RDONLY);
            const Mapping mapping(view.get(), 3 * MiB, PROT_READ, flags);
            REQUIRE(mapping.touch() == MiB / page);
            if (sparse) resize(backing.get(), real);
            if (!sparse) write_at(backing.get(), 0, pattern(0, real));
            if (barrier) REQUIRE(::fsync(view.get()) == 0);
            if (!barrier) CHECK(eventually([&] { return mapping.touch() == 3 * MiB / page; }));
            CHECK(mapping.touch() == 3 * MiB / page);
            CHECK(eventually([&] { return mapping.bytes() == padded(read_all(backing.get()), 3 * MiB); },
                             std::chrono::seconds(barrier ? 0 : 10)));
            CHECK(size_of(view.get()) == 3 * MiB);
        }
    }
}

TEST_CASE("a file that grew beyond its view through the view has no page that faults when the call returns") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("file"), pattern(0, 10));
    const UniqueFd view = open_file(mount.view("file"), O_RDWR);
    const Mapping mapping(view.get(), 3 * MiB);
    SUBCASE("by ftruncate") {
        resize(view.get(), 2 * MiB + 1);
    }
    SUBCASE("by pwrite") {
        write_at(view.get(), 2 * MiB, "b");
    }
    SUBCASE("by fallocate") {
        must(::fallocate(view.get(), 0, 0, 2 * MiB + 1), "fallocate");
    }
    CHECK(size_of(mount.raw("file")) == 2 * MiB + 1);
    CHECK(mapping.touch() >= 2 * MiB / page + 1);
    CHECK(size_of(view.get()) == 3 * MiB);
    CHECK(mapping.touch() == 3 * MiB / page);
}

TEST_SUITE_END();
