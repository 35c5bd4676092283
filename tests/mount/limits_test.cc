// Very many inodes and views, and what happens where descriptors or memory end.
// NOSIGBUS_LIMITS_FULL=1 makes it a million inodes, 100,000 views, and trees of 100,000 files, as far as the limit for
// descriptors allows; say NOSIGBUS_TEST_DEADLINE=900 then.
#include <dirent.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/utsname.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/footprint.h"
#include "tests/mount/limit.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

using Clock = std::chrono::steady_clock;

// What docs/design.md promises.
constexpr std::size_t bytes_per_inode = 256;
constexpr std::size_t bytes_per_view = 2048;
// Threads come and go, and have a buffer of 1 MiB each.
constexpr std::size_t memory_slack = 32 * MiB;
constexpr std::size_t descriptor_slack = 8;
// What the daemon keeps for itself: twice the reserve of lib/descriptor_table.cc, and some.
constexpr std::size_t kept_by_daemon = 600;

bool is_full_form() {
    return std::getenv("NOSIGBUS_LIMITS_FULL") != nullptr;
}

// As many of something that takes `each` descriptors of the daemon and one of ours as there may be.
std::size_t as_many_as_may_be(const ViewMount& mount, std::size_t wanted, std::size_t each) {
    const rlimit theirs = limit_of(mount.pid(), RLIMIT_NOFILE);
    ::setrlimit(RLIMIT_NOFILE, &theirs);  // where we may: the daemon has raised its own
    const rlim_t own = limit_of(0, RLIMIT_NOFILE).rlim_cur;
    const std::size_t count =
        static_cast<std::size_t>(std::min({rlim_t{wanted}, (theirs.rlim_cur - kept_by_daemon) / each, own - 100}));
    if (count < wanted) MESSAGE("the limit for descriptors allows for ", count, " instead of ", wanted);
    return count;
}

std::string name_of(std::size_t number) {
    return fmt::format("{}/{}", number / 1000, number % 1000);
}

// Files 0/0, 0/1, … in the source, each with its number in it.
void make_tree(const std::string& directory, std::size_t files) {
    for (std::size_t i = 0; i < files; ++i) {
        if (i % 1000 == 0) must(::mkdir(fmt::format("{}/{}", directory, i / 1000).c_str(), 0755), "mkdir");
        const UniqueFd file = open_file(fmt::format("{}/{}", directory, name_of(i)), O_WRONLY | O_CREAT | O_EXCL);
        write_at(file.get(), 0, std::to_string(i));
    }
}

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

void drop_caches() {
    std::ofstream("/proc/sys/vm/drop_caches") << 2 << std::flush;
}

// The kernel drops what nobody uses as often as it is told to, but not always all at once.
bool falls_to(std::size_t descriptors, const ViewMount& mount) {
    const auto is_low = [&] {
        drop_caches();
        return open_descriptors(mount.pid()) <= descriptors + descriptor_slack;
    };
    return eventually(is_low, std::chrono::seconds(60));
}

// FUSE_NOTIFY_PRUNE.
bool kernel_prunes() {
    utsname name{};
    ::uname(&name);
    int major = 0;
    int minor = 0;
    std::sscanf(name.release, "%d.%d", &major, &minor);  // NOLINT(cert-err34-c)
    return major > 6 || (major == 6 && minor >= 18);
}

// A view whose pages are loaded all the while, cold ones each time.
class ColdReader {
  public:
    static constexpr std::size_t length = 64 * 4096;

    explicit ColdReader(const ViewMount& mount)
        : backing_(make_file(mount.raw("cold"), pattern(0, length))),
          view_(open_file(mount.view("cold"), O_RDWR)),
          mapping_(view_.get(), 2 * length, PROT_READ | PROT_WRITE),
          thread_([this](const std::stop_token& stop) {
              while (!stop.stop_requested()) {
                  ::posix_fadvise(view_.get(), 0, 0, POSIX_FADV_DONTNEED);
                  if (mapping_.bytes() != padded(pattern(0, length), 2 * length)) ++wrong_;
                  ++rounds_;
              }
          }) {
        must(::madvise(mapping_.data(), mapping_.size(), MADV_RANDOM), "madvise");
    }

    // It has loaded all pages again since the call, and no load has ever faulted or been wrong.
    [[nodiscard]] bool goes_on() const {
        const unsigned before = rounds_;
        return eventually([&] { return rounds_ >= before + 2; }) && wrong_ == 0;
    }

    // What a change of the file comes to after the barrier; it is taken back.
    [[nodiscard]] bool barrier_works() {
        thread_.request_stop();
        thread_.join();
        write_at(backing_.get(), 10, "changed");
        const bool right = ::fsync(view_.get()) == 0 && mapping_.bytes(10, 7) == "changed";
        // What is stored is written back.
        const std::string before = pattern(10, 7);
        return right && mapping_.store(10, before) == before.size() && mapping_.sync() == 0 &&
               read_all(backing_.get()) == pattern(0, length);
    }

  private:
    UniqueFd backing_;
    UniqueFd view_;
    Mapping mapping_;
    std::atomic<unsigned> rounds_ = 0;
    std::atomic<unsigned> wrong_ = 0;
    std::jthread thread_;
};

// What open(2) gives, once: "0", and the descriptor in `kept`, or an error.
std::string open_and_keep(const std::string& path, int flags, std::vector<UniqueFd>& kept) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
    if (fd < 0) return answer(fd);
    kept.emplace_back(fd);
    return "0";
}

// How long the next load takes after the worker has been killed.
double seconds_without_worker(const ViewMount& mount, const Mapping& mapping) {
    REQUIRE(::madvise(mapping.data(), mapping.size(), MADV_DONTNEED) == 0);
    const auto start = Clock::now();
    REQUIRE(kill_worker(mount.pid()) > 0);
    CHECK(size_of(mount.mountpoint()) > 0);
    return seconds_since(start);
}

}  // namespace

TEST_SUITE_BEGIN("limits");

TEST_CASE("very many inodes are known, in bounded memory, survive the worker, and leave nothing behind") {
    const ViewMount mount({"max_size=1M"});
    const std::size_t count = as_many_as_may_be(mount, is_full_form() ? 1'000'000 : 20'000, 1);
    make_tree(mount.source(), count);
    const UniqueFd view = open_file(mount.view(name_of(0)), O_RDONLY);
    const Mapping mapping(view.get(), MiB);
    const std::size_t descriptors = open_descriptors(mount.pid());
    const std::size_t memory = resident_memory(mount.pid());
    std::vector<UniqueFd> known;  // so that the kernel does not forget them
    known.reserve(count);
    auto start = Clock::now();
    for (std::size_t i = 0; i < count; ++i) known.push_back(open_file(mount.view(name_of(i)), O_PATH));
    const double looking_up = seconds_since(start);
    CHECK(open_descriptors(mount.pid()) >= descriptors + count - 1);
    CHECK(open_descriptors(mount.pid()) <= descriptors + count + count / 1000 + 1 + descriptor_slack);
    const auto each = static_cast<double>(resident_memory(mount.pid()) - memory) / static_cast<double>(count);
    if (memory_is_ours()) CHECK(resident_memory(mount.pid()) - memory <= bytes_per_inode * count + memory_slack);

    const double away = seconds_without_worker(mount, mapping);
    CHECK(away < 10);
    CHECK(mapping.bytes(0, 2) == std::string("0\0", 2));
    CHECK(read_all(mount.view(name_of(count - 1))) == std::to_string(count - 1));
    CHECK(counters(mount)["restarts"] == 1);
    MESSAGE(count, " inodes: looked up in ", looking_up, " s, ", each, " bytes each; away for ", away,
            " s when the worker was killed");
    known.clear();
    start = Clock::now();
    CHECK(falls_to(descriptors, mount));
    MESSAGE("forgotten in ", seconds_since(start), " s");
}

TEST_CASE("very many views are open, some of them mapped, survive the worker, and leave nothing behind") {
    const ViewMount mount({"max_size=1M"});
    const std::size_t count = as_many_as_may_be(mount, is_full_form() ? 100'000 : 5'000, 3);
    make_tree(mount.source(), count);
    const std::size_t descriptors = open_descriptors(mount.pid());
    const std::size_t memory = resident_memory(mount.pid());
    std::vector<UniqueFd> views;
    std::vector<Mapping> mappings;
    views.reserve(count);
    const auto start = Clock::now();
    for (std::size_t i = 0; i < count; ++i) {
        views.push_back(open_file(mount.view(name_of(i)), O_RDONLY));
        if (i % 100 == 0) mappings.emplace_back(views.back().get(), 2 * page);
    }
    const double opening = seconds_since(start);
    const auto all_right = [&] {
        for (std::size_t i = 0; i < mappings.size(); ++i) {
            if (mappings[i].bytes() != padded(std::to_string(i * 100), 2 * page)) return false;
        }
        return true;
    };
    CHECK(all_right());
    const auto each = static_cast<double>(resident_memory(mount.pid()) - memory) / static_cast<double>(count);
    if (memory_is_ours()) CHECK(resident_memory(mount.pid()) - memory <= bytes_per_view * count + memory_slack);
    const double away = seconds_without_worker(mount, mappings.back());
    CHECK(away < 10);
    CHECK(all_right());
    // All follow their files, unasked.
    for (std::size_t i = 0; i < mappings.size(); ++i)
        must(::truncate(mount.raw(name_of(i * 100)).c_str(), 0), "truncate");
    CHECK(eventually(
        [&] { return std::ranges::all_of(mappings, [](const Mapping& each) { return each.byte(0) == 0; }); }));
    CHECK(counters(mount)["restarts"] == 1);
    CHECK(open_descriptors(mount.pid()) <= descriptors + 3 * count + count / 1000 + 1 + descriptor_slack);
    MESSAGE(count, " views, ", mappings.size(), " of them mapped: opened in ", opening, " s, ", each,
            " bytes each; away for ", away, " s when the worker was killed");
    mappings.clear();
    views.clear();
    CHECK(falls_to(descriptors, mount));
}

TEST_CASE("where descriptors end callers hear ENFILE, nobody faults, and all is well when there are some again") {
    ViewMount mount({"max_size=1M"});
    make_tree(mount.source(), 3000);
    make_file(mount.raw("known"), "abc");
    ColdReader reader(mount);
    const std::size_t descriptors = open_descriptors(mount.pid());
    std::vector<UniqueFd> kept;
    REQUIRE(open_and_keep(mount.view("known"), O_PATH, kept) == "0");
    {
        const DaemonLimit limit(mount, RLIMIT_NOFILE, 1000);
        // Inodes that are in use, so that none can be pruned.
        std::size_t next = 0;
        const auto fill_up = [&] {
            for (; next < 2999; ++next) {
                const std::string opened = open_and_keep(mount.view(name_of(next)), O_PATH, kept);
                if (opened != "0") return opened;
            }
            return std::string("no end");
        };
        CHECK(fill_up() == "ENFILE");
        CHECK(mount.errors().find("no descriptor is left") != std::string::npos);
        CHECK(kept.size() > 600);
        const std::string known = mount.view("known");
        const std::string fresh = mount.view("fresh");
        CHECK(answer(::access(mount.view(name_of(2999)).c_str(), F_OK)) == "ENFILE");
        CHECK(answer(::open(known.c_str(), O_RDONLY)) == "ENFILE");
        CHECK(answer(::open(known.c_str(), O_RDWR)) == "ENFILE");
        CHECK(answer(::open(mount.view("0").c_str(), O_RDONLY | O_DIRECTORY)) == "ENFILE");
        // What cannot be given is not made.
        CHECK(answer(::open(fresh.c_str(), O_RDWR | O_CREAT, 0644)) == "ENFILE");
        CHECK(answer(::mkdir(fresh.c_str(), 0755)) == "ENFILE");
        CHECK(answer(::symlink("target", fresh.c_str())) == "ENFILE");
        CHECK(answer(::mknod(fresh.c_str(), S_IFIFO | 0600, 0)) == "ENFILE");
        CHECK(answer(::access(mount.raw("fresh").c_str(), F_OK)) == "ENOENT");
        // What takes a descriptor for a moment only goes on.
        CHECK(answer(::truncate(known.c_str(), 2)) == "0");
        CHECK(size_of(mount.raw("known")) == 2);
        CHECK(answer(::chmod(known.c_str(), 0600)) == "0");
        CHECK(answer(::rename(known.c_str(), fresh.c_str())) == "0");
        CHECK(reader.goes_on());

        // Their successors may need some less.
        REQUIRE(kill_worker(mount.pid()) > 0);
        CHECK(reader.goes_on());
        CHECK(fill_up() == "ENFILE");
        mount.kill_supervisor();
        CHECK(reader.goes_on());
        CHECK(fill_up() == "ENFILE");
        CHECK(reader.barrier_works());
        kept.clear();
        // It recovers by itself where the kernel can be asked to forget.
        if (!kernel_prunes()) drop_caches();
        CHECK(eventually([&] { return ::access(mount.view(name_of(2999)).c_str(), F_OK) == 0; }));
        CHECK(answer(::close(::open(mount.view("new").c_str(), O_RDWR | O_CREAT | O_EXCL, 0644))) == "0");
        CHECK(answer(::mkdir(mount.view("new directory").c_str(), 0755)) == "0");
    }
    CHECK(falls_to(descriptors, mount));
    CHECK(counters(mount)["restarts"] == 1);
}

TEST_CASE("a directory lists all its names where there are no descriptors for their inodes") {
    const ViewMount mount({"max_size=1M"});
    make_tree(mount.source(), 1000);
    for (int i = 0; i < 500; ++i) make_file(mount.raw(fmt::format("file {}", i)));
    std::vector<UniqueFd> kept;
    const UniqueFd directory = open_file(mount.mountpoint(), O_RDONLY | O_DIRECTORY);
    const DaemonLimit limit(mount, RLIMIT_NOFILE, 300);
    for (int i = 0; open_and_keep(mount.view(name_of(static_cast<std::size_t>(i))), O_PATH, kept) == "0"; ++i)
        REQUIRE(i < 300);
    std::size_t names = 0;
    const std::unique_ptr<DIR, int (*)(DIR*)> listing(::fdopendir(::dup(directory.get())), &::closedir);
    while (::readdir(listing.get()) != nullptr) ++names;
    CHECK(names == 2 + 1 + 500);
}

TEST_CASE("more inodes are looked at than there are descriptors") {
    if (!kernel_prunes()) {
        MESSAGE("this kernel cannot be asked to forget inodes; Linux 6.18 can");
        return;
    }
    const ViewMount mount({"max_size=1M"});
    make_tree(mount.source(), 5000);
    ColdReader reader(mount);
    const DaemonLimit limit(mount, RLIMIT_NOFILE, 1000);
    for (int i = 0; i < 2; ++i) {
        const Run found = run({"find", mount.mountpoint(), "-type", "f", "-newer", "/proc/self"});
        CHECK_MESSAGE(found.ending == "exit 0", found.errors);
        for (std::size_t file = 0; file < 5000; file += 11)
            CHECK(read_all(mount.view(name_of(file))) == std::to_string(file));
        CHECK(open_descriptors(mount.pid()) <= 1000);
    }
    CHECK(reader.goes_on());
    CHECK(reader.barrier_works());
    CHECK(counters(mount)["restarts"] == 0);
}

TEST_CASE("where memory ends callers hear ENOMEM, nobody faults, and all is well when there is some again") {
    if (!memory_is_ours()) return;  // a sanitizer ends the daemon where it has no memory itself
    const ViewMount mount({"max_size=1M"});
    const std::size_t count = as_many_as_may_be(mount, 6000, 3);
    make_tree(mount.source(), count);
    ColdReader reader(mount);
    const std::size_t descriptors = open_descriptors(mount.pid());
    std::vector<UniqueFd> kept;
    {
        // Of the heap, of mappings, of a thread's arena: no further page that is private and can be written to. (The
        // kernel takes 0 for no limit: may_expand_vm.)
        const DaemonLimit limit(mount, RLIMIT_DATA, page);
        std::map<std::string, unsigned> answers;
        for (std::size_t i = 0; i < count && answers["ENOMEM"] < 100; ++i)
            ++answers[open_and_keep(mount.view(name_of(i)), O_RDONLY, kept)];
        CHECK(answers["ENOMEM"] == 100);
        CHECK(answers.size() == 2);
        CHECK(reader.goes_on());
        CHECK(reader.barrier_works());
    }
    CHECK(answer(::access(mount.view(name_of(count - 1)).c_str(), F_OK)) == "0");
    CHECK(open_and_keep(mount.view(name_of(count - 1)), O_RDWR, kept) == "0");
    kept.clear();
    CHECK(falls_to(descriptors, mount));
    CHECK(counters(mount)["restarts"] == 0);
    CHECK(counters(mount)["read_errors"] == 0);
}

TEST_CASE("find, tar and rsync over very many files leave nothing behind") {
    const ViewMount mount({"max_size=1M", "stat=real"});
    const std::size_t count = is_full_form() ? 100'000 : 5'000;
    make_tree(mount.source(), count);
    if (!kernel_prunes()) REQUIRE(as_many_as_may_be(mount, count, 1) == count);
    const std::size_t descriptors = open_descriptors(mount.pid());
    const std::size_t memory = resident_memory(mount.pid());
    const std::string copy = mount.plain() + "/copy";
    const std::string archive = mount.plain() + "/archive.tar";
    for (const std::vector<std::string>& command :
         {std::vector<std::string>{"find", mount.mountpoint(), "-type", "f", "-size", "-2"},
          {"tar", "-cf", archive, "-C", mount.mountpoint(), "."},
          {"rsync", "-a", mount.mountpoint() + "/", copy}}) {
        CAPTURE(command.front());
        const auto start = Clock::now();
        const Run finished = run(command, {}, std::chrono::seconds(300));
        CHECK_MESSAGE(finished.ending == "exit 0", finished.ending, ": ", finished.errors);
        if (is_full_form()) MESSAGE(command.front(), ": ", seconds_since(start), " s");
        if (command.front() == "find")
            CHECK(static_cast<std::size_t>(std::ranges::count(finished.output, '\n')) == count);
        CHECK(falls_to(descriptors, mount));
        if (memory_is_ours()) CHECK(resident_memory(mount.pid()) <= memory + bytes_per_inode * count + memory_slack);
    }
    CHECK(run({"diff", "-r", mount.source(), copy}).ending == "exit 0");
    CHECK(run({"tar", "-df", archive, "-C", mount.source()}).ending == "exit 0");
    CHECK(counters(mount)["restarts"] == 0);
}

TEST_SUITE_END();
