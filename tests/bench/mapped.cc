// Loads from a mapping of a large file: the first time, when each page must come from somewhere, and the second time.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/big_file.h"
#include "tests/bench/comparison.h"
#include "tests/bench/contenders.h"
#include "tests/bench/cpu_caches.h"
#include "tests/bench/groups.h"
#include "tests/bench/memory.h"
#include "tests/mount/mapping.h"

namespace nosigbus::bench {

namespace {

using namespace test;

using Pass = std::function<void(std::span<const std::byte> bytes)>;

struct Kind {
    std::string name;
    std::size_t bytes;  // that a pass comes to: whole pages, also where it loads one byte of each
    Pass pass;
};

std::vector<Kind> kinds(const BigFile& file) {
    const auto full_read = [&file](std::span<const std::byte> bytes) {
        if (sum_of_words(bytes) != file.sum())
            throw std::runtime_error("a mapping shows other bytes than the file has");
    };
    return {
        {"one byte of each page, in order", file.size(), load_each_page},
        {"every byte, in order", file.size(), full_read},
        {fmt::format("one byte of {} pages, at random", file.random_pages().size()), file.random_pages().size() * page,
         [&file](std::span<const std::byte> bytes) { load_pages(bytes, file.random_pages()); }},
    };
}

// The pages that were in memory when a cold pass began, at most: if not 0, it was not cold. Those of the raw file
// always are.
class Warmth {
  public:
    explicit Warmth(std::vector<std::string> names) : names_(std::move(names)), pages_(names_.size()) {}

    void note(std::size_t contender, std::size_t pages) { pages_[contender] = std::max(pages_[contender], pages); }

    void print(std::size_t of) const {
        fmt::print("In memory before a cold pass:");
        for (std::size_t contender = 0; contender < names_.size(); ++contender) {
            fmt::print("{} {} {:.1f} %", contender == 0 ? "" : ",", names_[contender],
                       100.0 * static_cast<double>(pages_[contender]) / static_cast<double>(of));
        }
        fmt::print(".\n");
    }

  private:
    std::vector<std::string> names_;
    std::vector<std::size_t> pages_;
};

}  // namespace

void measure_mapped(Form form) {
    Contenders contenders = Contenders::all();
    const BigFile file(contenders, form);
    std::vector<Comparison::Work> works;
    for (const Kind& kind : kinds(file)) {
        works.push_back({kind.name + ", cold", gib_per_second(kind.bytes)});
        works.push_back({kind.name + ", warm", gib_per_second(kind.bytes)});
    }
    Comparison comparison(file.size_text() + ", GiB/s", contenders.names(), works);
    Warmth warmth(contenders.names());
    const CpuCaches caches(form);
    const auto rounds = choose<std::size_t>(form, 5, 2);
    std::size_t work = 0;
    for (const Kind& kind : kinds(file)) {
        contenders.take_turns(rounds, [&](std::size_t contender) {
            const UniqueFd view = file.open_cold(contender);
            const Mapping mapping(view.get(), file.size());
            const std::span bytes(mapping.data(), mapping.size());
            warmth.note(contender, resident_pages(bytes));
            for (const std::size_t cold_or_warm : {work, work + 1}) {
                caches.forget();
                comparison.add(cold_or_warm, contender, time_of([&] { kind.pass(bytes); }));
            }
        });
        work += 2;
    }
    contenders.end();
    comparison.print();
    fmt::print(
        "\nMedians of {} rounds; in parentheses how many times as long as raw. Cold is a new mapping of a file of\n"
        "which nothing is in the page cache (raw: of a file in memory, nothing of it mapped), warm the same again\n"
        "in the same mapping; the CPU caches hold nothing of it either time. A page counts as {} bytes where one\n"
        "byte of it is loaded.\n",
        rounds, page);
    warmth.print(file.size() / page);
}

}  // namespace nosigbus::bench
