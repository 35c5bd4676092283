// Rings of waiting: everybody does at once what makes the kernel, the server and the clients wait for each other. The
// guard's deadline ends what hangs. NOSIGBUS_STORM_SECONDS says for how long; the default is short, 60 is the full
// form.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/mount/files.h"
#include "tests/mount/loads.h"
#include "tests/mount/view_mount.h"

namespace nosigbus::test {

namespace {

constexpr std::size_t size = 8 * MiB;

std::chrono::seconds duration() {
    const char* seconds = std::getenv("NOSIGBUS_STORM_SECONDS");
    return std::chrono::seconds(seconds != nullptr ? std::atoi(seconds) : 5);
}

using Random = std::mt19937_64;

// Each does one thing over and over until it is stopped; how often, it counts.
class Crowd {
  public:
    void add(std::function<void(Random&)> act) {
        threads_.emplace_back([this, number = threads_.size(), act = std::move(act)] {
            Random random(number);
            while (!stop_) {
                act(random);
                ++done_[number];
            }
        });
    }
    void stop() {
        stop_ = true;
        for (std::thread& thread : threads_) thread.join();
    }
    [[nodiscard]] std::size_t count() const { return threads_.size(); }
    [[nodiscard]] unsigned long done(std::size_t number) const { return done_.at(number); }

  private:
    std::atomic<bool> stop_{false};
    std::array<std::atomic<unsigned long>, 16> done_{};
    std::vector<std::thread> threads_;
};

}  // namespace

TEST_SUITE_BEGIN("ring");

TEST_CASE(
    "writers from a view into its own file, truncaters, dirty pages and barriers never wait for each other for ever") {
    const ViewMount mount;
    const UniqueFd raw = make_file(mount.raw("a"));
    resize(raw.get(), size);
    const UniqueFd reads = open_file(mount.view("a"), O_RDONLY);
    const UniqueFd writes = open_file(mount.view("a"), O_RDWR);
    auto* const seen = static_cast<std::byte*>(::mmap(nullptr, size, PROT_READ, MAP_SHARED, reads.get(), 0));
    auto* const dirty =
        static_cast<std::byte*>(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, writes.get(), 0));
    REQUIRE(seen != MAP_FAILED);
    REQUIRE(dirty != MAP_FAILED);
    std::atomic<unsigned> faults{0};
    std::atomic<unsigned> failures{0};
    const auto at = [](Random& random) { return random() % size; };
    const auto offset = [&](Random& random) { return static_cast<off_t>(at(random)); };
    const auto expect = [&](bool good) { failures += good ? 0 : 1; };
    const auto look = [&](const std::byte* from) { faults += load(from, 1).size() == 1 ? 0 : 1; };

    Crowd crowd;
    crowd.add([&](Random& random) { look(seen + at(random)); });
    crowd.add([&](Random& random) { faults += store(dirty + at(random), "x") == 1 ? 0 : 1; });
    crowd.add([&](Random& random) { expect(::ftruncate(raw.get(), offset(random)) == 0); });
    crowd.add([&](Random& random) { expect(::ftruncate(writes.get(), offset(random)) == 0); });
    crowd.add([&](Random& random) { punch(raw.get(), at(random), 1 + at(random)); });
    crowd.add([&](Random& random) { expect(::fsync((random() & 1U) != 0 ? reads.get() : writes.get()) == 0); });
    // Holds the lock of the file's inode while it faults on the view of the same file.
    crowd.add([&](Random& random) {
        const std::size_t from = at(random);
        expect(::pwrite(raw.get(), seen + from, std::min<std::size_t>(size - from, random() % 100'000),
                        offset(random)) >= 0);
    });
    crowd.add([&](Random& random) {
        const UniqueFd file = open_file(mount.view("a"), (random() & 1U) != 0 ? O_RDONLY : O_RDWR | O_TRUNC);
        void* const mapping = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
        expect(mapping != MAP_FAILED);
        look(static_cast<const std::byte*>(mapping) + at(random));
        ::munmap(mapping, size);
    });
    std::this_thread::sleep_for(duration());  // not to wait for something: for so long they are let be
    crowd.stop();

    CHECK(faults == 0);
    CHECK(failures == 0);
    // That all threads could be joined is the point; each has done something at least.
    for (std::size_t number = 0; number < crowd.count(); ++number) {
        CAPTURE(number);
        CHECK(crowd.done(number) > 0);
    }
    ::munmap(seen, size);
    ::munmap(dirty, size);
}

TEST_SUITE_END();

}  // namespace nosigbus::test
