// Random changes of every kind, each of some files by its own thread, while others load, open and map them all: no load
// faults, and after a barrier no byte is stale. NOSIGBUS_STORM_SECONDS says for how long; the default is short, 600 is
// the full form.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <atomic>
#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "tests/mount/aio_write.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/storm.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t length = MiB;
constexpr unsigned files_in_all = 6;

struct File {
    File(const ViewMount& mount, unsigned number)
        : name(fmt::format("file {}", number)),
          backing(make_file(mount.raw(name), pattern(0, length / 2))),
          view(open_file(mount.view(name), O_RDONLY)),
          mapping(view.get(), length),
          random(number) {
        // With one of them open for writing, its pages are dropped and not pushed.
        if (number % 3 == 0) writer = open_file(mount.view(name), O_RDWR);
    }

    std::size_t below(std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random); }

    void change() {
        const std::size_t offset = below(length);
        const std::size_t size = 1 + below(below(4) == 0 ? length - offset : std::min(length - offset, 3 * page));
        const int fd = backing.get();
        switch (below(8)) {
            case 0:
                return resize(fd, offset);
            case 1:
                return punch(fd, offset, size);
            case 2:
                return aio_write(fd, offset, pattern(offset, size, ++salt));
            case 3: {
                const Mapping raw(fd, length, PROT_READ | PROT_WRITE);
                const std::size_t end = size_of(fd);
                const std::string bytes = pattern(offset, std::min(size, end - std::min(offset, end)), ++salt);
                if (raw.store(offset, bytes) != bytes.size()) stale = "a store into the file faulted";
                return;
            }
            case 4:
                if (writer) return write_at(writer.get(), offset, pattern(offset, size, ++salt));
                return resize(fd, length);
            case 5:
                if (writer) return resize(writer.get(), offset);
                return punch(fd, 0, length);
            default:
                return write_at(fd, offset, pattern(offset, size, ++salt));
        }
    }

    std::string name;
    UniqueFd backing;
    UniqueFd view;
    UniqueFd writer;
    Mapping mapping;
    std::mt19937 random;
    unsigned salt = 0;
    std::string stale;  // the first byte that was, in words
    unsigned long barriers = 0;
};

}  // namespace

TEST_SUITE_BEGIN("stress");

TEST_CASE("no load faults, and after a barrier no byte is stale") {
    const ViewMount mount({"max_size=1M"});
    std::deque<File> files;
    for (unsigned i = 0; i < files_in_all; ++i) files.emplace_back(mount, i);
    std::atomic<bool> over = false;
    std::atomic<unsigned long> faults = 0;
    std::atomic<unsigned long> loads = 0;
    std::vector<std::thread> threads;
    for (unsigned who = 0; who < 2; ++who) {
        threads.emplace_back([&, who] {
            for (unsigned i = who; !over; ++i) {
                const File& file = files[i % files.size()];
                if (file.mapping.touch() < length / page) ++faults;
                ++loads;
                if (i % 5 != 0) continue;
                const UniqueFd again = open_file(mount.view(file.name), O_RDONLY);
                const Mapping mapping(again.get(), length, PROT_READ, i % 2 == 0 ? MAP_SHARED : MAP_PRIVATE);
                if (mapping.touch() < length / page) ++faults;
            }
        });
    }
    for (File& file : files) {
        threads.emplace_back([&] {
            while (!over && file.stale.empty()) {
                for (std::size_t changes = 1 + file.below(4); changes > 0; --changes) file.change();
                if (::fsync(file.view.get()) != 0) file.stale = "fsync failed";
                ++file.barriers;
                const std::string wanted = padded(read_all(file.backing.get()), length);
                const std::string seen = file.mapping.bytes();
                if (seen != wanted) file.stale = difference(seen, wanted);
            }
        });
    }
    const auto end = std::chrono::steady_clock::now() + storm_duration(std::chrono::seconds(5));
    eventually([&] { return std::chrono::steady_clock::now() >= end; }, storm_duration(std::chrono::seconds(5)) * 2);
    over = true;
    for (std::thread& thread : threads) thread.join();
    unsigned long barriers = 0;
    for (const File& file : files) {
        CHECK_MESSAGE(file.stale.empty(), file.name, ", barrier ", file.barriers, ": ", file.stale);
        barriers += file.barriers;
    }
    CHECK(faults == 0);
    CHECK(barriers > files.size());
    CHECK(loads > 0);
    MESSAGE(barriers, " barriers, ", loads.load(), " times all pages loaded");
}

TEST_SUITE_END();
