// What a program has that must read a frame whose owner may truncate it: nosigbus, and without nosigbus.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
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
#include "tests/bench/sigbus_handler.h"
#include "tests/bench/table.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"

namespace nosigbus::bench {

namespace {

using namespace test;

struct Results {
    Samples plain;
    Samples handler;
    Samples handler_when_truncated;
    Samples copy;
    struct View {
        std::string name;
        Samples unchanged;
        Samples barrier_one_percent;
        Samples barrier_everything;
    };
    std::vector<View> views;
};

// The time of one read of the frame, which comes to the right sum.
Seconds time_of_read(const Frame& frame, const CpuCaches& caches, const std::function<std::uint64_t()>& read) {
    std::uint64_t sum = 0;
    caches.forget();
    const Seconds time = time_of([&] { sum = read(); });
    frame.check(sum);
    return time;
}

// A frame that is truncated after all its pages were loaded: every page faults.
Seconds time_when_truncated(const std::string& path, std::size_t size, const CpuCaches& caches) {
    const UniqueFd file = make_file(path);
    resize(file.get(), size);
    const Mapping mapping(file.get(), size);
    load_each_page({mapping.data(), size});
    resize(file.get(), 0);
    SigbusHandler::SumAndFaults result{};
    caches.forget();
    const Seconds time = time_of([&] { result = SigbusHandler::sum_over_zeros({mapping.data(), size}); });
    if (result.sum != 0 || result.faults != size / page) throw std::runtime_error("not every page raised SIGBUS");
    must(::unlink(path.c_str()), "unlink");
    return time;
}

std::uint64_t read_behind_barrier(const Frame& frame) {
    must(::fsync(frame.view_fd()), "fsync");
    return sum_of_words(frame.view());
}

void measure_view(Frame& frame, const CpuCaches& caches, Results::View& results) {
    results.unchanged.add(time_of_read(frame, caches, [&] { return sum_of_words(frame.view()); }));
    frame.change_one_percent();
    results.barrier_one_percent.add(time_of_read(frame, caches, [&] { return read_behind_barrier(frame); }));
    frame.change_everything();
    results.barrier_everything.add(time_of_read(frame, caches, [&] { return read_behind_barrier(frame); }));
}

void measure_round(const Contenders& contenders, const Frames& frames, Buffer& buffer, const CpuCaches& caches,
                   Results& results) {
    const Frame& frame = *frames.front();
    results.plain.add(time_of_read(frame, caches, [&] { return sum_of_words(frame.raw()); }));
    {
        const SigbusHandler installed;
        results.handler.add(
            time_of_read(frame, caches, [&] { return SigbusHandler::sum_or_nothing(frame.raw()).value(); }));
        results.handler_when_truncated.add(
            time_when_truncated(contenders.path(Contenders::raw, "truncated"), frame.raw().size(), caches));
    }
    results.copy.add(time_of_read(frame, caches, [&] {
        buffer.fill(frame.raw_fd());
        return sum_of_words(buffer.bytes());
    }));
    for (std::size_t i = 0; i < frames.size(); ++i) measure_view(*frames[i], caches, results.views[i]);
}

void print(const Results& results, Form form) {
    const double plain = results.plain.median().count();
    Table table({"one frame of " + frame_size_text(form), "ms", "ratio"});
    const auto row = [&](const std::string& name, const Samples& samples) {
        const double median = samples.median().count();
        table.add({name, in_ms(median), times(median, plain)});
    };
    row("raw mapping, unprotected", results.plain);
    row("raw mapping, SIGBUS handler and sigsetjmp", results.handler);
    row("raw mapping, every page raises SIGBUS, handler maps zeros", results.handler_when_truncated);
    row("pread into a buffer, read of that", results.copy);
    for (const Results::View& view : results.views) {
        row(view.name + ": mapping of an unchanged view", view.unchanged);
        row(view.name + ": barrier, then mapping, 1 % of the pages changed", view.barrier_one_percent);
        row(view.name + ": barrier, then mapping, 100 % of the pages changed", view.barrier_everything);
    }
    table.print();
    const auto faults = static_cast<double>(frame_size(form)) / static_cast<double>(page);
    fmt::print(
        "\nMedians of {} rounds; ratio to the unprotected read. Reading is to sum all words; the CPU caches hold\n"
        "none of them when the clock starts. A SIGBUS that is handled by mapping a page of zeros costs {} µs.\n",
        results.plain.count(), in_us(results.handler_when_truncated.median().count() / faults));
}

}  // namespace

void measure_alternatives(Form form) {
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
        Buffer buffer(size);
        for (std::size_t round = 0; round < choose<std::size_t>(form, 30, 3); ++round)
            measure_round(contenders, frames, buffer, caches, results);
    }
    contenders.end();
    print(results, form);
}

}  // namespace nosigbus::bench
