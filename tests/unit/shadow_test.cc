#include "lib/shadow.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>

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

std::string shown(int shadow) {
    return content_of(shadow);
}

std::string padded(std::string bytes, off_t size) {
    bytes.resize(static_cast<std::size_t>(size), '\0');
    return bytes;
}

}  // namespace

TEST_CASE("a shadow is as long as the view, takes no memory, and cannot shrink") {
    const UniqueFd shadow = make_shadow(4 * MiB);
    CHECK(sys::file_size(shadow.get()) == 4 * MiB);
    CHECK(memory_of_shadow(shadow.get()) == 0);
    CHECK(::ftruncate(shadow.get(), MiB) == -1);
    CHECK(errno == EPERM);
    CHECK(::ftruncate(shadow.get(), 8 * MiB) == 0);
    CHECK((::fcntl(shadow.get(), F_GET_SEALS) & F_SEAL_SHRINK) != 0);
}

TEST_CASE("a copy shows the file and then zeros, and takes the memory of the file's data") {
    const TemporaryDirectory directory;
    const std::string begin = pattern(5 * page_size() + 100);
    const UniqueFd file = make_file(directory.file("a"), begin);
    REQUIRE(::pwrite(file.get(), "end", 3, 2 * MiB) == 3);
    const UniqueFd shadow = make_shadow(4 * MiB);
    ShadowCopier copier;
    const ShadowCopier::Step step = copier.copy(file.get(), shadow.get(), 0, 4 * MiB);
    CHECK(shown(shadow.get()) == padded(padded(begin, 2 * MiB) + "end", 4 * MiB));
    CHECK(step.compared == 4 * MiB / page_size());
    CHECK(step.copied == 7);
    CHECK(step.punched == 0);
    CHECK(step.error == 0);
    CHECK(memory_of_shadow(shadow.get()) == 7 * page_size());
}

TEST_CASE("only what differs is written, and what has become zeros takes no memory any more") {
    const TemporaryDirectory directory;
    std::string content = pattern(64 * page_size());
    const UniqueFd file = make_file(directory.file("a"), content);
    const UniqueFd shadow = make_shadow(MiB);
    ShadowCopier copier;
    static_cast<void>(copier.copy(file.get(), shadow.get(), 0, MiB));
    const MappedRegion reader(MiB, PROT_READ, MAP_SHARED, shadow.get(), 0);
    SUBCASE("nothing has changed") {
        const ShadowCopier::Step step = copier.copy(file.get(), shadow.get(), 0, MiB);
        CHECK(step.copied == 0);
        CHECK(step.punched == 0);
    }
    SUBCASE("a byte") {
        REQUIRE(::pwrite(file.get(), "!", 1, 10 * page_size() + 5) == 1);
        content[10 * page_size() + 5] = '!';
        const ShadowCopier::Step step = copier.copy(file.get(), shadow.get(), 0, MiB);
        CHECK(step.copied == 1);
    }
    SUBCASE("a hole") {
        const auto length = static_cast<off_t>(3 * page_size());
        REQUIRE(::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, length, length) == 0);
        content.replace(3 * page_size(), 3 * page_size(), 3 * page_size(), '\0');
        const ShadowCopier::Step step = copier.copy(file.get(), shadow.get(), 0, MiB);
        CHECK(step.punched == 3);
        CHECK(memory_of_shadow(shadow.get()) == 61 * page_size());
    }
    SUBCASE("a part that is not looked at stays") {
        REQUIRE(::pwrite(file.get(), "!", 1, 0) == 1);
        static_cast<void>(copier.copy(file.get(), shadow.get(), static_cast<off_t>(page_size()), MiB - page_size()));
    }
    SUBCASE("the end, that is cut off at once") {
        const std::size_t left = 7 * page_size() + 11;
        content.resize(left);
        cut_shadow(shadow.get(), static_cast<off_t>(left));
        CHECK(memory_of_shadow(shadow.get()) == 8 * page_size());
    }
    CHECK(std::string(reinterpret_cast<const char*>(reader.data()), MiB) == padded(content, MiB));
}

TEST_CASE("where the file cannot be read a shadow is zeros, and the error is told") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), pattern(2 * page_size()));
    const UniqueFd unreadable = sys::open_at(AT_FDCWD, directory.file("a").c_str(), O_WRONLY);
    const UniqueFd shadow = make_shadow(MiB);
    ShadowCopier copier;
    static_cast<void>(copier.copy(file.get(), shadow.get(), 0, MiB));
    CHECK(copier.copy(unreadable.get(), shadow.get(), 0, MiB).error == EBADF);
    CHECK(shown(shadow.get()) == padded("", MiB));
    CHECK(memory_of_shadow(shadow.get()) == 0);
}
