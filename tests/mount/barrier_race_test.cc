// Many barriers at once, while the files are loaded, written and truncated.
#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "tests/mount/files.h"
#include "tests/mount/loading.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t threads = 8;
constexpr unsigned rounds = 60;

// A file: the first pages belong to one thread each, and are never cut off; behind them the outside has its way.
struct BusyFile {
    explicit BusyFile(const ViewMount& mount, const std::string& name)
        : backing(make_file(mount.raw(name), pattern(0, 4 * threads * page))),
          raw(backing.get(), threads * page, PROT_READ | PROT_WRITE),
          view(open_file(mount.view(name), O_RDONLY)),
          mapping(view.get(), MiB) {}

    UniqueFd backing;
    Mapping raw;
    UniqueFd view;
    Mapping mapping;
};

void change_the_rest(const BusyFile& file, std::mt19937& random) {
    const std::size_t own = threads * page;
    resize(file.backing.get(), own + random() % (4 * own));
    write_at(file.backing.get(), own + random() % own, pattern(0, 3 * page, static_cast<unsigned>(random())));
    punch(file.backing.get(), own, 1 + random() % own);
}

}  // namespace

TEST_SUITE_BEGIN("barrier");

TEST_CASE("many barriers at once all end, and each shows what was stored before it") {
    const ViewMount mount({"max_size=1M"});
    std::size_t count = 1;
    SUBCASE("of one file") {
        count = 1;
    }
    SUBCASE("of many files") {
        count = threads;
    }
    std::vector<std::unique_ptr<BusyFile>> files;
    for (std::size_t i = 0; i < count; ++i) files.push_back(std::make_unique<BusyFile>(mount, std::to_string(i)));
    std::atomic<bool> over = false;
    std::atomic<long> failed = 0;
    std::atomic<long> stale = 0;
    std::atomic<long> changes = 0;
    {
        const Loading first(files.front()->mapping);
        const Loading last(files.back()->mapping);
        std::thread outside(
            [&](unsigned seed) {
                std::mt19937 random(seed);
                for (; !over; ++changes) change_the_rest(*files[random() % count], random);
            },
            3);
        std::vector<std::thread> callers;
        for (std::size_t i = 0; i < threads; ++i) {
            callers.emplace_back([&, i] {
                for (unsigned round = 1; round <= rounds; ++round) {
                    const BusyFile& file = *files[(i + round) % count];
                    const std::size_t at = i * page + std::size_t{61} * round % page;
                    const std::string byte = pattern(at, 1, round);
                    const bool stored = file.raw.store(at, byte) == 1;
                    const int fd = file.view.get();
                    if (!stored || (round % 2 == 0 ? ::fsync(fd) : ::fdatasync(fd)) != 0) ++failed;
                    if (file.mapping.bytes(at, 1) != byte) ++stale;
                }
            });
        }
        for (std::thread& caller : callers) caller.join();
        CHECK(first.goes_round());
        CHECK(last.goes_round());
        CHECK(eventually([&] { return changes > 0; }));
        over = true;
        outside.join();
        CHECK(first.faults() == 0);
        CHECK(last.faults() == 0);
    }
    CHECK(failed.load() == 0);
    CHECK(stale.load() == 0);
    for (const auto& file : files) {
        REQUIRE(::fsync(file->view.get()) == 0);
        CHECK(difference(file->mapping.bytes(), padded(read_all(file->backing.get()), MiB)) == "");
    }
}

TEST_SUITE_END();
