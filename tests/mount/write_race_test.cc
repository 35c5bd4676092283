// Stores in a view while somebody else changes the backing file: who wins what, and the file's size.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t pages = 32;
constexpr std::chrono::seconds long_enough{1};

std::mt19937 random_sizes(unsigned seed) {
    return std::mt19937(seed);
}

// A value that differs from page to page and from round to round, never 0.
std::string mark(std::size_t at, unsigned round) {
    return pattern(at * page + round, 1, round);
}

}  // namespace

TEST_SUITE_BEGIN("write");

TEST_CASE("a page that is written back never makes the file larger than somebody else truncates it to meanwhile") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, pages * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDWR);
    const Mapping mapping(view.get(), pages * page, PROT_READ | PROT_WRITE);
    std::atomic<bool> over = false;
    std::atomic<long> written_back = 0;
    std::atomic<long> failed_stores = 0;
    std::string failed_syncs;
    std::thread storing([&] {
        for (unsigned round = 1; !over; ++round) {
            for (std::size_t at = 0; at < pages; ++at) {
                if (mapping.store(at * page + 7, mark(at, round)) != 1) ++failed_stores;
            }
            if (mapping.sync() != 0) failed_syncs += answer(-1) + " ";
            ++written_back;
        }
    });
    std::mt19937 random = random_sizes(5);
    long larger = 0;
    long truncations = 0;
    const auto end = std::chrono::steady_clock::now() + long_enough;
    while (std::chrono::steady_clock::now() < end || written_back < 3) {
        const std::size_t size = random() % (pages * page);
        resize(backing.get(), pages * page);  // so that there is something to write back to
        resize(backing.get(), size);
        for (int i = 0; i < 5; ++i) larger += size_of(backing.get()) != size ? 1 : 0;
        ++truncations;
    }
    over = true;
    storing.join();
    CHECK(larger == 0);
    CHECK(failed_stores.load() == 0);
    CHECK(failed_syncs == "");
    CHECK(truncations > 10);
    CAPTURE(mount.errors());
    CHECK(counters(mount).at("restarts") == 0);
    MESSAGE(truncations, " truncations, ", written_back.load(), " times written back");
    resize(backing.get(), 100);
    CHECK(mapping.sync() == 0);
    CHECK(size_of(backing.get()) == 100);
    CHECK(difference(mapping.bytes(), padded(read_all(backing.get()), pages * page)) == "");
}

TEST_CASE("a writer of the file and one of the view who keep to pages of their own both win") {
    const ViewMount mount({"max_size=1M"});
    const UniqueFd backing = make_file(mount.raw("file"), pattern(0, pages * page));
    const UniqueFd view = open_file(mount.view("file"), O_RDWR);
    const Mapping mapping(view.get(), pages * page, PROT_READ | PROT_WRITE);
    std::string wanted = pattern(0, pages * page);
    const auto place = [](std::size_t at) { return at * page + at * 101 % page; };
    bool through_mapping = false;
    SUBCASE("the file by write") {}
    SUBCASE("the file by stores") {
        through_mapping = true;
    }
    const auto end = std::chrono::steady_clock::now() + long_enough;
    const auto goes_on = [&](unsigned round) { return std::chrono::steady_clock::now() < end || round <= 30; };
    std::atomic<long> failed = 0;
    unsigned last_outside = 0;
    std::thread outside([&] {
        const Mapping raw(backing.get(), pages * page, PROT_READ | PROT_WRITE);
        for (unsigned round = 1; goes_on(round); last_outside = round++) {
            for (std::size_t at = 0; at < pages; at += 2) {
                if (!through_mapping) {
                    write_at(backing.get(), place(at), mark(at, round));
                } else if (raw.store(place(at), mark(at, round)) != 1) {
                    ++failed;
                }
            }
        }
    });
    unsigned last_inside = 0;
    for (unsigned round = 1; goes_on(round); last_inside = round++) {
        for (std::size_t at = 1; at < pages; at += 2) {
            if (mapping.store(place(at), mark(at, round)) != 1) ++failed;
        }
        if (round % 10 == 0 && mapping.sync() != 0) ++failed;
    }
    outside.join();
    CHECK(failed.load() == 0);
    CHECK(mapping.sync() == 0);
    for (std::size_t at = 0; at < pages; ++at)
        wanted.replace(place(at), 1, mark(at, at % 2 == 0 ? last_outside : last_inside));
    CHECK(difference(read_all(backing.get()), wanted) == "");
    CHECK(difference(mapping.bytes(), wanted) == "");
}

TEST_SUITE_END();
