// Clients of every kind whose server is killed again and again, at any instruction: they notice nothing but a delay.
// NOSIGBUS_STORM_SECONDS says for how long; the default is short, 60 is the full form. NOSIGBUS_STORM_SEED repeats the
// intervals of a storm.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <vector>

#include "tests/mount/counters.h"
#include "tests/mount/footprint.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/storm.h"
#include "tests/mount/storm_clients.h"
#include "tests/mount/storm_lives.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;
using namespace std::chrono_literals;

namespace {

constexpr std::chrono::seconds short_form{6};
constexpr std::chrono::seconds short_form_kept{3};
constexpr std::chrono::seconds full_form{60};
constexpr unsigned kills_of_full_form = 1000;

// What may be left of a storm. Descriptors count twice, since worker and supervisor share their table; memory is that
// of request threads, with a buffer of 1 MiB each.
constexpr std::size_t descriptor_slack = 16;
constexpr std::size_t watch_slack = 2;
constexpr std::size_t memory_slack = 32 * MiB;

struct Role {
    const char* name;
    StormLife life;
    unsigned clients;
};

constexpr Role roles[] = {
    {"loads", load_everywhere, 2},
    {"reads", read_everywhere, 1},
    {"generations", follow_generations, 1},
    {"cuts", follow_cuts, 2},
    {"changes", wait_for_changes, 1},
    {"writes", write_everywhere, 1},
    {"appends", append_records, 2},
    {"stores", store_everywhere, 1},
    {"growth", outgrow_views, 1},
    {"nameless files", use_nameless_files, 1},
    {"names", change_names, 2},
    {"listings", list_names, 1},
    {"looks", look_around, 1},
};

constexpr std::size_t kinds_of_calls = 39;

// Kinds of calls that no client has made with success. Attributes are left out: not every tmpfs has them.
std::string missing(const std::map<std::string, Calls>& calls) {
    std::string kinds;
    for (const auto& [kind, some] : calls) {
        if (some.count() == some.refused() && kind.find("xattr") == std::string::npos) kinds += kind + "; ";
    }
    if (calls.size() < kinds_of_calls) kinds += fmt::format("and {} more", kinds_of_calls - calls.size());
    return kinds;
}

// Kills the worker at random moments until the end.
class Killer {
  public:
    // `longest` is the longest that it lets one live.
    Killer(pid_t supervisor, unsigned seed, std::chrono::microseconds longest)
        : longest_(longest), thread_([this, supervisor, seed] { rage(supervisor, seed); }) {}
    Killer(const Killer&) = delete;
    Killer& operator=(const Killer&) = delete;
    ~Killer() { stop(); }

    void stop() {
        over_ = true;
        if (thread_.joinable()) thread_.join();
    }

    [[nodiscard]] unsigned kills() const { return kills_; }
    [[nodiscard]] unsigned misses() const { return misses_; }  // moments when there was no worker
    [[nodiscard]] bool has_failed() const { return failed_; }

    // When it has stopped: whom it killed, in this order, and why it stopped before.
    [[nodiscard]] const std::vector<pid_t>& killed() const { return killed_; }
    [[nodiscard]] const std::string& failure() const { return failure_; }

  private:
    void rage(pid_t supervisor, unsigned seed) {
        Random random(seed);
        try {
            for (auto next = std::chrono::steady_clock::now(); !over_;) {
                next = std::max(next, std::chrono::steady_clock::now() - 5ms) + 5ms;
                next += std::chrono::microseconds(below(random, static_cast<std::size_t>(longest_.count())));
                std::this_thread::sleep_until(next);
                if (const pid_t killed = kill_worker(supervisor); killed != 0) {
                    killed_.push_back(killed);
                    ++kills_;
                } else {
                    ++misses_;
                }
            }
        } catch (const std::exception& failure) {
            failure_ = failure.what();
            failed_ = true;
        }
    }

    const std::chrono::microseconds longest_;
    std::atomic<bool> over_ = false;
    std::atomic<unsigned> kills_ = 0;
    std::atomic<unsigned> misses_ = 0;
    std::atomic<bool> failed_ = false;
    std::vector<pid_t> killed_;
    std::string failure_;
    std::thread thread_;
};

// What was there before the storm, and is not touched until it is over.
class Bystander {
  public:
    explicit Bystander(const ViewMount& mount)
        : raw_(make_file(mount.raw("bystander"), content_)),
          view_(open_file(mount.view("bystander"), O_RDWR)),
          mapping_(view_.get(), MiB),
          stores_(view_.get(), MiB, PROT_READ | PROT_WRITE) {
        must(::mkdir(mount.view("directory").c_str(), 0755), "mkdir");
        make_file(mount.raw("directory/file"), "inside");
        directory_ = open_file(mount.view("directory"), O_RDONLY | O_DIRECTORY);
        must(::unlink(mount.view("bystander").c_str()), "unlink");
        CHECK(stores_.store(100, "stored before") == 13);
    }

    void check() const {
        std::string wanted = content_;
        CHECK(stores_.sync() == 0);
        wanted.replace(100, 13, "stored before");
        CHECK(difference(read_all(raw_.get()), wanted) == "");
        CHECK(difference(mapping_.bytes(), padded(wanted, MiB)) == "");
        CHECK(difference(read_all(view_.get()), wanted) == "");
        const UniqueFd inside(::openat(directory_.get(), "file", O_RDONLY));
        CHECK(read_all(inside.get()) == "inside");
        // And it is still followed.
        resize(raw_.get(), page);
        CHECK(eventually([&] { return mapping_.bytes() == padded(wanted.substr(0, page), MiB); }));
    }

  private:
    std::string content_ = pattern(0, 20 * page);
    UniqueFd raw_;
    UniqueFd view_;
    Mapping mapping_;  // not loaded from before the end
    Mapping stores_;
    UniqueFd directory_;
};

std::size_t inotify_watches(pid_t pid) {
    std::size_t count = 0;
    for (const auto& descriptor : std::filesystem::directory_iterator(fmt::format("/proc/{}/fdinfo", pid))) {
        std::ifstream file(descriptor.path());
        for (std::string line; std::getline(file, line);) count += line.starts_with("inotify wd:") ? 1 : 0;
    }
    return count;
}

// What its descriptors of files are called, to find out who has left one behind.
std::string open_names(pid_t pid) {
    std::string names;
    for (const auto& descriptor : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid))) {
        std::error_code error;
        const std::string name = std::filesystem::read_symlink(descriptor.path(), error).string();
        std::ifstream info(fmt::format("/proc/{}/fdinfo/{}", pid, descriptor.path().filename().string()));
        std::string flags;
        for (std::string line; std::getline(info, line);) {
            if (line.starts_with("flags:")) flags = line.substr(6);
        }
        if (name.find("/source") != std::string::npos) names += fmt::format("{} {}\n", name, flags);
    }
    return names;
}

void forget_all_names() {
    std::ofstream("/proc/sys/vm/drop_caches") << 2 << std::flush;
}

unsigned storm_seed() {
    const char* seed = std::getenv("NOSIGBUS_STORM_SEED");
    return seed != nullptr ? static_cast<unsigned>(std::strtoul(seed, nullptr, 10)) : std::random_device{}();
}

std::string table(const std::map<std::string, Calls>& calls) {
    const auto milliseconds = [](std::chrono::microseconds duration) {
        return static_cast<double>(duration.count()) / 1000;
    };
    std::string lines =
        fmt::format("{:20} {:>9} {:>9} {:>10} {:>10} {:>10}\n", "", "calls", "refused", "median", "99.9 %", "longest");
    for (const auto& [kind, some] : calls) {
        lines += fmt::format("{:20} {:9} {:9} {:7.2f} ms {:7.2f} ms {:7.2f} ms\n", kind, some.count(), some.refused(),
                             milliseconds(some.quantile(0.5)), milliseconds(some.quantile(0.999)),
                             milliseconds(some.longest()));
    }
    return lines;
}

// How long a worker may live at most: on a slow machine longer, for it has to get somewhere.
std::chrono::microseconds longest_life(const ViewMount& mount) {
    kill_worker(mount.pid());
    const auto start = std::chrono::steady_clock::now();
    status(mount.mountpoint());
    const auto restart = std::chrono::steady_clock::now() - start;
    return std::max<std::chrono::microseconds>(105ms,
                                               std::chrono::duration_cast<std::chrono::microseconds>(8 * restart));
}

std::size_t occurrences(const std::string& text, const std::string& of) {
    std::size_t count = 0;
    for (std::size_t at = text.find(of); at != std::string::npos; at = text.find(of, at + 1)) ++count;
    return count;
}

// The last of what the daemon said.
std::string last_words(const ViewMount& mount) {
    const std::string all = mount.errors();
    return all.substr(all.size() - std::min<std::size_t>(all.size(), 2000));
}

void kill_again_and_again(std::chrono::seconds duration, std::vector<std::string> options) {
    const bool is_full = duration >= full_form;
    const unsigned seed = storm_seed();
    options.push_back(fmt::format("max_size={}M", storm_max_size / MiB));
    const ViewMount mount(options);
    const auto longest = longest_life(mount);
    const std::uint64_t restarts_before = counters(mount)["restarts"];
    MESSAGE("seed ", seed, ", supervisor ", mount.pid(), ", worker ", worker_of(mount.pid()), ", killed after ",
            longest.count() / 1000, " ms at most");
    const std::size_t descriptors = open_descriptors(mount.pid());
    const std::size_t watches = inotify_watches(mount.pid());
    const std::size_t memory = resident_memory(mount.pid());
    std::optional<Bystander> bystander(mount);
    Clients clients;
    for (const Role& role : roles) {
        for (unsigned i = 0; i < role.clients; ++i) {
            clients.start(fmt::format("{} {}", role.name, i), [&, i](Diary& diary) { role.life(diary, mount, i); });
        }
    }
    const auto start = std::chrono::steady_clock::now();
    Killer killer(mount.pid(), seed, longest);
    // Whoever is a few kills or kinds of calls short goes on until there are enough.
    eventually(
        [&] {
            if (clients.complain() || killer.has_failed()) return true;
            if (std::chrono::steady_clock::now() - start < duration) return false;
            return (!is_full || killer.kills() >= kills_of_full_form) && missing(clients.calls()).empty();
        },
        duration * 3 / 2 + 6 * patience);
    killer.stop();

    const auto complaints = clients.end();
    for (const std::string& complaint : complaints) FAIL_CHECK(complaint);
    if (!complaints.empty()) MESSAGE("the daemon's last words:\n", last_words(mount));
    const auto calls = clients.calls();
    MESSAGE(killer.kills(), " kills, ", killer.misses(), " times there was none to kill\n", table(calls));
    if (clients.hang()) {
        abort_connection(mounted_at(mount.mountpoint())->minor);
        FAIL("clients hang in the mount: its connection was aborted");
    }
    CHECK(killer.failure() == "");
    CHECK(killer.kills() > 0);
    if (is_full && complaints.empty()) CHECK(killer.kills() >= kills_of_full_form);
    // A worker that began before another was gone begins again, and may be killed while it ends.
    const std::uint64_t again = occurrences(mount.errors(), "a former one is gone only now");
    std::uint64_t restarts = 0;
    CHECK(eventually(
        [&] { return (restarts = counters(mount)["restarts"] - restarts_before) + again >= killer.kills(); }));
    CHECK_MESSAGE(restarts <= killer.kills(),
                  fmt::format("killed: {}\nThe daemon says:\n{}", fmt::join(killer.killed(), " "), mount.errors()));
    if (complaints.empty()) CHECK(missing(calls) == "");
    bystander->check();

    bystander.reset();
    // What was answered and is not yet closed or forgotten takes its time; what remains after that is lost.
    const auto all_is_gone = [&] {
        forget_all_names();
        return open_descriptors(mount.pid()) <= descriptors && inotify_watches(mount.pid()) <= watches;
    };
    eventually(all_is_gone);
    CHECK(open_descriptors(mount.pid()) <= descriptors + descriptor_slack);
    CHECK(inotify_watches(mount.pid()) <= watches + watch_slack);
    if (memory_is_ours()) CHECK(resident_memory(mount.pid()) < memory + memory_slack);
    MESSAGE(descriptors, " descriptors, then ", open_descriptors(mount.pid()), "; ", watches, " watches, then ",
            inotify_watches(mount.pid()), "; memory ", memory / KiB, " KiB, then ", resident_memory(mount.pid()) / KiB,
            " KiB\n", open_names(mount.pid()));
}

}  // namespace

TEST_SUITE_BEGIN("kill-storm");

TEST_CASE("clients whose server is killed all the time notice nothing but a delay, and nothing is left behind") {
    kill_again_and_again(storm_duration(short_form), {});
}

// On a kernel that does not ask again it is the same as the first.
TEST_CASE("nor do they where the kernel does not ask again, and requests are kept until they are answered") {
    kill_again_and_again(storm_duration(short_form_kept), {"keep_requests"});
}

TEST_SUITE_END();
