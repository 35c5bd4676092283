// The frame loop of a compositor: a client draws into a buffer and commits, and for each commit the compositor makes
// what it reads current, and reads all of it.
#include <fmt/format.h>
#include <nosigbus.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/bench/contenders.h"
#include "tests/bench/frame.h"
#include "tests/bench/frame_client.h"
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

constexpr std::array<std::size_t, 3> percents = {1, 10, 100};

// One way to read the frame.
struct Way {
    std::string name;
    std::function<void(const Damage& damage)> make_current;
    std::function<std::uint64_t()> read;
    std::array<Samples, percents.size()> samples{};
};

// The view of the buffer by one engine.
struct View {
    View(const Contenders& contenders, std::size_t contender, const std::string& name, std::size_t size)
        : file(contenders.open_to_read(contender, name)), mapping(file.get(), size) {}
    UniqueFd file;
    Mapping mapping;

    [[nodiscard]] std::uint64_t sum() const { return sum_of_words({mapping.data(), mapping.size()}); }
};

class Compositor {
  public:
    // The buffer of the client is the file `name`.
    Compositor(const Contenders& contenders, const std::string& name, std::size_t size)
        : file_(open_file(contenders.path(Contenders::raw, name), O_RDONLY)),
          mapping_(file_.get(), size),
          copy_(size),
          copy_of_damaged_(size) {
        const int fd = file_.get();
        ways_.push_back({"raw mapping, SIGBUS handler", [](const Damage&) {},
                         [this] {
                             return SigbusHandler::sum_or_nothing({mapping_.data(), mapping_.size()}).value();
                         }});
        ways_.push_back({"pread of everything into a copy", [this, fd](const Damage&) { copy_.fill(fd); },
                         [this] { return sum_of_words(copy_.bytes()); }});
        ways_.push_back({"pread of the damage into a copy",
                         [this, fd](const Damage& damage) { copy_of_damaged_.fill(fd, damage.offset, damage.length); },
                         [this] { return sum_of_words(copy_of_damaged_.bytes()); }});
        for (const std::size_t contender : contenders.views()) {
            views_.push_back(std::make_unique<View>(contenders, contender, name, size));
            add_ways(contenders.names()[contender], *views_.back());
        }
    }

    [[nodiscard]] std::vector<Way>& ways() { return ways_; }

  private:
    void add_ways(const std::string& name, const View& view) {
        ways_.push_back({name + ": barrier of everything",
                         [&view](const Damage&) { must(::fsync(view.file.get()), "fsync"); },
                         [&view] { return view.sum(); }});
        ways_.push_back({name + ": barrier of the damage",
                         [&view](const Damage& damage) {
                             must(nosigbus_sync(view.file.get(), static_cast<off_t>(damage.offset),
                                                static_cast<off_t>(damage.length)),
                                  "nosigbus_sync");
                         },
                         [&view] { return view.sum(); }});
    }

    const SigbusHandler installed_;
    UniqueFd file_;
    Mapping mapping_;
    Buffer copy_;
    Buffer copy_of_damaged_;
    std::vector<std::unique_ptr<View>> views_;
    std::vector<Way> ways_;
};

void check(std::uint64_t sum, const Commit& commit) {
    if (sum != commit.sum) throw std::runtime_error("a frame shows something else than the client has drawn");
}

// The first frame is not measured: what has been drawn since the last turn is not what it has damaged.
void take_turn(FrameClient& client, Way& way, std::size_t frames, std::size_t size, std::size_t percent,
               Samples& samples) {
    client.start(frames + 1, std::max(size * percent / 100 / page, std::size_t{1}) * page);
    const Commit first = client.wait_for_commit();
    way.make_current({0, size});
    check(way.read(), first);
    client.release();
    for (std::size_t frame = 0; frame < frames; ++frame) {
        const Commit commit = client.wait_for_commit();
        way.make_current(commit.damage);
        const std::uint64_t sum = way.read();
        samples.add(Clock::now() - commit.when);
        check(sum, commit);
        client.release();
    }
}

void print(const std::vector<Way>& ways, Form form) {
    std::vector<std::string> head = {"a frame of " + frame_size_text(form)};
    for (const std::size_t percent : percents)
        head.insert(head.end(), {fmt::format("{} % damaged, ms", percent), "p99"});
    Table table(std::move(head));
    for (const Way& way : ways) {
        std::vector<std::string> row = {way.name};
        for (const Samples& samples : way.samples) {
            row.push_back(in_ms(samples.median().count()));
            row.push_back(in_ms(samples.percentile(99).count()));
        }
        table.add(std::move(row));
    }
    table.print();
    fmt::print(
        "\nMedian and 99th percentile of {} frames each, from the commit to the end of the read, which sums all\n"
        "words. What is damaged are lines one below the other, further down with each frame: the client, a process\n"
        "of its own, stores into all of their words through a mapping, then sleeps until it commits, {} times a\n"
        "second, by a message that wakes the compositor. Where the frame before is not released in time it commits\n"
        "later, by whole periods. Nothing is done about the CPU caches.\n",
        ways.front().samples.front().count(), FrameClient::commits_per_second);
}

}  // namespace

void measure_frames(Form form) {
    constexpr const char* name = "buffer";
    const auto turns = choose<std::size_t>(form, 5, 1);
    const auto frames = choose<std::size_t>(form, 2 * FrameClient::commits_per_second, 1);
    const std::size_t size = frame_size(form);
    Contenders contenders = Contenders::only_nosigbus();
    {
        const UniqueFd file = make_file(contenders.path(Contenders::raw, name));
        resize(file.get(), size);
        FrameClient client(file.get(), size);  // before there are views, which it would have, too
        Compositor compositor(contenders, name, size);
        for (std::size_t turn = 0; turn < turns; ++turn) {
            for (std::size_t i = 0; i < percents.size(); ++i) {
                for (Way& way : compositor.ways()) take_turn(client, way, frames, size, percents[i], way.samples[i]);
            }
        }
        print(compositor.ways(), form);
    }
    contenders.end();
}

}  // namespace nosigbus::bench
