// Writers who do their worst: views of their files stay right, and those of others are none the worse for it.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <sstream>
#include <vector>

#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/footprint.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"
#include "tests/mount/sysctl.h"
#include "tests/mount/view_mount.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// Another process that truncates files, one after the other, as fast as it can.
class Truncater {
  public:
    explicit Truncater(const std::vector<UniqueFd>& files)
        : shared_(static_cast<Shared*>(
              must(::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), "mmap"))) {
        pid_ = fork_process();
        if (pid_ != 0) return;
        for (unsigned long i = 0; !shared_->stop; ++i) {
            for (const UniqueFd& file : files) {
                if (::ftruncate(file.get(), static_cast<off_t>(i % 7 * page)) != 0) ::_exit(1);
                ++shared_->done;
            }
        }
        ::_exit(0);
    }
    Truncater(const Truncater&) = delete;
    Truncater& operator=(const Truncater&) = delete;
    ~Truncater() {
        if (pid_ > 0) CHECK(end() == "exit 0");
        ::munmap(shared_, page);
    }

    [[nodiscard]] unsigned long done() const { return shared_->done; }
    std::string end() {
        shared_->stop = true;
        const std::string how = wait_for(pid_);
        pid_ = -1;
        return how;
    }

  private:
    struct Shared {
        std::atomic<bool> stop;
        std::atomic<unsigned long> done;
    };
    Shared* shared_;
    pid_t pid_ = -1;
};

// Files in the source, each with a mapping of its view.
struct Mapped {
    Mapped(const ViewMount& mount, const std::string& name, std::size_t count, std::size_t size) {
        for (std::size_t i = 0; i < count; ++i) {
            const std::string each = fmt::format("{} {}", name, i);
            files.push_back(make_file(mount.raw(each), pattern(0, size)));
            views.push_back(open_file(mount.view(each), O_RDONLY));
            mappings.push_back(std::make_unique<Mapping>(views.back().get(), 8 * page));
        }
    }

    // Whether every mapping is its file, then zeros. Counts loads that faulted.
    bool all_right() {
        bool right = true;
        for (std::size_t i = 0; i < files.size(); ++i) {
            const std::string seen = mappings[i]->bytes();
            if (seen.size() < mappings[i]->size()) ++faults;
            right = right && seen == padded(read_all(files[i].get()), mappings[i]->size());
        }
        return right;
    }

    std::vector<UniqueFd> files;
    std::vector<UniqueFd> views;
    std::vector<std::unique_ptr<Mapping>> mappings;
    unsigned faults = 0;
};

std::size_t count_of(const std::string& text, const std::string& part) {
    std::size_t count = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
    return count;
}

// A quiet file beside the loud ones: it keeps up, unasked and at the barrier, as often as it changes.
void check_quiet_file(const ViewMount& mount, const Truncater& truncater) {
    Mapped quiet(mount, "quiet", 1, 3 * page);
    for (unsigned round = 1; round <= 20; ++round) {
        CAPTURE(round);
        const unsigned long before = truncater.done();
        write_at(quiet.files[0].get(), page - 5, pattern(0, page, round));
        CHECK(eventually([&] { return quiet.all_right(); }));
        const Mapping raw(quiet.files[0].get(), page, PROT_READ | PROT_WRITE);
        REQUIRE(raw.store(7, pattern(0, 9, round)) == 9);
        REQUIRE(::fsync(quiet.views[0].get()) == 0);
        CHECK(quiet.all_right());
        CHECK(eventually([&] { return truncater.done() > before; }));
    }
    CHECK(quiet.faults == 0);
}

}  // namespace

TEST_SUITE_BEGIN("hostile");

TEST_CASE("a file truncated in a loop") {
    const ViewMount mount({"max_size=1M"});
    Mapped loud(mount, "loud", 1, 6 * page);
    CHECK(loud.all_right());
    Truncater truncater(loud.files);
    check_quiet_file(mount, truncater);
    for (int i = 0; i < 1000; ++i) CHECK(loud.mappings[0]->touch() == 8);
    const auto counted = counters(mount);
    CHECK(truncater.end() == "exit 0");
    // Many changes at a time make one refresh.
    CHECK(counted.at("refreshes") < truncater.done() / 2);
    CHECK(eventually([&] { return loud.all_right(); }));
    CHECK(loud.faults == 0);
}

TEST_CASE("a thousand files truncated in a loop") {
    const ViewMount mount({"max_size=1M"});
    Mapped loud(mount, "loud", 1000, 6 * page);
    CHECK(loud.all_right());
    const std::size_t memory = resident_memory(mount.pid());
    Truncater truncater(loud.files);
    check_quiet_file(mount, truncater);
    for (const auto& mapping : loud.mappings) CHECK(mapping->touch() == 8);
    CHECK(eventually([&] { return truncater.done() > 20 * loud.files.size(); }));
    CHECK(truncater.end() == "exit 0");
    CHECK(eventually([&] { return loud.all_right(); }));
    CHECK(loud.faults == 0);
    // The digests of what was loaded, and buffers of request threads that come and go.
    if (memory_is_ours) CHECK(resident_memory(mount.pid()) < memory + 32 * MiB);
}

TEST_CASE("when the queue of inotify overflows, every view is compared with its file, and the log says so once") {
    const Sysctl queue("/proc/sys/fs/inotify/max_queued_events", 8);
    const ViewMount mount({"max_size=1M"});
    Mapped files(mount, "file", 100, 6 * page);
    CHECK(files.all_right());
    for (unsigned round = 1; round <= 50; ++round) {
        for (const UniqueFd& file : files.files) write_at(file.get(), page, pattern(0, page, round));
    }
    CHECK(eventually([&] { return files.all_right(); }));
    CHECK(files.faults == 0);
    CHECK(counters(mount).at("event_overflows") > 0);
    CHECK(count_of(mount.errors(), "fs.inotify.max_queued_events") == 1);
}

TEST_CASE("when there is no watch left, files are looked at instead, and the log says so once") {
    const Sysctl watches("/proc/sys/fs/inotify/max_user_watches", 1);
    const ViewMount mount({"max_size=1M"});
    Mapped files(mount, "file", 20, 6 * page);
    CHECK(files.all_right());
    CHECK(counters(mount).at("unwatched_opens") >= 19);
    CHECK(count_of(mount.errors(), "fs.inotify.max_user_watches") == 1);
    for (const UniqueFd& file : files.files) write_at(file.get(), page, pattern(0, page, 1));
    CHECK(eventually([&] { return files.all_right(); }));
    for (const UniqueFd& file : files.files) resize(file.get(), 5);
    CHECK(eventually([&] { return files.all_right(); }));
    for (const UniqueFd& file : files.files) resize(file.get(), 7 * page);
    CHECK(eventually([&] { return files.all_right(); }));
    CHECK(files.faults == 0);
    const Mapping raw(files.files[19].get(), page, PROT_READ | PROT_WRITE);
    REQUIRE(raw.store(7, "stored") == 6);
    REQUIRE(::fsync(files.views[19].get()) == 0);
    CHECK(files.mappings[19]->bytes(7, 6) == "stored");
}

TEST_SUITE_END();
