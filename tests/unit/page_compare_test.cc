#include "lib/page_compare.h"

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "lib/backing_file.h"
#include "tests/unit/source.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

using State = GivenPages::State;
using States = std::vector<State>;
using Differs = std::vector<bool>;

struct Compared {
    PageDigester digester;
    Crew crew{Crew::enough_helpers()};
    PageCompare compare{digester, crew};

    Differs differs(int fd, std::uint64_t first, const States& states) {
        const auto result = std::make_unique<bool[]>(states.size());
        compare.compare(fd, first, states, {result.get(), states.size()});
        return Differs(result.get(), result.get() + states.size());
    }

    // The states after a READ of `count` pages from `first` on.
    States given(int fd, std::uint64_t first, std::uint64_t count) const {
        std::vector<std::byte> bytes(count * page_size());
        const PaddedRead read = read_padded(fd, bytes, offset_of(first));
        REQUIRE(read.error == 0);
        States states(count);
        REQUIRE(digester.digest(bytes, read.real_bytes, states).size() == count);
        return states;
    }
};

std::size_t count(const Differs& differs) {
    return static_cast<std::size_t>(std::count(differs.begin(), differs.end(), true));
}

}  // namespace

TEST_CASE("pages of the file are told from those that have changed, absent and unknown ones") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), pages_of('x', 40));
    Compared compared;
    States states = compared.given(file.get(), 0, 40);
    CHECK(compared.differs(file.get(), 0, states) == Differs(40, false));

    write_bytes(file.get(), "y", offset_of(7) + 4095);
    write_bytes(file.get(), "y", offset_of(30));
    states[20] = 12345;  // unknown
    states[21] = GivenPages::absent;
    states[30] = GivenPages::absent;
    states[31] = 1;
    Differs wanted(40, false);
    wanted[7] = wanted[20] = wanted[31] = true;
    CHECK(compared.differs(file.get(), 0, states) == wanted);
}

TEST_CASE("the first page may be any") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), pages_of('x', 3) + pages_of('y', 3));
    Compared compared;
    const States all = compared.given(file.get(), 0, 6);
    for (std::uint64_t first = 0; first < 6; ++first) {
        CAPTURE(first);
        const States rest(all.begin() + static_cast<std::ptrdiff_t>(first), all.end());
        CHECK(count(compared.differs(file.get(), first, rest)) == 0);
    }
    CHECK(compared.differs(file.get(), 2, all) == Differs{false, true, true, false, true, true});
    CHECK(compared.differs(file.get(), 0, {}).empty());
}

TEST_CASE("zeros are zeros: past the end, in a hole, and as bytes of the file") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), pages_of('x', 2));
    Compared compared;
    // The page that holds the end is the file's bytes, then zeros.
    REQUIRE(::ftruncate(file.get(), offset_of(1) + 100) == 0);
    const States states = compared.given(file.get(), 0, 6);
    CHECK(states[2] == compared.digester.of_zeros());
    CHECK(states[1] != states[0]);
    CHECK(states[1] != compared.digester.of_zeros());
    CHECK(count(compared.differs(file.get(), 0, states)) == 0);
    // The file grows over zeros the kernel has: a hole and real zeros look the same.
    REQUIRE(::ftruncate(file.get(), offset_of(4)) == 0);
    write_bytes(file.get(), pages_of('\0'), offset_of(3));
    CHECK(count(compared.differs(file.get(), 0, states)) == 0);
    // A hole where there was something.
    REQUIRE(::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, offset_of(1)) == 0);
    CHECK(compared.differs(file.get(), 0, states) == Differs{true, false, false, false, false, false});
    // A byte in the hole.
    write_bytes(file.get(), "z", offset_of(2) + 17);
    CHECK(compared.differs(file.get(), 0, states) == Differs{true, false, true, false, false, false});
}

TEST_CASE("after a truncation what was cut off differs, and the page that was cut") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), pages_of('x', 40));
    Compared compared;
    const States states = compared.given(file.get(), 0, 40);
    REQUIRE(::ftruncate(file.get(), offset_of(10) + 1) == 0);
    Differs wanted(40, true);
    std::fill(wanted.begin(), wanted.begin() + 10, false);
    CHECK(compared.differs(file.get(), 0, states) == wanted);
    REQUIRE(::ftruncate(file.get(), 0) == 0);
    CHECK(count(compared.differs(file.get(), 0, states)) == 40);
}

TEST_CASE("what cannot be read differs, if the kernel has it") {
    const TemporaryDirectory directory;
    const UniqueFd file = make_file(directory.file("a"), pages_of('x', 20));
    const UniqueFd unreadable = sys::open_at(AT_FDCWD, directory.file("a").c_str(), O_WRONLY);
    Compared compared;
    States states = compared.given(file.get(), 0, 20);
    states[3] = GivenPages::absent;
    Differs wanted(20, true);
    wanted[3] = false;
    CHECK(compared.differs(unreadable.get(), 0, states) == wanted);
    CHECK(compared.differs(-1, 0, states) == wanted);
    // Zeros, which is what a failed read leaves behind, are no exception.
    CHECK(count(compared.differs(-1, 0, States(20, compared.digester.of_zeros()))) == 20);
}

TEST_CASE("what cannot be read differs also behind pages that can") {
    // Our own memory is a file that has a place which cannot be read: pread(2) stops there, then says EIO.
    constexpr std::size_t pages = 4;
    auto* const memory = static_cast<char*>(
        ::mmap(nullptr, pages * page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(memory != MAP_FAILED);
    REQUIRE(::munmap(memory + 2 * page_size(), 2 * page_size()) == 0);
    std::fill_n(memory, 2 * page_size(), 'x');
    const UniqueFd file = sys::open_at(AT_FDCWD, "/proc/self/mem", O_RDONLY);
    const auto first = reinterpret_cast<std::uintptr_t>(memory) / page_size();
    Compared compared;
    States states = compared.given(file.get(), first, 2);
    states.resize(pages, compared.digester.of_zeros());
    CHECK(compared.differs(file.get(), first, states) == Differs{false, false, true, true});
    REQUIRE(::munmap(memory, 2 * page_size()) == 0);
}

TEST_CASE("many pages, which several threads share, compare as they do one by one") {
    const TemporaryDirectory directory;
    std::mt19937 random(1);
    for (const std::uint64_t pages : {std::uint64_t{1023}, std::uint64_t{1025}, std::uint64_t{4099}}) {
        CAPTURE(pages);
        const UniqueFd file = make_file(directory.file(std::to_string(pages)));
        std::string content(pages * page_size(), '\0');
        for (std::uint64_t page = 0; page < pages; ++page) content[page * page_size()] = static_cast<char>(random());
        write_bytes(file.get(), content, 0);
        Compared compared;
        States states = compared.given(file.get(), 0, pages);
        CHECK(count(compared.differs(file.get(), 0, states)) == 0);
        for (std::uint64_t page = 0; page < pages; ++page) {
            if (random() % 10 == 0) states[page] = GivenPages::absent;
            if (random() % 10 == 0) states[page] = 2 * random() + 1;
            if (random() % 10 == 0) write_bytes(file.get(), "!!", offset_of(page) + 5);
        }
        REQUIRE(::ftruncate(file.get(), offset_of(pages - 7) - 9) == 0);
        const Differs together = compared.differs(file.get(), 0, states);
        Differs one_by_one;
        for (std::uint64_t page = 0; page < pages; ++page)
            one_by_one.push_back(compared.differs(file.get(), page, {states[page]})[0]);
        CHECK(count(one_by_one) > pages / 20);
        CHECK(count(one_by_one) < pages / 2);
        CHECK((together == one_by_one));
    }
}
