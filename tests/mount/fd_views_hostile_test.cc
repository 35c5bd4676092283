// Whoever hands on a descriptor may be an enemy. Views of a file whose file system does not answer are the loss of
// those who open them, and of nobody else.
#include <doctest/doctest.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <list>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tests/mount/counters.h"
#include "tests/mount/fd_views.h"
#include "tests/mount/footprint.h"
#include "tests/mount/kernel.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"
#include "tests/mount/silent_server.h"
#include "tests/mount/sysctl.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// How many fall into a trap. Of most one: together fewer than a user may have threads for such files
// (RequestThreads::slow_share), or the last traps would not be sprung. Then many more than that.
constexpr unsigned many = 40;
constexpr unsigned one = 1;

// A file system that falls silent, and what its victims do. Each has a file of its own, and had a view of it before.
// Without a doom nobody does anything but the server, which closes what was closed.
class Trap {
  public:
    using Doom = std::function<void(const UniqueFd& file, UniqueFd& view)>;

    Trap(const ViewMount& mount, const std::string& name, unsigned victims, std::uint32_t ignored, Doom doom)
        : name_(name), server_(mount.root() + "/" + name), doom_(std::move(doom)) {
        for (unsigned i = 0; i < victims; ++i) {
            files_.push_back(open_file(server_.file(i), O_RDONLY));
            views_.push_back(fd_view(mount, files_.back().get()));
        }
        if (!doom_) files_.clear();  // for whoever closes one asks, too
        server_.ignore(ignored);
    }
    Trap(const Trap&) = delete;
    Trap& operator=(const Trap&) = delete;
    ~Trap() {
        server_.abort();
        kill();
    }

    // `all` are those of the test, whose servers' ends the victims must not keep.
    void spring(std::list<Trap>& all) {
        if (!doom_) return views_.clear();
        for (std::size_t i = 0; i < files_.size(); ++i) {
            const pid_t pid = fork_process();
            if (pid == 0) {
                ::prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (Trap& trap : all) trap.server_.leave();
                try {
                    doom_(files_[i], views_[i]);
                } catch (const std::exception&) {  // it hears an error at last
                }
                ::_exit(0);
            }
            pids_.push_back(pid);
        }
    }

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] SilentServer& server() { return server_; }
    [[nodiscard]] const UniqueFd& view() const { return views_[0]; }

    // Kills the victims, and says whether all are gone.
    bool kill() {
        for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
        std::erase_if(pids_, [&](pid_t pid) { return wait_for(pid) != "still running"; });
        return pids_.empty();
    }

  private:
    std::string name_;
    SilentServer server_;
    Doom doom_;
    std::vector<UniqueFd> files_;
    std::vector<UniqueFd> views_;
    std::vector<pid_t> pids_;
};

// What the victims do.
void load_all(const UniqueFd& /*file*/, UniqueFd& view) {
    if (Mapping(view.get(), MiB).touch() < MiB / page) ::raise(SIGBUS);
}

// Everybody else: a file with a name and some that have none, with views that were there before.
class Others {
  public:
    explicit Others(const ViewMount& mount) : mount_(mount) {
        files_.push_back(make_file(mount.raw("named"), pattern(0, 8 * page)));
        files_.push_back(memfd(pattern(0, 8 * page)));
        files_.push_back(unlinked_file(mount.plain(), pattern(0, 8 * page)));
        views_.push_back(open_file(mount.view("named"), O_RDWR));
        for (const UniqueFd* file : {&files_[1], &files_[2]}) views_.push_back(fd_view(mount, file->get(), O_RDWR));
        for (const UniqueFd& view : views_) mappings_.emplace_back(view.get(), MiB);
    }

    // They are served as ever: loads, reads, writes, barriers, opens, and changes that show unasked.
    void check() {
        for (unsigned i = 0; i < files_.size(); ++i) {
            CAPTURE(i);
            const int file = files_[i].get();
            const int view = views_[i].get();
            const Mapping& mapping = mappings_[i];
            ++round_;
            ::posix_fadvise(view, 0, 0, POSIX_FADV_DONTNEED);
            CHECK(mapping.touch() == MiB / page);
            CHECK(difference(mapping.bytes(), padded(read_all(file), MiB)) == "");
            const Mapping raw(file, page, PROT_READ | PROT_WRITE);
            REQUIRE(raw.store(5, pattern(0, 20, round_)) == 20);
            REQUIRE(answer(::fsync(view)) == "0");
            CHECK(mapping.bytes(5, 20) == pattern(0, 20, round_));
            write_at(view, 100, pattern(0, 20, round_ + 1));
            CHECK(read_all(file).substr(100, 20) == pattern(0, 20, round_ + 1));
            resize(file, 2 * page);
            CHECK(eventually([&] { return mapping.bytes(2 * page, 10) == std::string(10, '\0'); }));
            write_at(file, 2 * page, pattern(2 * page, 6 * page, round_));
            if (i == memory) REQUIRE(sync_range(view, 2 * page, 10) == "0");
            CHECK(eventually([&] { return mapping.bytes(2 * page, 10) == pattern(2 * page, 10, round_); }));
            if (i > 0) CHECK(shows(fd_view(mount_, file).get(), read_all(file)));
        }
        CHECK(read_all(mount_.view("named")) == read_all(files_[0].get()));
        const UniqueFd fresh = memfd("fresh");
        CHECK(as_user(nobody, [&] { return read_all(fd_name(mount_, fresh.get())); }) == "fresh");
        make_file(mount_.view("made"), "made");
        CHECK(answer(::unlink(mount_.view("made").c_str())) == "0");
    }

    // And what only the sweep finds: what is written to a memfd.
    void check_sweep() {
        write_at(files_[memory].get(), 3 * page, "swept");
        CHECK(eventually([&] { return mappings_[memory].bytes(3 * page, 5) == "swept"; }));
    }

  private:
    static constexpr unsigned memory = 1;

    const ViewMount& mount_;
    std::vector<UniqueFd> files_;
    std::vector<UniqueFd> views_;
    std::vector<Mapping> mappings_;
    unsigned round_ = 0;
};

}  // namespace

TEST_SUITE_BEGIN("fd-views");

TEST_CASE("a file that can be read has a view, whoever serves it") {
    const ViewMount mount({"max_size=2M"});
    const SilentServer server(mount.root() + "/silent");
    const UniqueFd file = open_file(server.file(), O_RDONLY);
    CHECK(shows(fd_view(mount, file.get()).get(), pattern(0, SilentServer::file_size)));
}

TEST_CASE("a lease on a file that was passed holds up nobody") {
    const Sysctl break_time("/proc/sys/fs/lease-break-time", 3600);
    const ViewMount mount({"max_size=2M"});
    ::signal(SIGIO, SIG_IGN);  // which asks for the lease back
    for (const UniqueFd& file : {tmpfile(mount.plain(), "abc"), same_file(memfd("abc").get(), O_RDONLY)}) {
        must(::fcntl(file.get(), F_SETLEASE, F_WRLCK), "F_SETLEASE");
        const pid_t opening = fork_process();
        if (opening == 0) ::_exit(read_all(fd_name(mount, file.get())) == "abc" ? 0 : 1);
        const std::string how = wait_for(opening);
        CHECK(how == "exit 0");
        must(::fcntl(file.get(), F_SETLEASE, F_UNLCK), "F_SETLEASE");
        if (how == "still running") CHECK(wait_for(opening) == "exit 0");
    }
    ::signal(SIGIO, SIG_DFL);
}

TEST_CASE("file systems that never answer hold up those who use their files, and nobody else") {
    const ViewMount mount({"max_size=2M"});
    Others others(mount);
    std::list<Trap> traps;
    traps.emplace_back(mount, "closes", many, FUSE_FLUSH, nullptr);
    traps.front().spring(traps);  // before there are others, who have copies of all descriptors
    Trap& loads = traps.emplace_back(mount, "loads", many, FUSE_READ, load_all);
    if (munmap_waits_for_write_back()) {
        traps.emplace_back(mount, "barriers", one, FUSE_FSYNC,
                           [](const UniqueFd&, UniqueFd& view) { ::fsync(view.get()); });
    } else {
        MESSAGE(
            "left out, where munmap(2) does not wait for write-back, but who closes a file waits for its fsync(2): "
            "barriers");
    }
    traps.emplace_back(mount, "looks", one, FUSE_GETATTR, [](const UniqueFd&, UniqueFd& view) { status(view.get()); });
    traps.emplace_back(mount, "opens", one, FUSE_GETATTR,
                       [&](const UniqueFd& file, UniqueFd&) { fd_view(mount, file.get()); });
    traps.emplace_back(mount, "first opens", one, FUSE_STATFS,
                       [&](const UniqueFd& file, UniqueFd&) { fd_view(mount, file.get()); });
    traps.emplace_back(mount, "reads", many, FUSE_READ, [](const UniqueFd&, UniqueFd& view) { read_all(view.get()); });
    for (Trap& trap : traps) {
        CAPTURE(trap.name());
        trap.spring(traps);
        CHECK(eventually([&] { return trap.server().ignored() > 0; }));
    }
    others.check();
    others.check_sweep();
    CHECK(counters(mount).at("restarts") == 0);

    // Who waits for a load can be killed. It would not have waited for ever: the load is zeros then, and the file's
    // bytes when there are some.
    CHECK(loads.kill());
    const Mapping mapping(loads.view().get(), 2 * MiB);
    CHECK(mapping.bytes() == std::string(2 * MiB, '\0'));
    loads.server().go_on();
    CHECK(eventually([&] { return mapping.bytes() == padded(pattern(0, MiB), 2 * MiB); }));
    // The worker can be replaced. Threads of this one do not end before they are answered, so this is not kill_worker.
    for (const pid_t worker : workers_of(mount.pid())) ::kill(worker, SIGKILL);
    others.check();
    // Who waits in read(2) cannot be killed before that, as with the file itself: request_wait_answer.
    for (Trap& trap : traps) trap.server().abort();
    for (Trap& trap : traps) {
        CAPTURE(trap.name());
        CHECK(trap.kill());
    }
    others.check();
}

TEST_CASE("what cannot be closed of one user's is bounded, and costs nobody else a descriptor") {
    const ViewMount mount({"max_size=2M"});
    SilentServer server(mount.root() + "/silent");
    const UniqueFd file = open_file(server.file(), O_RDONLY);
    const std::size_t before = open_descriptors(mount.pid());
    server.ignore(FUSE_FLUSH);
    std::map<std::string, int> answers;
    for (int i = 0; i < 1000; ++i) {
        const UniqueFd view(::open(fd_name(mount, file.get()).c_str(), O_PATH | O_CLOEXEC));
        ++answers[answer(view ? 0 : -1)];
    }
    CHECK(answers["EBUSY"] > 0);
    CHECK(answers.size() <= 2);
    CHECK(open_descriptors(mount.pid()) < before + 300);
    // Somebody else's, and that user's own once the server goes on.
    const UniqueFd fresh = memfd("fresh");
    std::string content;
    // Not another process, whose end would close its copy of the silent file's descriptor.
    std::thread([&] {
        ::setfsuid(nobody);
        content = read_all(fd_name(mount, fresh.get()));
    }).join();
    CHECK(content == "fresh");
    server.go_on();
    CHECK(eventually([&] { return opened(fd_name(mount, file.get()), O_PATH) == "0"; }));
    CHECK(eventually([&] { return open_descriptors(mount.pid()) <= before + 8; }));
}

TEST_SUITE_END();
