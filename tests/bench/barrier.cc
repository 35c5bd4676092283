// What fsync on a view costs, and reading the view after it.
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/contenders.h"
#include "tests/bench/cpu_caches.h"
#include "tests/bench/frame.h"
#include "tests/bench/groups.h"
#include "tests/bench/memory.h"
#include "tests/bench/samples.h"
#include "tests/bench/table.h"
#include "tests/mount/files.h"

namespace nosigbus::bench {

namespace {

using namespace test;

struct Results {
    struct Barrier {
        Samples alone;
        Samples with_read;
    };
    Samples compared;         // two buffers, by memcmp
    Samples copied;           // pread into a buffer
    Samples copied_and_read;  // and a read of the buffer
    struct View {
        std::string name;
        Barrier unchanged;
        Barrier one_percent;
        Barrier everything;
    };
    std::vector<View> views;
};

void measure_barrier_once(const Frame& frame, const CpuCaches& caches, Results::Barrier& results) {
    std::uint64_t sum = 0;
    caches.forget();
    const auto begin = Clock::now();
    must(::fsync(frame.view_fd()), "fsync");
    const auto between = Clock::now();
    sum = sum_of_words(frame.view());
    const auto end = Clock::now();
    frame.check(sum);
    results.alone.add(between - begin);
    results.with_read.add(end - begin);
}

void measure_copies(const Frame& frame, Buffer& buffer, const CpuCaches& caches, Results& results) {
    std::uint64_t sum = 0;
    caches.forget();
    const auto begin = Clock::now();
    buffer.fill(frame.raw_fd());
    const auto between = Clock::now();
    sum = sum_of_words(buffer.bytes());
    const auto end = Clock::now();
    frame.check(sum);
    results.copied.add(between - begin);
    results.copied_and_read.add(end - begin);
}

void measure_comparison(Buffer& left, Buffer& right, const CpuCaches& caches, Samples& results) {
    // Through a pointer the compiler knows nothing of: it may not do without the call.
    static int (*volatile const compare)(const void*, const void*, std::size_t) = std::memcmp;
    int difference = 1;
    caches.forget();
    results.add(time_of([&] { difference = compare(left.bytes().data(), right.bytes().data(), left.bytes().size()); }));
    if (difference != 0) throw std::logic_error("two buffers differ that should not");
}

void measure_round(const Frames& frames, std::array<Buffer, 3>& buffers, const CpuCaches& caches, Results& results) {
    measure_comparison(buffers[0], buffers[1], caches, results.compared);
    measure_copies(*frames.front(), buffers[2], caches, results);
    for (std::size_t i = 0; i < frames.size(); ++i) {
        Frame& frame = *frames[i];
        Results::View& view = results.views[i];
        measure_barrier_once(frame, caches, view.unchanged);
        frame.change_one_percent();
        measure_barrier_once(frame, caches, view.one_percent);
        frame.change_everything();
        measure_barrier_once(frame, caches, view.everything);
    }
}

void print(const Results& results, Form form) {
    const double memcmp_time = results.compared.median().count();
    const std::string size = frame_size_text(form);
    Table table({"work on " + size, "ms", "ratio to memcmp"});
    const auto row = [&](const std::string& name, const Samples& samples) {
        const double median = samples.median().count();
        table.add({name, in_ms(median), times(median, memcmp_time)});
    };
    row("memcmp of two buffers", results.compared);
    row("pread of the raw file into a buffer", results.copied);
    row("pread of the raw file into a buffer, full read of that", results.copied_and_read);
    const auto rows = [&](const std::string& view, const std::string& changed, const Results::Barrier& barrier) {
        row(fmt::format("{}: barrier, {} of the pages changed", view, changed), barrier.alone);
        row(fmt::format("{}: barrier, {} of the pages changed, full read of the view", view, changed),
            barrier.with_read);
    };
    for (const Results::View& view : results.views) {
        rows(view.name, "0 %", view.unchanged);
        rows(view.name, "1 %", view.one_percent);
        rows(view.name, "100 %", view.everything);
    }
    table.print();
    fmt::print(
        "\nMedians of {} rounds. The barrier is fsync on an O_RDONLY view of which every page has been loaded.\n"
        "Pages were changed by stores through a mapping of the raw file, which raise no event. A full read sums\n"
        "all words. The CPU caches hold nothing of all this when the clock starts.\n",
        results.compared.count());
}

}  // namespace

void measure_barrier(Form form) {
    Contenders contenders = Contenders::only_nosigbus();
    const CpuCaches caches(form);
    Results results;
    {
        const std::size_t size = frame_size(form);
        const Frames frames = make_frames(contenders, size);
        for (const std::size_t contender : contenders.views()) {
            Results::View view;
            view.name = contenders.names()[contender];
            results.views.push_back(std::move(view));
        }
        std::array<Buffer, 3> buffers = {Buffer(size), Buffer(size), Buffer(size)};
        for (std::size_t round = 0; round < choose<std::size_t>(form, 30, 3); ++round)
            measure_round(frames, buffers, caches, results);
    }
    contenders.end();
    print(results, form);
}

}  // namespace nosigbus::bench
