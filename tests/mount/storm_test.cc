// Readers that loop over a large view while another process truncates, punches and rewrites the backing file at random.
// NOSIGBUS_STORM_SECONDS says for how long; the default is short, 60 is the full form.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <thread>

#include "tests/mount/files.h"
#include "tests/mount/footprint.h"
#include "tests/mount/mapping.h"
#include "tests/mount/storm.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t length = 64 * MiB;
// Growth that is none: request threads, with a buffer of 1 MiB each, come and go.
constexpr std::size_t memory_slack = 32 * MiB;

std::chrono::seconds duration() {
    return storm_duration(std::chrono::seconds(5));
}

// The bytes of a page: the high half says which page it is, the low half which writing of it.
char byte_of(std::size_t at, unsigned generation) {
    return static_cast<char>((1 + at / page % 15) << 4U | generation % 16);
}

bool is_of_its_page(char byte, std::size_t at) {
    return byte == 0 || (static_cast<unsigned char>(byte) >> 4U) == 1 + at / page % 15;
}

std::string rewriting(std::size_t offset, std::size_t size, unsigned generation) {
    std::string bytes(size, '\0');
    for (std::size_t i = 0; i < size; ++i) bytes[i] = byte_of(offset + i, generation);
    return bytes;
}

// Another process that has its way with the backing file until it is told to stop.
class Storm {
  public:
    Storm(int fd, unsigned seed)
        : stop_(static_cast<std::atomic<bool>*>(
              must(::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), "mmap"))) {
        pid_ = fork_process();
        if (pid_ != 0) return;
        try {
            rage(fd, seed);
        } catch (const std::exception& failure) {
            fmt::print(stderr, "the storm: {}\n", failure.what());
            ::_exit(1);
        }
        ::_exit(0);
    }
    Storm(const Storm&) = delete;
    Storm& operator=(const Storm&) = delete;
    ~Storm() {
        if (pid_ > 0) CHECK(end() == "exit 0");
        ::munmap(stop_, page);
    }

    // The writer rests. Says how it ended.
    std::string end() {
        stop_->store(true);
        const std::string how = wait_for(pid_);
        pid_ = -1;
        return how;
    }

  private:
    void rage(int fd, unsigned seed) {
        std::mt19937 random(seed);
        const auto below = [&](std::size_t limit) {
            return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
        };
        for (unsigned generation = 0; !stop_->load(); ++generation) {
            const std::size_t offset = below(length);
            switch (below(6)) {
                case 0:
                    resize(fd, below(8) == 0 ? below(2) * length : offset);
                    break;
                case 1:
                    punch(fd, offset, 1 + below(4 * MiB));
                    break;
                case 2: {
                    const std::size_t size = std::min(length - offset, 1 + below(4 * MiB));
                    write_at(fd, offset, rewriting(offset, size, generation));
                    break;
                }
                default: {
                    const std::size_t size = std::min(length - offset, 1 + below(3 * page));
                    write_at(fd, offset, rewriting(offset, size, generation));
                }
            }
        }
    }

    std::atomic<bool>* stop_;
    pid_t pid_ = -1;
};

// Loads a byte of each page, at another place each time. Counts faults and bytes that belong elsewhere.
struct Reading {
    std::atomic<long> rounds = 0;
    std::atomic<long> faults = 0;
    std::atomic<long> wrong = 0;

    void once(const Mapping& mapping) {
        for (std::size_t i = 0; i < length; i += page) {
            const std::size_t at = i + static_cast<std::size_t>(rounds) * 37 % page;
            const std::string byte = mapping.bytes(at, 1);
            if (byte.empty()) ++faults;
            if (!byte.empty() && !is_of_its_page(byte[0], at)) ++wrong;
        }
        ++rounds;
    }
};

}  // namespace

TEST_SUITE_BEGIN("storm");

TEST_CASE("readers live through a storm, see the truth when it is over, and the daemon has not grown") {
    const ViewMount mount({"max_size=64M"});
    const UniqueFd backing = make_file(mount.raw("file"), rewriting(0, length, 0));
    const UniqueFd view = open_file(mount.view("file"), O_RDONLY);
    const Mapping shared(view.get(), length);
    const Mapping copying(view.get(), length, PROT_READ, MAP_PRIVATE);
    Reading reading;
    Reading reopening;
    reading.once(shared);
    const std::size_t descriptors = open_descriptors(mount.pid());
    std::size_t memory = 0;

    const auto start = std::chrono::steady_clock::now();
    const auto age = [&] { return std::chrono::steady_clock::now() - start; };
    Storm storm(backing.get(), 20210527);
    std::atomic<bool> over = false;
    std::thread second([&] {
        while (!over) {
            const UniqueFd again = open_file(mount.view("file"), O_RDONLY);
            reopening.once(Mapping(again.get(), length));
        }
    });
    while (age() < duration()) {
        reading.once(reading.rounds % 2 == 0 ? shared : copying);
        if (memory == 0 && age() > duration() / 3) memory = anonymous_memory(mount.pid());
    }
    CHECK(storm.end() == "exit 0");
    over = true;
    second.join();

    CHECK(reading.rounds > 1);
    CHECK(reopening.rounds > 0);
    CHECK(reading.faults == 0);
    CHECK(reopening.faults == 0);
    CHECK(reading.wrong == 0);
    CHECK(reopening.wrong == 0);
    const std::string wanted = padded(read_all(backing.get()), length);
    CHECK(eventually([&] { return shared.bytes() == wanted; }));
    CHECK(eventually([&] { return copying.bytes() == wanted; }));
    CHECK(difference(shared.bytes(), wanted) == "");
    // One for the refresher, which reads the file of each open view.
    CHECK(eventually([&] { return open_descriptors(mount.pid()) <= descriptors + 1; }));
    if (memory_is_ours()) CHECK(anonymous_memory(mount.pid()) < memory + memory_slack);
    MESSAGE(reading.rounds.load(), " and ", reopening.rounds.load(), " rounds; memory ", memory / KiB, " KiB, then ",
            anonymous_memory(mount.pid()) / KiB, " KiB");
}

TEST_CASE("the same storm on the raw file is deadly") {
    const Directories directories;
    const UniqueFd backing = make_file(directories.raw("file"), rewriting(0, length, 0));
    const Mapping mapping(backing.get(), length);
    Reading reading;
    Storm storm(backing.get(), 20210527);
    CHECK(eventually([&] {
        reading.once(mapping);
        return reading.faults > 0;
    }));
    CHECK(storm.end() == "exit 0");
}

TEST_CASE("files that come and go leave no descriptor and no memory behind") {
    const ViewMount mount({"max_size=1M"});
    const auto come_and_go = [&](int rounds) {
        for (int i = 0; i < rounds; ++i) {
            const std::string name = fmt::format("file {}", i);
            const UniqueFd backing = make_file(mount.raw(name), "abc");
            const UniqueFd view = open_file(mount.view(name), O_RDWR);
            const Mapping mapping(view.get(), MiB);
            CHECK(mapping.byte(page) == 0);
            must(::mkdir(mount.view("directory").c_str(), 0755), "mkdir");
            must(::rename(mount.view(name).c_str(), mount.view("directory/moved").c_str()), "rename");
            must(::unlink(mount.view("directory/moved").c_str()), "unlink");
            must(::rmdir(mount.view("directory").c_str()), "rmdir");
        }
    };
    const std::size_t descriptors = open_descriptors(mount.pid());
    come_and_go(500);
    const std::size_t memory = anonymous_memory(mount.pid());
    come_and_go(5000);
    CHECK(eventually([&] { return open_descriptors(mount.pid()) <= descriptors + 2; }));
    if (memory_is_ours()) CHECK(anonymous_memory(mount.pid()) < memory + memory_slack / 4);
}

TEST_SUITE_END();
