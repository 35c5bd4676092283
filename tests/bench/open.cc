// What it costs to open a view, which copies the file where the view has a shadow, and what is gained by that.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tests/bench/comparison.h"
#include "tests/bench/contenders.h"
#include "tests/bench/cpu_caches.h"
#include "tests/bench/groups.h"
#include "tests/bench/memory.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"

namespace nosigbus::bench {

namespace {

using namespace test;

std::vector<std::size_t> sizes(Form form) {
    if (form == Form::quick) return {4 * KiB, MiB};
    return {4 * KiB, 256 * KiB, MiB, 4 * MiB, 16 * MiB, 64 * MiB, 256 * MiB};
}

std::string text_of(std::size_t size) {
    return size < MiB ? fmt::format("{} KiB", size / KiB) : fmt::format("{} MiB", size / MiB);
}

// Small files are opened one after the other, each once.
std::size_t files_of(std::size_t size, Form form) {
    return std::clamp(choose(form, 64 * MiB, 2 * MiB) / size, std::size_t{1}, choose<std::size_t>(form, 64, 4));
}

struct Use {
    std::string name;
    std::function<void(int fd, std::size_t size)> use;
};

const std::vector<Use>& uses() {
    const auto map = [](auto load) {
        return [load](int fd, std::size_t size) {
            const Mapping mapping(fd, size);
            load(std::span<const std::byte>(mapping.data(), size));
        };
    };
    static const std::vector<Use> all = {
        {"open and close", [](int, std::size_t) {}},
        {"open, map, load the first page", map([](auto bytes) { load_each_page(bytes.first(page)); })},
        {"open, map, load every byte", map([](auto bytes) { sum_of_words(bytes); })},
        {"open, map, load every byte ten times", map([](auto bytes) {
             for (int i = 0; i < 10; ++i) sum_of_words(bytes);
         })},
    };
    return all;
}

void make_files(const Contenders& contenders, const std::vector<std::string>& names, std::size_t size) {
    for (const std::string& name : names) {
        const UniqueFd file = make_file(contenders.path(Contenders::raw, name));
        resize(file.get(), size);
        const Mapping mapping(file.get(), size, PROT_READ | PROT_WRITE);
        store_pages({mapping.data(), size}, 0, 1, 1);
    }
}

// In all of the mounts it is the same files, whose views are gone between two contenders' turns.
void measure_size(std::size_t size, Form form, const CpuCaches& caches, std::size_t rounds) {
    Contenders contenders = Contenders::only_nosigbus();
    std::vector<std::string> names;
    for (std::size_t i = 0; i < files_of(size, form); ++i) names.push_back(fmt::format("file{}", i));
    make_files(contenders, names, size);
    for (const std::size_t contender : contenders.views()) {
        static_cast<void>(contenders.open_to_read(contender, names.front()));  // has it the engine it should have?
        contenders.come_to_rest(contender);
    }
    std::vector<Comparison::Work> works;
    for (const Use& use : uses()) works.push_back({use.name, us_per_operation(names.size())});
    Comparison comparison(text_of(size) + ", µs", contenders.names(), works);
    for (std::size_t work = 0; work < works.size(); ++work) {
        contenders.take_turns(rounds, [&](std::size_t contender) {
            std::vector<std::string> paths;
            for (const std::string& name : names) paths.push_back(contenders.path(contender, name));
            caches.forget();
            comparison.add(work, contender, time_of([&] {
                               for (const std::string& path : paths)
                                   uses()[work].use(open_file(path, O_RDONLY).get(), size);
                           }));
        });
    }
    contenders.end();
    comparison.print();
    fmt::print("\n");
}

}  // namespace

void measure_open(Form form) {
    const CpuCaches caches(form);
    const auto rounds = choose<std::size_t>(form, 7, 1);
    for (const std::size_t size : sizes(form)) measure_size(size, form, caches, rounds);
    fmt::print(
        "Medians of {} rounds; in parentheses how many times as long as raw. Each time it is the first open: a view\n"
        "has none of its pages in memory, and no shadow yet. An open that makes a shadow returns when that is like\n"
        "the file. The CPU caches hold nothing of the file when the clock starts. What the server does after the\n"
        "close is not in it.\n",
        rounds);
}

}  // namespace nosigbus::bench
