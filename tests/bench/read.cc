// read(2) and pread(2) of a large file.
#include <fmt/format.h>
#include <unistd.h>

#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/bench/big_file.h"
#include "tests/bench/comparison.h"
#include "tests/bench/contenders.h"
#include "tests/bench/cpu_caches.h"
#include "tests/bench/groups.h"
#include "tests/mount/files.h"

namespace nosigbus::bench {

namespace {

using namespace test;

constexpr std::size_t buffer_size = 128 * KiB;

// All of the file. Not until a read says that it has ended: before Linux 6.6 reads of a view go on in zeros.
void read_in_order(int fd, std::span<std::byte> buffer, std::size_t size) {
    must(::lseek(fd, 0, SEEK_SET), "lseek");
    for (std::size_t done = 0; done < size;) {
        const auto got = must(::read(fd, buffer.data(), buffer.size()), "read");
        if (got == 0) throw std::runtime_error(fmt::format("{} bytes were read where the file has {}", done, size));
        done += static_cast<std::size_t>(got);
    }
}

void read_pages(int fd, std::span<std::byte> buffer, const std::vector<std::size_t>& pages) {
    for (const std::size_t number : pages) {
        const auto got = must(::pread(fd, buffer.data(), page, static_cast<off_t>(number * page)), "pread");
        if (got != static_cast<ssize_t>(page)) throw std::runtime_error("a short read inside the file");
    }
}

}  // namespace

void measure_read(Form form) {
    enum Work : std::size_t { ordered_cold, ordered_warm, random_cold, random_warm };
    Contenders contenders = Contenders::all();
    const BigFile file(contenders, form);
    const std::size_t random_reads = file.random_pages().size();
    Comparison comparison(file.size_text(), contenders.names(),
                          {{"128 KiB reads in order, first time, GiB/s", gib_per_second(file.size())},
                           {"128 KiB reads in order, second time, GiB/s", gib_per_second(file.size())},
                           {"4 KiB preads at random, first time, µs each", us_per_operation(random_reads)},
                           {"4 KiB preads at random, second time, µs each", us_per_operation(random_reads)}});
    const CpuCaches caches(form);
    const auto rounds = choose<std::size_t>(form, 5, 2);
    std::vector<std::byte> buffer(buffer_size);
    contenders.take_turns(rounds, [&](std::size_t contender) {
        const UniqueFd fd = file.open_cold(contender);
        for (const Work work : {ordered_cold, ordered_warm}) {
            caches.forget();
            comparison.add(work, contender, time_of([&] { read_in_order(fd.get(), buffer, file.size()); }));
        }
    });
    contenders.take_turns(rounds, [&](std::size_t contender) {
        const UniqueFd fd = file.open_cold(contender);
        for (const Work work : {random_cold, random_warm}) {
            caches.forget();
            comparison.add(work, contender, time_of([&] { read_pages(fd.get(), buffer, file.random_pages()); }));
        }
    });
    contenders.end();
    comparison.print();
    fmt::print(
        "\nMedians of {} rounds; in parentheses how many times as long as raw; {} preads. The first time nothing is\n"
        "in the page cache of the mount. Since Linux 6.6 nosigbus answers no read(2) from there, so its second\n"
        "time is like its first.\n",
        rounds, random_reads);
}

}  // namespace nosigbus::bench
