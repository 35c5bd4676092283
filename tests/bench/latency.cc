// How long it takes until a load from a mapping shows what happened to the file.
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/bench/contenders.h"
#include "tests/bench/groups.h"
#include "tests/bench/memory.h"
#include "tests/bench/samples.h"
#include "tests/bench/table.h"
#include "tests/bench/writer.h"
#include "tests/mount/eventually.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"

namespace nosigbus::bench {

namespace {

using namespace test;

struct Size {
    std::size_t bytes;
    std::string name;
    std::size_t samples;
};

std::vector<Size> sizes(Form form) {
    if (form == Form::quick) return {{16 * KiB, "16 KiB", 10}, {MiB, "1 MiB", 5}, {4 * MiB, "4 MiB", 2}};
    return {{16 * KiB, "16 KiB", 2000}, {MiB, "1 MiB", 500}, {64 * MiB, "64 MiB", 100}};
}

struct Case {
    Change change;
    bool one_page;
    std::string name;
};

const std::vector<Case>& cases() {
    static const std::vector<Case> all = {
        {Change::truncate, false, "truncate to 0"}, {Change::punch, false, "punch everything"},
        {Change::write, false, "write everything"}, {Change::punch, true, "punch one page"},
        {Change::write, true, "write one page"},
    };
    return all;
}

// A file, its writer, and the mapping of a reader: of the raw file, or of its view. Between two samples every page of
// the mapping has been loaded, and nothing is on its way any more.
class Scene {
  public:
    // With a file of its own for each contender: nosigbus would otherwise work while another is measured.
    Scene(const Contenders& contenders, std::size_t contender, std::size_t size)
        : Scene(contenders, contender, fmt::format("file{}", contender), size) {}

    Scene(const Contenders& contenders, std::size_t contender, const std::string& name, std::size_t size)
        : file_(make_file(contenders.path(Contenders::raw, name), std::string(size, static_cast<char>(Writer::usual)))),
          writer_(file_.get(), size),
          mapped_(contenders.open_to_read(contender, name)),
          mapping_(mapped_.get(), size) {
        settle();
    }

    // From right before the system call to the load that shows what it did.
    Seconds sample(const Case& now) {
        const std::size_t length = now.one_page ? page : mapping_.size();
        const std::size_t offset = now.one_page ? mapping_.size() / 2 / page * page : 0;
        const std::byte value = now.change == Change::write ? Writer::fresh : std::byte{0};
        const auto deadline = Clock::now() + patience;
        writer_.start(now.change, offset, length);
        const auto seen = spin_until(mapping_.data() + offset + length - 1, value, deadline);
        if (!seen) throw std::runtime_error(now.name + ": never became visible");
        const auto begin = writer_.wait();
        // Every page is loaded as it is now: otherwise one of them could show the restored file for want of having been
        // loaded, with its own change still on its way.
        wait_until_shown(offset, length, value);
        writer_.change(Change::restore, offset, length);
        settle();
        return *seen - begin;
    }

  private:
    void wait_until_shown(std::size_t offset, std::size_t length, std::byte value) {
        const std::span part(mapping_.data() + offset, length);
        if (!eventually([&] { return every_page_shows(part, value); }))
            throw std::runtime_error("a change does not become visible in all pages");
        load_each_page({mapping_.data(), mapping_.size()});
    }

    // The page that we wait for may be refreshed long before the last page of the view, and the next change would wait
    // for the rest: hence the barrier, which returns when that is done. A refresh that comes late could still drop
    // pages in the midst of the next sample: a pause, and then all must be there still.
    void settle() {
        constexpr std::chrono::microseconds pause(200);
        const std::span all(mapping_.data(), mapping_.size());
        wait_until_shown(0, all.size(), Writer::usual);
        must(::fsync(mapped_.get()), "fsync");
        const auto settled = [&] {
            wait_until_shown(0, all.size(), Writer::usual);
            std::this_thread::sleep_for(pause);
            return resident_pages(all) == all.size() / page;
        };
        if (!eventually(settled)) throw std::runtime_error("a mapping does not come to rest");
    }

    UniqueFd file_;
    Writer writer_;
    UniqueFd mapped_;
    Mapping mapping_;
};

// Where there is no sample, the cell is empty: a truncated file cannot be loaded from without SIGBUS.
void add_row(Table& table, const Size& size, const Case& now, const std::vector<Samples>& of) {
    std::vector<std::string> row = {size.name, now.name};
    const Samples& raw = of[Contenders::raw];
    for (const Samples& samples : of) {
        row.push_back(samples.empty() ? "" : in_us(samples.median().count()));
        row.push_back(samples.empty() ? "" : in_us(samples.percentile(99).count()));
        if (&samples != &raw) row.push_back(raw.empty() ? "" : times(samples.median().count(), raw.median().count()));
    }
    row.push_back(std::to_string(size.samples));
    table.add(std::move(row));
}

std::vector<std::string> head(const Contenders& contenders) {
    std::vector<std::string> head = {"file", "change"};
    for (std::size_t contender = 0; contender < contenders.count(); ++contender) {
        head.insert(head.end(), {contenders.names()[contender] + ", µs", "p99"});
        if (contender != Contenders::raw) head.emplace_back("ratio");
    }
    head.emplace_back("samples");
    return head;
}

// In turns, a few samples each.
constexpr std::size_t turns = 10;

void measure_cases(const Contenders& contenders, const Size& size, Table& table) {
    std::vector<std::unique_ptr<Scene>> scenes;
    for (std::size_t contender = 0; contender < contenders.count(); ++contender)
        scenes.push_back(std::make_unique<Scene>(contenders, contender, size.bytes));
    for (const Case& now : cases()) {
        std::vector<Samples> samples(contenders.count());
        for (std::size_t turn = 0; turn < turns; ++turn) {
            const std::size_t count = size.samples * (turn + 1) / turns - size.samples * turn / turns;
            for (std::size_t contender = 0; contender < contenders.count(); ++contender) {
                if (contender == Contenders::raw && now.change == Change::truncate) continue;
                for (std::size_t i = 0; i < count; ++i) samples[contender].add(scenes[contender]->sample(now));
            }
        }
        add_row(table, size, now, samples);
    }
}

}  // namespace

void measure_latency(Form form) {
    std::optional<Table> table;
    for (const Size& size : sizes(form)) {
        Contenders contenders = Contenders::only_nosigbus();
        if (!table) table.emplace(head(contenders), 2);
        measure_cases(contenders, size, *table);
        contenders.end();
    }
    table->print();
    fmt::print(
        "\nMedian and 99th percentile of the time from right before the system call in one process until a load in\n"
        "another one shows the new value of the last byte that changed. The reader spins on that byte; it has\n"
        "loaded all pages before. What the system call itself takes is in it, so raw is what cannot be avoided.\n");
}

}  // namespace nosigbus::bench
