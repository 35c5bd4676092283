// Whoever hands on a descriptor may be an enemy. Views of a file whose file system does not answer are the loss of
// those who open them, and of nobody else.
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <csignal>
#include <functional>
#include <vector>

#include "tests/mount/counters.h"
#include "tests/mount/fd_views.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"
#include "tests/mount/silent_server.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr unsigned victims = 3;

void load_all(const UniqueFd& view) {
    if (Mapping(view.get(), MiB).touch() < MiB / page) ::raise(SIGBUS);
}

std::string silent_directory(const Directories& directories) {
    std::string directory = directories.root() + "/silent";
    must(::mkdir(directory.c_str(), 0755), "mkdir");
    return directory;
}

// Processes that do something of which they may never come back.
class Victims {
  public:
    Victims(SilentServer& server, const std::function<void()>& doom) {
        for (unsigned i = 0; i < victims; ++i) {
            const pid_t pid = fork_process();
            if (pid == 0) {
                ::prctl(PR_SET_PDEATHSIG, SIGKILL);
                server.leave();
                try {
                    doom();
                } catch (const std::exception&) {  // what it hears at last is an error
                }
                ::_exit(0);
            }
            pids_.push_back(pid);
        }
    }
    Victims(const Victims&) = delete;
    Victims& operator=(const Victims&) = delete;
    ~Victims() { end(); }

    // Kills them, and says whether all are gone.
    bool end(std::chrono::milliseconds deadline = patience) {
        for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
        std::erase_if(pids_, [&](pid_t pid) { return wait_for(pid, deadline) != "still running"; });
        return pids_.empty();
    }

  private:
    std::vector<pid_t> pids_;
};

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

    // They are served as ever: loads, reads, writes, barriers, opens, and changes that show unasked; that includes the
    // sweep, which finds out what is written to a memfd.
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
            CHECK(eventually([&] { return mapping.bytes(2 * page, 10) == pattern(2 * page, 10, round_); }));
            if (i > 0) CHECK(shows(fd_view(mount_, file).get(), read_all(file)));
        }
        CHECK(read_all(mount_.view("named")) == read_all(files_[0].get()));
        const UniqueFd fresh = memfd("fresh");
        CHECK(as_user(nobody, [&] { return read_all(fd_name(mount_, fresh.get())); }) == "fresh");
        make_file(mount_.view("made"), "made");
        CHECK(answer(::unlink(mount_.view("made").c_str())) == "0");
    }

  private:
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
    const SilentServer server(silent_directory(mount));
    const UniqueFd file = open_file(server.file(), O_RDONLY);
    CHECK(shows(fd_view(mount, file.get()).get(), pattern(0, SilentServer::file_size)));
}

TEST_CASE("a file system that never answers a READ holds up those who load its file, and nobody else") {
    const ViewMount mount({"max_size=2M"});
    SilentServer server(silent_directory(mount));
    Others others(mount);
    const UniqueFd file = open_file(server.file(), O_RDONLY);
    const UniqueFd view = fd_view(mount, file.get());
    server.ignore(FUSE_READ);
    std::function<void()> doom;
    SUBCASE("by a mapping") {
        doom = [&] { load_all(view); };
    }
    SUBCASE("by read(2)") {
        doom = [&] { read_all(view.get()); };
    }
    SUBCASE("by a barrier, when something had been loaded before") {
        server.ignore(0);
        CHECK(Mapping(view.get(), MiB).bytes() == pattern(0, MiB));
        server.ignore(FUSE_READ);
        doom = [&] { ::fsync(view.get()); };
    }
    Victims victims(server, doom);
    CHECK(eventually([&] { return server.ignored() > 0; }));
    others.check();
    CHECK(counters(mount).at("restarts") == 0);
    server.abort();
    CHECK(victims.end());
    others.check();
}

TEST_CASE("a file system that never answers a GETATTR or OPEN holds up those who use its file, and nobody else") {
    const ViewMount mount({"max_size=2M"});
    SilentServer server(silent_directory(mount));
    Others others(mount);
    const UniqueFd file = open_file(server.file(), O_RDONLY);
    const UniqueFd view = fd_view(mount, file.get());
    const Mapping mapping(view.get(), MiB);
    CHECK(mapping.bytes() == pattern(0, MiB));
    std::function<void()> doom;
    SUBCASE("GETATTR, of a view that is open: stat") {
        server.ignore(FUSE_GETATTR);
        doom = [&] { status(view.get()); };
    }
    SUBCASE("GETATTR, of a view that is open: read") {
        server.ignore(FUSE_GETATTR);
        doom = [&] { read_all(view.get()); };
    }
    SUBCASE("GETATTR, of a view that is about to be opened") {
        server.ignore(FUSE_GETATTR);
        doom = [&] { fd_view(mount, file.get()); };
    }
    SUBCASE("OPEN, of a view that is about to be opened") {
        server.ignore(FUSE_OPEN);
        doom = [&] { fd_view(mount, file.get()); };
    }
    Victims victims(server, doom);
    CHECK(eventually([&] { return server.ignored() > 0; }));
    others.check();
    CHECK(counters(mount).at("restarts") == 0);
    // What is in memory can be loaded, whatever else hangs.
    CHECK(mapping.bytes(0, 10) == pattern(0, 10));
    server.abort();
    CHECK(victims.end());
    others.check();
}

TEST_CASE("whoever waits for such a file system can be killed, while it is silent") {
    const ViewMount mount({"max_size=2M"});
    SilentServer server(silent_directory(mount));
    const UniqueFd file = open_file(server.file(), O_RDONLY);
    const UniqueFd view = fd_view(mount, file.get());
    server.ignore(FUSE_READ);
    Victims victims(server, [&] { load_all(view); });
    CHECK(eventually([&] { return server.ignored() > 0; }));
    CHECK(victims.end());
    server.abort();
}

TEST_CASE("the worker can be replaced while a file system is silent") {
    const ViewMount mount({"max_size=2M"});
    SilentServer server(silent_directory(mount));
    Others others(mount);
    const UniqueFd file = open_file(server.file(), O_RDONLY);
    const UniqueFd view = fd_view(mount, file.get());
    server.ignore(FUSE_READ);
    Victims victims(server, [&] { load_all(view); });
    CHECK(eventually([&] { return server.ignored() > 0; }));
    // It does not die before it is answered, or there is another: see kill_worker.
    for (const pid_t worker : workers_of(mount.pid())) ::kill(worker, SIGKILL);
    others.check();
    server.abort();
    CHECK(victims.end());
    others.check();
}

TEST_SUITE_END();
