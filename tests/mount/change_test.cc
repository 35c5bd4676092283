// The matrix of DESIGN §2: each kind of mapping meets each change that is made behind our back.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>

#include "tests/mount/changes.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct Kind {
    std::string name;
    int open_flags;
    int protection;
    int flags;
    bool private_copies = false;
};

const Kind shared_ro = {"shared, read-only", O_RDONLY, PROT_READ, MAP_SHARED};
const Kind shared_rw = {"shared, writable", O_RDWR, PROT_READ | PROT_WRITE, MAP_SHARED};
const Kind private_clean = {"private", O_RDONLY, PROT_READ | PROT_WRITE, MAP_PRIVATE};
const Kind private_cow = {"private, with copies", O_RDONLY, PROT_READ | PROT_WRITE, MAP_PRIVATE, true};

// How a mapping learns of the change: by itself in a while, or when fsync returns.
enum class Shown { unasked, at_the_barrier };

// Of a private mapping with copies: the pages that were stored to, one in the file and one in the zero tail, as they
// were then.
class PrivateCopies {
  public:
    PrivateCopies(const Kind& kind, const Mapping& mapping) {
        if (!kind.private_copies) return;
        for (const std::size_t at : {page, 8 * page}) {
            REQUIRE(mapping.store(at + 5, "mine") == 4);
            copies_.emplace_back(at, mapping.bytes(at, page));
        }
    }

    [[nodiscard]] std::string over(std::string content) const {
        for (const auto& [at, copy] : copies_) content.replace(at, copy.size(), copy);
        return content;
    }

  private:
    std::vector<std::pair<std::size_t, std::string>> copies_;
};

// False where the mapping does not show the change.
bool check(const ViewMount& mount, const Kind& kind, const Change& change, Shown shown, bool touched, bool unlinked) {
    const std::string name =
        fmt::format("{}, {}, {}", change.name, touched ? "touched" : "untouched", unlinked ? "unlinked" : "linked");
    CAPTURE(name);
    const std::size_t length = mapped_pages * page;
    const Backing backing{make_file(mount.raw(name), content_before()).release(), mount.raw(name)};
    const UniqueFd closed_at_the_end(backing.fd);
    const UniqueFd view = open_file(mount.view(name), kind.open_flags);
    const Mapping raw(backing.fd, length);
    const Mapping mapping(view.get(), length, kind.protection, kind.flags);
    if (unlinked) must(::unlink(backing.path.c_str()), "unlink");
    if (touched) REQUIRE(difference(mapping.bytes(), padded(content_before(), length)) == "");
    const PrivateCopies copies(kind, mapping);

    change.make(backing);

    const std::string content = read_all(backing.fd);
    const std::string wanted = copies.over(padded(content, length));
    CHECK(raw.touch() == (content.size() + page - 1) / page);  // the raw mapping of the same file faults past its end
    if (shown == Shown::at_the_barrier) REQUIRE(::fsync(view.get()) == 0);
    std::string seen;
    bool faulted = false;
    eventually(
        [&] {
            seen = mapping.bytes();
            faulted = faulted || seen.size() < length;
            return faulted || seen == wanted;
        },
        shown == Shown::unasked ? patience : std::chrono::seconds(0));
    CHECK_FALSE(faulted);
    CHECK(difference(seen, wanted) == "");
    CHECK(size_of(backing.fd) == content.size());
    // The name leads to whatever has it now, at once.
    if (unlinked || !std::filesystem::exists(backing.path)) {
        CHECK(answer(::access(mount.view(name).c_str(), F_OK)) == "ENOENT");
    } else {
        const UniqueFd now = open_file(mount.view(name), O_RDONLY);
        const std::string named = padded(read_all(backing.path), length);
        CHECK(eventually([&] { return Mapping(now.get(), length).bytes() == named; }));
    }
    return seen == wanted;
}

void check_all(const Kind& kind) {
    Shown shown = Shown::unasked;
    SUBCASE("unasked") {
        shown = Shown::unasked;
    }
    SUBCASE("at the barrier") {
        shown = Shown::at_the_barrier;
    }
    const ViewMount mount({"max_size=1M"});
    CAPTURE(kind.name);
    int failures = 0;
    for (const Change& change : changes()) {
        if (change.silent && shown == Shown::unasked) continue;
        for (const bool touched : {true, false}) {
            if (!check(mount, kind, change, shown, touched, false)) ++failures;
            if (!change.needs_name && !check(mount, kind, change, shown, touched, true)) ++failures;
            REQUIRE_MESSAGE(failures < 3, "the rest of the matrix is left out: each failure takes all our patience");
        }
    }
}

}  // namespace

TEST_SUITE_BEGIN("change");

TEST_CASE("a shared read-only mapping follows the file") {
    check_all(shared_ro);
}

TEST_CASE("a shared writable mapping follows the file") {
    check_all(shared_rw);
}

TEST_CASE("a private mapping follows the file") {
    check_all(private_clean);
}

TEST_CASE("the private copies of pages stay, all other pages follow the file") {
    check_all(private_cow);
}

TEST_CASE("a change through a hard link outside the name that is open shows") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("one"), pattern(0, 4 * page));
    must(::mkdir(mount.raw("elsewhere").c_str(), 0755), "mkdir");
    must(::link(mount.raw("one").c_str(), mount.raw("elsewhere/two").c_str()), "link");
    const UniqueFd view = open_file(mount.view("one"), O_RDONLY);
    const Mapping mapping(view.get(), 8 * page);
    CHECK(mapping.touch() == 8);
    must(::truncate(mount.raw("elsewhere/two").c_str(), 10), "truncate");
    CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, 10), 8 * page); }));
    write_at(open_file(mount.raw("elsewhere/two"), O_WRONLY).get(), 0, pattern(0, 6 * page, 1));
    CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, 6 * page, 1), 8 * page); }));
}

TEST_CASE("the zero tail gives way to data as the file grows, step by step") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.touch() == MiB / page);
    std::string content;
    for (const std::size_t step : {std::size_t{1}, std::size_t{10}, page, page - 11, 3 * page + 1, 64 * page}) {
        CAPTURE(step);
        write_at(backing.get(), content.size(), pattern(content.size(), step));
        content += pattern(content.size(), step);
        CHECK(eventually([&] { return mapping.bytes() == padded(content, MiB); }));
    }
}

TEST_CASE("many files that change at once all show it") {
    // More events than a watcher that looks at one file only would notice.
    const ViewMount mount({"max_size=1M"});
    std::vector<UniqueFd> files;
    std::vector<Mapping> mappings;
    for (int i = 0; i < 200; ++i) {
        files.push_back(make_file(mount.raw(std::to_string(i)), pattern(0, 3 * page)));
        mappings.emplace_back(open_file(mount.view(std::to_string(i)), O_RDONLY).get(), 6 * page);
        REQUIRE(mappings.back().touch() == 6);
    }
    for (int round = 1; round <= 10; ++round) {
        for (const UniqueFd& file : files) {
            resize(file.get(), page);
            write_at(file.get(), 0, pattern(0, 4 * page, static_cast<unsigned>(round)));
            resize(file.get(), 10);
        }
    }
    const std::string wanted = padded(pattern(0, 10, 10), 6 * page);
    for (const Mapping& mapping : mappings) CHECK(eventually([&] { return mapping.bytes() == wanted; }));
}

TEST_SUITE_END();
