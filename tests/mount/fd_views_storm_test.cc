// Nobody ever has a view of somebody else's file, nor more access to one than a descriptor gave: 16 processes with 4
// threads each ask for the same few numbers all the time. NOSIGBUS_STORM_SECONDS says for how long; the default is
// short, 60 is the full form.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <list>
#include <optional>
#include <stdexcept>

#include "tests/mount/counters.h"
#include "tests/mount/fd_views.h"
#include "tests/mount/footprint.h"
#include "tests/mount/mapping.h"
#include "tests/mount/mount_table.h"
#include "tests/mount/storm.h"
#include "tests/mount/storm_clients.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;
using namespace std::chrono_literals;

namespace {

constexpr std::chrono::seconds short_form{1};
constexpr unsigned processes = 16;
constexpr unsigned threads = 4;
constexpr int first_number = 200;  // the same for all processes

// Descriptors count twice, since worker and supervisor share their table.
constexpr std::size_t descriptor_slack = 16;

// A page and a bit that says whose file it is, at its beginning, at its end and in between.
std::string identity(unsigned process, unsigned thread, std::uint64_t generation, bool writable) {
    const std::string line = fmt::format("process {} thread {} file {} {}\n", process, thread, generation,
                                         writable ? "for reading and writing" : "for reading");
    std::string text;
    while (text.size() < page + 100) text += line;
    return text;
}

std::string first_line(const std::string& text) {
    return text.substr(0, text.find('\n'));
}

// A file of one kind or the other, never with a name.
UniqueFd make_nameless(Random& random, const Directories& mount, const Ext4& ext4, const std::string& content) {
    switch (below(random, 3)) {
        case 0:
            return memfd(content);
        case 1:
            return tmpfile(mount.plain(), content);
        default:
            return tmpfile(ext4.path(), content);
    }
}

// What a view shows, by read(2) and by a mapping, which must agree.
std::string content_of(const UniqueFd& view, std::size_t length) {
    const std::string read = read_all(view.get());
    const Mapping mapping(view.get(), MiB);
    const std::string loaded = mapping.bytes(0, length);
    expect("loads", loaded.size(), length);
    expect("a load in the zero tail", mapping.byte(MiB - 1), 0);
    if (read.size() != length || loaded != read)
        throw std::runtime_error(
            fmt::format("read {} bytes: \"{}\", loaded: \"{}\"", read.size(), first_line(read), first_line(loaded)));
    return read;
}

// A thread with files and a number of its own: what it has there is what it sees, no more and no less.
class Owner {
  public:
    Owner(const Directories& mount, const Ext4& ext4, unsigned process, unsigned thread)
        : mount_(mount),
          ext4_(ext4),
          process_(process),
          thread_(thread),
          number_(first_number + static_cast<int>(thread)),
          random_(process * threads + thread) {}

    void turn() {
        const std::string name = fd_name(mount_, number_);
        const bool writable = below(random_, 2) == 0;
        const std::string content = identity(process_, thread_, ++generation_, writable);
        UniqueFd file = make_nameless(random_, mount_, ext4_, content);
        const Numbered numbered(writable ? file.get() : same_file(file.get(), O_RDONLY).get(), number_);
        const UniqueFd view(must(::open(name.c_str(), O_RDONLY | O_CLOEXEC), "open"));
        expect_bytes("its own file", content_of(view, content.size()), content);
        const UniqueFd writing(::open(name.c_str(), O_RDWR | O_CLOEXEC));
        if (writable != static_cast<bool>(writing)) throw std::runtime_error("for writing: " + answer(writing.get()));
        if (writing) {
            write_at(writing.get(), 0, "WRITTEN");
            expect_bytes("written", read_all(file.get()), "WRITTEN" + content.substr(7));
        } else {
            expect("for writing", answer(-1), std::string("EACCES"));
        }
        resize(file.get(), 10);
        must(::fsync(view.get()), "fsync");
        expect_bytes("after a truncation", read_all(view.get()), read_all(file.get()));
        ::close(number_);
        // Nobody gives it another file before the end of this turn.
        expect("a closed number", opened(name, O_RDONLY), std::string("ENOENT"));
        must(::dup3(file.get(), number_, O_CLOEXEC), "dup3");
    }

  private:
    const Directories& mount_;
    const Ext4& ext4_;
    unsigned process_;
    unsigned thread_;
    int number_;
    std::uint64_t generation_ = 0;
    Random random_;
};

// A number of one process behind which one thread puts file after file, by turns one for reading and one for both,
// while others open it: what they get was there at some time during the call, and as they asked for it.
class Flipped {
  public:
    Flipped(const Directories& mount, const Ext4& ext4, unsigned process)
        : mount_(mount), ext4_(ext4), process_(process), random_(process) {
        flip();
    }
    Flipped(const Flipped&) = delete;
    Flipped& operator=(const Flipped&) = delete;
    ~Flipped() { ::close(first_number); }

    void flip() {
        const std::uint64_t next = there_ + 1;
        const bool writable = next % 2 == 0;
        UniqueFd file = make_nameless(random_, mount_, ext4_, identity(process_, 0, next, writable));
        if (!writable) file = same_file(file.get(), O_RDONLY);
        coming_ = next;
        must(::dup3(file.get(), first_number, O_CLOEXEC), "dup3");
        there_ = next;
    }

    void open(int flags) const {
        const std::uint64_t earliest = there_;
        const UniqueFd view(::open(fd_name(mount_, first_number).c_str(), flags | O_CLOEXEC));
        const int error = errno;
        const std::uint64_t latest = coming_;
        if (!view) {
            errno = error;
            if (error == EACCES && flags == O_RDWR) return;  // there was one that may not be opened so
            throw std::runtime_error("open: " + answer(-1));
        }
        const std::string seen = read_all(view.get());
        for (std::uint64_t each = earliest; each <= latest; ++each) {
            const bool writable = each % 2 == 0;
            if (seen != identity(process_, 0, each, writable)) continue;
            if (flags == O_RDWR && !writable) throw std::runtime_error("opened for writing: " + first_line(seen));
            return;
        }
        throw std::runtime_error(
            fmt::format("files {} to {} were there, and this was opened: \"{}\"", earliest, latest, first_line(seen)));
    }

  private:
    const Directories& mount_;
    const Ext4& ext4_;
    unsigned process_;
    Random random_;
    std::atomic<std::uint64_t> there_ = 0;   // the last that is certainly there
    std::atomic<std::uint64_t> coming_ = 0;  // the last that may be
};

// Every second process has owners, the others flip.
void live(Diary& diary, const Directories& mount, const Ext4& ext4, unsigned process) {
    std::list<Owner> owners;
    std::optional<Flipped> flipped;
    std::list<Beside> besides;
    if (process % 2 == 0) {
        for (unsigned thread = 0; thread < threads; ++thread) owners.emplace_back(mount, ext4, process, thread);
        for (Owner& owner : owners) besides.emplace_back([&owner] { owner.turn(); });
    } else {
        flipped.emplace(mount, ext4, process);
        besides.emplace_back([&] { flipped->flip(); });
        for (const int flags : {O_RDONLY, O_RDWR, O_RDWR}) besides.emplace_back([&, flags] { flipped->open(flags); });
    }
    while (diary.goes_on()) {
        diary.note("look", [&] {
            for (const Beside& beside : besides) beside.check();
            return 0;
        });
    }
    diary.about("the threads' last turns");
    for (const Beside& beside : besides) beside.check();
    besides.clear();
}

void kill_heir(pid_t supervisor) {
    if (const pid_t heir = heir_of(supervisor); heir > 0) ::kill(heir, SIGKILL);
}

void storm(const ViewMount& mount, const Ext4& ext4, bool kill_workers) {
    const auto duration = storm_duration(short_form);
    const std::size_t descriptors = open_descriptors(mount.pid());
    Clients clients;
    for (unsigned process = 0; process < processes; ++process) {
        clients.start(fmt::format("process {}", process),
                      [&, process](Diary& diary) { live(diary, mount, ext4, process); });
    }
    const auto start = std::chrono::steady_clock::now();
    unsigned kills = 0;
    Random random(std::random_device{}());
    eventually(
        [&] {
            if (kill_workers) {
                nap(random, 100ms);
                // The heir is who takes descriptors for the worker.
                if (below(random, 3) == 0) kill_heir(mount.pid());
                if (kill_worker(mount.pid()) > 0) ++kills;
            }
            return clients.complain() || std::chrono::steady_clock::now() - start >= duration;
        },
        duration + patience);
    const auto complaints = clients.end();
    for (const std::string& complaint : complaints) FAIL_CHECK(complaint);
    if (clients.hang()) {
        abort_connection(mounted_at(mount.mountpoint())->minor);
        FAIL("clients hang in the mount: its connection was aborted");
    }
    if (kill_workers) CHECK(kills > 0);
    if (!kill_workers) CHECK(counters(mount).at("restarts") == 0);
    // What was answered and is not yet closed or forgotten takes its time.
    CHECK(eventually([&] {
        std::ofstream("/proc/sys/vm/drop_caches") << 2 << std::flush;
        return open_descriptors(mount.pid()) <= descriptors + descriptor_slack;
    }));
    MESSAGE(kills, " kills, ", descriptors, " descriptors, then ", open_descriptors(mount.pid()));
}

}  // namespace

TEST_SUITE_BEGIN("fd-views");

TEST_CASE("64 threads in 16 processes that ask for the same numbers never have what is not theirs") {
    const ViewMount mount({"max_size=1M"});
    const Ext4 ext4(mount);
    storm(mount, ext4, false);
}

TEST_CASE("nor while the worker and the heir are killed again and again") {
    const ViewMount mount({"max_size=1M"});
    const Ext4 ext4(mount);
    storm(mount, ext4, true);
}

TEST_SUITE_END();
