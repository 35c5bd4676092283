// Writers who do their worst: views of their files stay right, and those of others are none the worse for it.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <sstream>
#include <thread>
#include <vector>

#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/footprint.h"
#include "tests/mount/kernel.h"
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
    if (memory_is_ours()) CHECK(resident_memory(mount.pid()) < memory + 32 * MiB);
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

TEST_CASE("fifos, sockets and devices in the source are the caller's to open, and hold up nobody else") {
    const ViewMount mount;
    make_file(mount.raw("file"), "abc");
    must(::mkfifo(mount.raw("fifo").c_str(), 0600), "mkfifo");
    must(::mknod(mount.raw("zero").c_str(), S_IFCHR | 0600, makedev(1, 5)), "mknod");
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    REQUIRE(mount.raw("socket").copy(address.sun_path, sizeof address.sun_path - 1) == mount.raw("socket").size());
    const UniqueFd bound(must(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
    must(::bind(bound.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind");
    must(::listen(bound.get(), 1), "listen");

    const auto opened = [&](const char* name, int flags) {
        const UniqueFd file(::open(mount.view(name).c_str(), flags | O_NONBLOCK | O_CLOEXEC, 0600));
        return file ? "0" : answer(-1);
    };
    for (const int create : {0, O_CREAT}) {
        CHECK(opened("fifo", O_RDONLY | create) == "0");
        CHECK(opened("fifo", O_WRONLY | create) == "ENXIO");
        CHECK(opened("socket", O_RDONLY | create) == "ENXIO");
        CHECK(opened("zero", O_RDWR | create) == "EACCES");  // the mount is nodev
    }
    CHECK(answer(::truncate(mount.view("fifo").c_str(), 0)) == "EINVAL");
    // Somebody waits at the fifo of the view for a writer, with everything else going on.
    std::jthread waiting([&] { UniqueFd(::open(mount.view("fifo").c_str(), O_RDONLY | O_CLOEXEC)); });
    for (int i = 0; i < 100; ++i) CHECK(read_all(mount.view("file")) == "abc");
    CHECK(eventually([&] { return opened("fifo", O_WRONLY) == "0"; }));
    waiting.join();
    CHECK(counters(mount).at("restarts") == 0);
}

TEST_CASE("a lease on a file holds up nobody but who opens it") {
    const ViewMount mount({"max_size=1M"});
    make_file(mount.raw("other"), "other");
    const UniqueFd leased = make_file(mount.raw("file"), "abc");
    ::signal(SIGIO, SIG_IGN);  // which asks for the lease back
    must(::fcntl(leased.get(), F_SETLEASE, F_WRLCK), "F_SETLEASE");
    std::jthread opening([&] { UniqueFd(::open(mount.view("file").c_str(), O_RDONLY | O_CLOEXEC)); });
    for (int i = 0; i < 100; ++i) {
        CHECK(size_of(mount.view("file")) == MiB);
        CHECK(read_all(mount.view("other")) == "other");
    }
    must(::fcntl(leased.get(), F_SETLEASE, F_UNLCK), "F_SETLEASE");
    opening.join();
    ::signal(SIGIO, SIG_DFL);
    CHECK(read_all(mount.view("file")) == "abc");
    CHECK(counters(mount).at("restarts") == 0);
}

TEST_CASE("a name that is a file, a fifo, a link and a device by turns leads to what it names and nowhere else") {
    const ViewMount mount;
    const std::string secret = mount.plain() + "/secret";
    make_file(secret, "secret");
    make_file(mount.raw("other"), "other");
    std::atomic<unsigned> turns{0};
    std::jthread flipping([&](const std::stop_token& stop) {
        const std::string fresh = mount.raw("fresh");
        while (!stop.stop_requested()) {
            switch (turns++ % 5) {
                case 1:
                    must(::mkfifo(fresh.c_str(), 0600), "mkfifo");
                    break;
                case 2:
                    must(::symlink(secret.c_str(), fresh.c_str()), "symlink");
                    break;
                case 3:
                    must(::mknod(fresh.c_str(), S_IFCHR | 0600, makedev(1, 3)), "mknod");
                    break;
                default:
                    make_file(fresh, "file");
            }
            must(::rename(fresh.c_str(), mount.raw("name").c_str()), "rename");
        }
    });
    REQUIRE(eventually([&] { return turns > 1; }));
    std::map<std::string, unsigned> seen;
    constexpr std::array flags = {O_RDONLY, O_RDWR, O_RDONLY | O_CREAT, O_RDWR | O_CREAT};
    for (unsigned i = 0; i < 4000; ++i) {
        const UniqueFd file(
            ::open(mount.view("name").c_str(), flags[i % flags.size()] | O_NOFOLLOW | O_NONBLOCK, 0600));
        if (!file) {
            ++seen[answer(-1)];
        } else if (S_ISREG(status(file.get()).st_mode)) {
            std::array<char, 16> bytes{};
            const std::size_t wanted = kernel_maps_direct_files() ? bytes.size() : std::strlen("file");
            const ssize_t length = ::pread(file.get(), bytes.data(), wanted, 0);
            ++seen[length < 0 ? answer(-1) : std::string(bytes.data(), static_cast<std::size_t>(length))];
        } else {
            ++seen["fifo"];
        }
        if (i % 100 == 0) CHECK(read_all(mount.view("other")) == "other");
    }
    flipping.request_stop();
    flipping.join();
    for (const auto& each : seen) {
        CAPTURE(each.second);
        const std::string& what = each.first;
        constexpr std::array answers = {"file", "fifo", "ELOOP", "EACCES", "ESTALE"};
        CHECK_MESSAGE(std::ranges::find(answers, what) != answers.end(), what);
    }
    CHECK(seen["file"] > 0);
    CHECK(counters(mount).at("restarts") == 0);
    CHECK(read_all(secret) == "secret");
}

TEST_SUITE_END();
