#include "lib/shadow.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "lib/holes.h"
#include "lib/mapped_region.h"
#include "lib/page_digest.h"
#include "lib/syscalls.h"
#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr off_t MiB = off_t{1} << 20;

std::string pattern(std::size_t count) {
    std::string bytes(count, '\0');
    for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>('a' + i * 7 % 26 + i / 4096 % 3);
    return bytes;
}

std::string shown(const Shadow& shadow) {
    return content_of(shadow.descriptor());
}

std::string padded(std::string bytes, off_t size) {
    bytes.resize(static_cast<std::size_t>(size), '\0');
    return bytes;
}

off_t pages(unsigned count) {
    return static_cast<off_t>(count * page_size());
}

// One that no kernel knows.
class Alone : public Shadow {
  public:
    explicit Alone(off_t size, off_t shown_size = 0) : Shadow(make_shadow(size), shown_size, 1, [] {}) {}
};

}  // namespace

TEST_CASE("a shadow is as long as the view, takes no memory, and cannot shrink") {
    Alone shadow(4 * MiB);
    CHECK(sys::file_size(shadow.descriptor()) == 4 * MiB);
    CHECK(shadow.memory() == 0);
    CHECK(::ftruncate(shadow.descriptor(), MiB) == -1);
    CHECK(errno == EPERM);
    shadow.grow(8 * MiB);
    CHECK(sys::file_size(shadow.descriptor()) == 8 * MiB);
    shadow.grow(MiB);
    CHECK(sys::file_size(shadow.descriptor()) == 8 * MiB);
    CHECK((::fcntl(shadow.descriptor(), F_GET_SEALS) & F_SEAL_SHRINK) != 0);
}

TEST_CASE("what goes is told, once, while the memory is still there") {
    int told = 0;
    {
        UniqueFd memory = make_shadow(MiB);
        const int descriptor = memory.get();
        const Shadow shadow(std::move(memory), 0, 7, [&] { told += sys::file_size(descriptor) == MiB ? 1 : 100; });
        CHECK(shadow.backing() == 7);
    }
    CHECK(told == 1);
}

TEST_CASE("a copy shows the file and then zeros, and takes the memory of the file's data") {
    const TemporaryDirectory directory;
    const std::string begin = pattern(5 * page_size() + 100);
    const UniqueFd file = make_file(directory.file("a"), begin);
    REQUIRE(::pwrite(file.get(), "end", 3, 2 * MiB) == 3);
    Alone shadow(4 * MiB);
    Crew crew{1};
    ShadowCopier copier{crew};
    const ShadowCopier::Step step = copier.copy(file.get(), shadow, 0, 4 * MiB);
    CHECK(shown(shadow) == padded(padded(begin, 2 * MiB) + "end", 4 * MiB));
    CHECK(step.compared == 4 * MiB / page_size());
    CHECK(step.copied == 7);
    CHECK(step.punched == 0);
    CHECK(step.error == 0);
    CHECK(shadow.memory() == 7 * page_size());
}

TEST_CASE("only what differs is written, and what has become zeros takes no memory any more") {
    const TemporaryDirectory directory;
    std::string content = pattern(64 * page_size());
    const UniqueFd file = make_file(directory.file("a"), content);
    Alone shadow(MiB);
    Crew crew{1};
    ShadowCopier copier{crew};
    shadow.cut(file.get());
    static_cast<void>(copier.copy(file.get(), shadow, 0, MiB));
    const MappedRegion reader(MiB, PROT_READ, MAP_SHARED, shadow.descriptor(), 0);
    SUBCASE("nothing has changed") {
        const ShadowCopier::Step step = copier.copy(file.get(), shadow, 0, MiB);
        CHECK(step.copied == 0);
        CHECK(step.punched == 0);
    }
    SUBCASE("a byte") {
        REQUIRE(::pwrite(file.get(), "!", 1, pages(10) + 5) == 1);
        content[10 * page_size() + 5] = '!';
        const ShadowCopier::Step step = copier.copy(file.get(), shadow, 0, MiB);
        CHECK(step.copied == 1);
    }
    SUBCASE("a hole") {
        REQUIRE(::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, pages(3), pages(3)) == 0);
        content.replace(3 * page_size(), 3 * page_size(), 3 * page_size(), '\0');
        const ShadowCopier::Step step = copier.copy(file.get(), shadow, 0, MiB);
        CHECK(step.punched == 3);
        CHECK(shadow.memory() == 61 * page_size());
    }
    SUBCASE("a part that is not looked at stays") {
        REQUIRE(::pwrite(file.get(), "!", 1, 0) == 1);
        static_cast<void>(copier.copy(file.get(), shadow, pages(1), MiB - page_size()));
    }
    SUBCASE("the end, that is cut off at once") {
        const std::size_t left = 7 * page_size() + 11;
        REQUIRE(::ftruncate(file.get(), static_cast<off_t>(left)) == 0);
        CHECK(shadow.cut(file.get()).before == static_cast<off_t>(content.size()));
        content.resize(left);
        CHECK(shadow.cut(file.get()).before == static_cast<off_t>(left));
        CHECK(shadow.cut(file.get()).now == static_cast<off_t>(left));
        CHECK(shadow.memory() == 8 * page_size());
    }
    CHECK(std::string(reinterpret_cast<const char*>(reader.data()), MiB) == padded(content, MiB));
}

TEST_CASE("what is much is shared among threads, and is no different for that") {
    const TemporaryDirectory directory;
    constexpr std::size_t size = 16 * MiB;
    std::string content = pattern(size);
    const UniqueFd file = make_file(directory.file("a"), content);
    Alone shadow(size + MiB);
    Crew crew{3};
    ShadowCopier copier{crew};
    shadow.cut(file.get());
    CHECK(copier.copy(file.get(), shadow, 0, size).copied == size / page_size());
    CHECK(shown(shadow) == padded(content, size + MiB));
    // A page in every third, and a hole of a page behind it.
    std::size_t changed = 0;
    for (std::size_t at = 0; at + 3 * page_size() <= size; at += 3 * page_size(), ++changed) {
        const auto offset = static_cast<off_t>(at);
        REQUIRE(::pwrite(file.get(), "!", 1, offset) == 1);
        content[at] = '!';
        REQUIRE(::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset + pages(1), pages(1)) == 0);
        content.replace(at + page_size(), page_size(), page_size(), '\0');
    }
    const ShadowCopier::Step step = copier.copy(file.get(), shadow, 0, size);
    CHECK(step.compared == size / page_size());
    CHECK(step.copied == changed);
    CHECK(step.punched == changed);
    CHECK(shown(shadow) == padded(content, size + MiB));
    CHECK(shadow.memory() == size - changed * page_size());
    SUBCASE("what fails is told, whoever it was, and once") {
        REQUIRE(::pwrite(file.get(), "?", 1, static_cast<off_t>(size) - 1) == 1);
        REQUIRE(::fcntl(shadow.descriptor(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
        CHECK_THROWS_AS(static_cast<void>(copier.copy(file.get(), shadow, 0, size)), std::system_error);
        CHECK(copier.copy(file.get(), shadow, 0, size - MiB).copied == 0);
    }
}

TEST_CASE("of a shadow that somebody else has made nothing is left behind the file's end") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), std::string(100, 'x'));
    Alone shadow(MiB, MiB);
    REQUIRE(::pwrite(shadow.descriptor(), "before", 6, pages(2)) == 6);
    shadow.cut(file.get());
    CHECK(shown(shadow) == padded("", MiB));
    CHECK(shadow.memory() == 0);
}

TEST_CASE("what a file has lost is told, once its end is known") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), std::string(100, 'x'));
    Alone shadow(MiB, MiB);
    const Shadow::Ends first = shadow.cut(file.get());
    CHECK(first.before == MiB);
    CHECK(first.now == 100);
    CHECK(first.lost == 0);
    REQUIRE(::ftruncate(file.get(), 30) == 0);
    CHECK(shadow.cut(file.get()).lost == 70);
    REQUIRE(::ftruncate(file.get(), 50) == 0);
    CHECK(shadow.cut(file.get()).lost == 0);
}

TEST_CASE("what was copied behind an end that was cut off meanwhile goes with the next cut") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), pattern(64 * page_size()));
    Alone shadow(MiB);
    Crew crew{1};
    ShadowCopier copier{crew};
    shadow.cut(file.get());
    // A pass that has begun goes on while the file is cut off, grows again, and is cut off once more.
    REQUIRE(::ftruncate(file.get(), 100) == 0);
    shadow.cut(file.get());
    REQUIRE(::pwrite(file.get(), "x", 1, pages(40)) == 1);
    static_cast<void>(copier.copy(file.get(), shadow, pages(32), MiB - 32 * page_size()));
    REQUIRE(::ftruncate(file.get(), pages(1)) == 0);
    shadow.cut(file.get());
    static_cast<void>(copier.copy(file.get(), shadow, 0, page_size()));
    CHECK(shown(shadow) == padded(pattern(100), MiB));
}

TEST_CASE("what may take no more memory is left out where there is none yet, and changed where there is") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), pattern(4 * page_size()));
    Alone shadow(MiB);
    Crew crew{1};
    ShadowCopier copier{crew};
    shadow.cut(file.get());
    static_cast<void>(copier.copy(file.get(), shadow, 0, 4 * page_size()));
    shadow.may_take_more = false;
    const std::string changed(4 * page_size(), 'y');
    REQUIRE(::pwrite(file.get(), changed.data(), changed.size(), 0) == static_cast<ssize_t>(changed.size()));
    const ShadowCopier::Step inside = copier.copy(file.get(), shadow, 0, 4 * page_size());
    CHECK(inside.copied == 4);
    CHECK(inside.left_out == 0);
    REQUIRE(::pwrite(file.get(), changed.data(), changed.size(), MiB / 2) == static_cast<ssize_t>(changed.size()));
    const ShadowCopier::Step behind = copier.copy(file.get(), shadow, MiB / 2, MiB / 2);
    CHECK(behind.copied == 0);
    CHECK(behind.left_out == 4);
    CHECK(shown(shadow) == padded(changed, MiB));
    CHECK(shadow.memory() == 4 * page_size());
    // Page by page: some of these have memory.
    const std::string more(6 * page_size(), 'z');
    REQUIRE(::pwrite(file.get(), more.data(), more.size(), 0) == static_cast<ssize_t>(more.size()));
    const ShadowCopier::Step both = copier.copy(file.get(), shadow, 0, 8 * page_size());
    CHECK(both.copied == 4);
    CHECK(both.left_out == 2);
    CHECK(shown(shadow) == padded(more.substr(0, 4 * page_size()), MiB));
}

TEST_CASE("what loads behind the file's end have taken is given back, and they see zeros as before") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), pattern(page_size() + 1));
    Alone shadow(MiB);
    Crew crew{1};
    ShadowCopier copier{crew};
    shadow.cut(file.get());
    static_cast<void>(copier.copy(file.get(), shadow, 0, pages(2)));
    const MappedRegion reader(MiB, PROT_READ, MAP_SHARED, shadow.descriptor(), 0);
    const auto all = [&] { return std::string(reinterpret_cast<const char*>(reader.data()), MiB); };
    CHECK(all() == padded(pattern(page_size() + 1), MiB));
    CHECK(shadow.memory() == MiB);
    shadow.free_tail();
    CHECK(shadow.memory() == 2 * page_size());
    CHECK(all() == padded(pattern(page_size() + 1), MiB));
}

TEST_CASE("where the file cannot be read a shadow stays as it is, zeros at first, and the error is told") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), pattern(2 * page_size()));
    const UniqueFd unreadable = sys::open_at(AT_FDCWD, directory.file("a").c_str(), O_WRONLY);
    Alone shadow(MiB);
    Crew crew{1};
    ShadowCopier copier{crew};
    CHECK(copier.copy(unreadable.get(), shadow, 0, MiB).error == EBADF);
    CHECK(shown(shadow) == padded("", MiB));
    CHECK(shadow.memory() == 0);
    static_cast<void>(copier.copy(file.get(), shadow, 0, MiB));
    CHECK(copier.copy(unreadable.get(), shadow, 0, MiB).error == EBADF);
    CHECK(shown(shadow) == padded(pattern(2 * page_size()), MiB));
    CHECK_FALSE(shadow.has_failed());
    shadow.note_whole();
    shadow.note_unread();
    CHECK(shadow.has_failed());
    CHECK_FALSE(shadow.has_failed());
    CHECK(shadow.is_whole());
}

TEST_CASE("a shadow is in use while somebody has it open or mapped") {
    Alone shadow(MiB);
    CHECK_FALSE(shadow.is_in_use());
    {
        const UniqueFd reader = sys::reopen(shadow.descriptor(), O_RDONLY);
        CHECK(shadow.is_in_use());
    }
    CHECK_FALSE(shadow.is_in_use());
    {
        UniqueFd reader = sys::reopen(shadow.descriptor(), O_RDONLY);
        const MappedRegion mapping(page_size(), PROT_READ, MAP_SHARED, reader.get(), 0);
        reader.reset();
        CHECK(shadow.is_in_use());
    }
    CHECK_FALSE(shadow.is_in_use());
}

TEST_CASE("parts in which file and shadow are holes are passed over, however large they are") {
    constexpr off_t GiB = off_t{1} << 30;
    UniqueFd file(::memfd_create("sparse", MFD_CLOEXEC));
    REQUIRE(::ftruncate(file.get(), 16 * GiB) == 0);
    const Holes holes(file.get());
    if (holes.may_have_data(0, MiB)) {
        MESSAGE("left out, without cachestat(2): holes are not seen");
        return;
    }
    Alone shadow(16 * GiB);
    const auto all = static_cast<std::uint64_t>(16 * GiB);
    CHECK(ShadowCopier::holes(file.get(), shadow, 0, all) == all);
    REQUIRE(::pwrite(file.get(), "x", 1, 5 * GiB) == 1);
    CHECK(holes.may_have_data(5 * GiB, pages(1)));
    CHECK_FALSE(holes.may_have_data(5 * GiB + pages(1), GiB));
    const std::uint64_t before = ShadowCopier::holes(file.get(), shadow, 0, all);
    CHECK(before <= static_cast<std::uint64_t>(5 * GiB));
    CHECK(before >= static_cast<std::uint64_t>(2 * GiB));
    CHECK(ShadowCopier::holes(file.get(), shadow, 5 * GiB, MiB) == 0);
    // Where only the shadow has data it is to become a hole.
    REQUIRE(::pwrite(shadow.descriptor(), "x", 1, 0) == 1);
    CHECK(ShadowCopier::holes(file.get(), shadow, 0, all) == 0);
    // Nothing is known of what has no memory of its own.
    const UniqueFd other = sys::open_at(AT_FDCWD, "/proc/self/status", O_RDONLY);
    CHECK(Holes(other.get()).may_have_data(0, MiB));
}
