// Operations on many small files.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "tests/bench/comparison.h"
#include "tests/bench/contenders.h"
#include "tests/bench/groups.h"
#include "tests/mount/files.h"

namespace nosigbus::bench {

namespace {

using namespace test;

using Operation = void (*)(const char* path);

void create(const char* path) {
    must(::close(must(::open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), "create")), "close");
}

void ask_status(const char* path) {
    struct stat found {};
    must(::stat(path, &found), "stat");
}

void open_and_close(const char* path) {
    must(::close(must(::open(path, O_RDONLY | O_CLOEXEC), "open")), "close");
}

void remove(const char* path) {
    must(::unlink(path), "unlink");
}

struct Step {
    std::string name;
    Operation operation;
};

// On files of the contender's own making, one step after the other.
const std::array<Step, 4>& own_steps() {
    static const std::array<Step, 4> steps = {{{"create and close", create},
                                               {"stat, just made", ask_status},
                                               {"open and close, just made", open_and_close},
                                               {"unlink", remove}}};
    return steps;
}

// Each on files that were made behind the contender's back: it has never heard their names.
const std::array<Step, 2>& first_steps() {
    static const std::array<Step, 2> steps = {
        {{"stat, first time", ask_status}, {"open and close, first time", open_and_close}}};
    return steps;
}

void do_with_each(Operation operation, const std::vector<std::string>& paths) {
    for (const std::string& path : paths) operation(path.c_str());
}

// FUSE servers may let the kernel remember names and attributes for a second. A few files at a time, so that what was
// just made is remembered however slow the machine is.
constexpr std::size_t at_a_time = 500;

class Files {
  public:
    Files(const Contenders& contenders, std::size_t count) : contenders_(contenders), count_(count) {}

    // New names at each call, for `count` files.
    std::vector<std::string> new_names(std::size_t count) {
        std::vector<std::string> names;
        for (std::size_t i = 0; i < count; ++i) names.push_back(fmt::format("file{:06}", next_++));
        return names;
    }

    [[nodiscard]] std::vector<std::string> paths(std::size_t contender, const std::vector<std::string>& names) const {
        std::vector<std::string> paths;
        for (const std::string& name : names) paths.push_back(contenders_.path(contender, name));
        return paths;
    }

    void measure_own(std::size_t contender, Comparison& comparison) {
        std::array<Seconds, 4> times{};
        for (std::size_t done = 0; done < count_; done += at_a_time) {
            const auto some = paths(contender, new_names(std::min(at_a_time, count_ - done)));
            for (std::size_t step = 0; step < times.size(); ++step)
                times[step] += time_of([&] { do_with_each(own_steps()[step].operation, some); });
        }
        for (std::size_t step = 0; step < times.size(); ++step) comparison.add(step, contender, times[step]);
    }

    void measure_first(std::size_t contender, Comparison& comparison) {
        for (std::size_t step = 0; step < first_steps().size(); ++step) {
            const auto names = new_names(count_);
            const auto as_seen = paths(contender, names);
            do_with_each(create, paths(Contenders::raw, names));
            comparison.add(own_steps().size() + step, contender,
                           time_of([&] { do_with_each(first_steps()[step].operation, as_seen); }));
            // Through the mount: nosigbus has a descriptor for each file that the kernel knows, and the kernel would
            // not soon forget those that go behind its back.
            do_with_each(remove, as_seen);
        }
    }

  private:
    const Contenders& contenders_;
    std::size_t count_;
    std::size_t next_ = 0;
};

}  // namespace

void measure_metadata(Form form) {
    const auto count = choose<std::size_t>(form, 10000, 200);
    const auto rounds = choose<std::size_t>(form, 5, 2);
    Contenders contenders = Contenders::all();
    Files files(contenders, count);
    std::vector<Comparison::Work> works;
    for (const Step& step : own_steps()) works.push_back({step.name, us_per_operation(count)});
    for (const Step& step : first_steps()) works.push_back({step.name, us_per_operation(count)});
    Comparison comparison(fmt::format("{} files, µs per operation", count), contenders.names(), works);
    contenders.take_turns(rounds, [&](std::size_t contender) {
        files.measure_own(contender, comparison);
        files.measure_first(contender, comparison);
    });
    contenders.end();
    comparison.print();
    fmt::print(
        "\nMedians of {} rounds; in parentheses how many times as long as raw. One operation after the other. What\n"
        "was just made through a mount may be remembered by the kernel: by default for a second with bindfs and\n"
        "mergerfs. No mount remembers what was made in the source and is asked for the first time.\n",
        rounds);
}

}  // namespace nosigbus::bench
