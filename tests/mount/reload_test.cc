// A newly installed nosigbus takes over a mount, or does not where it cannot.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <thread>

#include "tests/mount/counters.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"
#include "tests/mount/view_mount.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

constexpr std::size_t length = 4 * MiB;

// A place where a daemon is installed, and others after it.
class Installed {
  public:
    Installed() { install(daemon_program); }

    [[nodiscard]] std::string program() const { return directories_.plain() + "/nosigbus"; }

    // As a package manager does: the new one takes the name, the old one runs on without.
    void install(const std::string& other) {
        const std::string fresh = program() + ".new";
        std::filesystem::copy_file(other, fresh);
        std::filesystem::rename(fresh, program());
    }
    void install_script(const std::string& text) {
        std::filesystem::remove(program());
        make_file(program(), text);
        std::filesystem::permissions(program(), std::filesystem::perms(0755));
    }
    void remove() { std::filesystem::remove(program()); }

    // Whether `pid` runs what is installed now.
    [[nodiscard]] bool runs_in(pid_t pid) const {
        std::error_code error;
        return std::filesystem::equivalent(fmt::format("/proc/{}/exe", pid), program(), error);
    }

  private:
    const Directories directories_;
};

// Whatever somebody may hold of a mount.
struct Holdings {
    explicit Holdings(const ViewMount& mount)
        : mount(mount),
          backing(make_file(mount.raw("file"), pattern(0, length - page))),
          view(open_file(mount.view("file"), O_RDWR)),
          mapping(view.get(), length),
          unlinked(open_file(mount.view("unlinked"), O_RDWR | O_CREAT, 0600)),
          log(open_file(mount.view("log"), O_WRONLY | O_CREAT | O_APPEND, 0600)) {
        CHECK(::unlink(mount.view("unlinked").c_str()) == 0);
        write_at(unlinked.get(), 0, "unlinked");
        CHECK(::write(log.get(), "one ", 4) == 4);
        CHECK(::flock(view.get(), LOCK_EX) == 0);
        CHECK(::madvise(mapping.data(), length, MADV_RANDOM) == 0);
        CHECK(mapping.bytes(0, 1) == pattern(0, 1));
    }

    void check() {
        CHECK(mapping.bytes(page, page) == pattern(page, page));
        CHECK(mapping.bytes(length - page, page) == std::string(page, '\0'));
        CHECK(mapping.touch() == length / page);
        CHECK(read_all(unlinked.get()).substr(0, 8) == "unlinked");
        CHECK(::write(log.get(), "two ", 4) == 4);
        CHECK(read_all(mount.raw("log")).ends_with("two "));
        CHECK(answer(::flock(open_file(mount.view("file"), O_RDONLY).get(), LOCK_SH | LOCK_NB)) == "EAGAIN");
        make_file(mount.view("new"), "new");
        CHECK(read_all(mount.raw("new")) == "new");
        CHECK(::unlink(mount.view("new").c_str()) == 0);
        write_at(backing.get(), 3 * page, "changed");
        CHECK(eventually([&] { return mapping.bytes(3 * page, 7) == "changed"; }));
    }

    const ViewMount& mount;
    UniqueFd backing;
    UniqueFd view;
    Mapping mapping;
    UniqueFd unlinked;
    UniqueFd log;
};

Run reload(const std::string& program, const std::string& mountpoint) {
    return run({program, "--reload", mountpoint});
}

}  // namespace

TEST_SUITE_BEGIN("reload");

TEST_CASE("SIGHUP: what is installed now takes over, and nobody loses anything") {
    Installed installed;
    ViewMount mount({"max_size=4M", "stat=real"}, installed.program());
    Holdings holdings(mount);
    const pid_t supervisor = mount.pid();
    CHECK(installed.runs_in(supervisor));
    installed.install(daemon_program);
    CHECK_FALSE(installed.runs_in(supervisor));
    ::kill(supervisor, SIGHUP);
    CHECK(eventually([&] { return counters(mount)["reloads"] == 1; }));
    CHECK(supervisor_of(mount.mountpoint()) == supervisor);
    CHECK(installed.runs_in(supervisor));
    CHECK(eventually([&] { return installed.runs_in(worker_of(supervisor)); }));
    holdings.check();
    CHECK(size_of(mount.view("file")) == static_cast<off_t>(length - page));  // the options are those of before
    // Nothing but the worker and the heir is left behind by it.
    CHECK(eventually([&] { return children(supervisor).size() == 2; }));
    CHECK(heir_of(supervisor) != 0);
    CHECK(kill_worker(supervisor) > 0);
    holdings.check();
    ::kill(supervisor, SIGHUP);
    CHECK(eventually([&] { return counters(mount)["reloads"] == 2; }));
    holdings.check();
}

TEST_CASE("--reload returns when the new one serves") {
    Installed installed;
    ViewMount mount({"max_size=4M"}, installed.program());
    Holdings holdings(mount);
    installed.install(daemon_program);
    const Run run = reload(installed.program(), mount.mountpoint());
    CHECK(run.ending == "exit 0");
    CHECK(run.errors == "");
    CHECK(installed.runs_in(mount.pid()));
    holdings.check();
}

TEST_CASE("what cannot take over does not, and --reload says so") {
    Installed installed;
    ViewMount mount({"max_size=4M"}, installed.program());
    Holdings holdings(mount);
    const std::string old = mount.root() + "/old";
    std::filesystem::copy_file(daemon_program, old);
    std::string reason = "cannot take over";
    SUBCASE("there is nothing installed") {
        installed.remove();
    }
    SUBCASE("a program that has nothing to do with it and ends well") {
        installed.install("/bin/true");
    }
    SUBCASE("a program that ends at once") {
        installed.install("/bin/false");
    }
    SUBCASE("a program that dies") {
        installed.install_script("#!/bin/sh\nkill -9 $$\n");
        reason = "died when it was asked";
    }
    SUBCASE("something that is no program") {
        installed.install_script(
            "\x7f"
            "ELF, so it says");
    }
    SUBCASE("a nosigbus that does not know this state") {
        installed.install(tested("bin/nosigbus_of_another_version"));
        reason = "this nosigbus reads version";
    }
    const pid_t worker = worker_of(mount.pid());
    const Run run = reload(old, mount.mountpoint());
    CHECK(run.ending == "exit 2");
    CHECK(run.errors.find("cannot take over") != std::string::npos);
    CHECK_MESSAGE(mount.errors().find(reason) != std::string::npos, mount.errors());
    CHECK(counters(mount)["failed_reloads"] == 1);
    CHECK(counters(mount)["reloads"] == 0);
    // It has not even been disturbed.
    CHECK(worker_of(mount.pid()) == worker);
    holdings.check();
    // And the next one may be better.
    installed.install(daemon_program);
    CHECK(reload(old, mount.mountpoint()).ending == "exit 0");
    CHECK(installed.runs_in(mount.pid()));
    holdings.check();
}

TEST_CASE("a successor that promises and then fails is followed by the old one") {
    Installed installed;
    ViewMount mount({"max_size=4M"}, installed.program());
    Holdings holdings(mount);
    const std::string old = mount.root() + "/old";
    std::filesystem::copy_file(daemon_program, old);
    const std::string script = "#!/bin/sh\ncase \"$*\" in *--check-resume*) exec " + old + " \"$@\";; esac\n";
    const pid_t first = mount.pid();
    SUBCASE("it ends") {
        installed.install_script(script + "exit 3\n");
    }
    SUBCASE("it dies") {
        installed.install_script(script + "kill -9 $$\n");
    }
    ::kill(mount.pid(), SIGHUP);
    mount.await_successor();
    CHECK(mount.pid() != first);
    CHECK(counters(mount)["failed_reloads"] == 1);
    holdings.check();
    CHECK(kill_worker(mount.pid()) > 0);
    holdings.check();
}

TEST_CASE("reloads under load are not noticed by a reader") {
    Installed installed;
    ViewMount mount({"max_size=4M"}, installed.program());
    const UniqueFd backing = make_file(mount.raw("loaded"), pattern(0, length - page));
    const UniqueFd view = open_file(mount.view("loaded"), O_RDONLY);
    const Mapping mapping(view.get(), length);
    const std::string wanted = padded(pattern(0, length - page), length);
    std::atomic<unsigned> rounds{0};
    std::atomic<unsigned> wrong{0};
    std::jthread loading([&](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
            ::posix_fadvise(view.get(), 0, 0, POSIX_FADV_DONTNEED);
            if (mapping.bytes() != wanted || read_all(view.get()) != pattern(0, length - page)) ++wrong;
            ++rounds;
        }
    });
    for (std::uint64_t i = 1; i <= 6; ++i) {
        installed.install(daemon_program);
        CHECK(reload(installed.program(), mount.mountpoint()).ending == "exit 0");
        CHECK(counters(mount)["reloads"] == i);
        const unsigned before = rounds;
        CHECK(eventually([&] { return rounds > before; }));
    }
    loading.request_stop();
    loading.join();
    CHECK(wrong == 0);
}

TEST_CASE("a daemon that ends right after a reload waits for the process that kept all for it meanwhile") {
    Installed installed;
    ViewMount mount({"max_size=4M"}, installed.program());
    const std::string old = mount.root() + "/old";
    const std::string note = mount.root() + "/keeper";
    std::filesystem::copy_file(daemon_program, old);
    // It is the only child of who takes over.
    installed.install_script(
        "#!/bin/sh\ncase \"$*\" in *--check-resume*) ;; *)\nread -r keeper </proc/$$/task/$$/children\n" +
        fmt::format("kill -STOP $keeper\necho $keeper >{};; esac\nexec {} \"$@\"\n", note, old));
    CHECK(reload(old, mount.mountpoint()).ending == "exit 0");
    const pid_t keeper = std::atoi(read_all(note).c_str());
    REQUIRE(keeper > 0);
    CHECK(mount.unmount() == 0);
    CHECK(eventually([&] { return !mount.running() || children(mount.pid()) == std::vector<pid_t>{keeper}; }));
    ::kill(keeper, SIGCONT);
    CHECK(mount.wait() == "exit 0");
    CHECK(children().empty());  // what a daemon leaves behind comes to us
}

TEST_CASE("--reload of what is no mount of ours says so") {
    const Directories directories;
    const Run run = reload(daemon_program, directories.plain());
    CHECK(run.ending == "exit 2");
    CHECK(run.errors.find(directories.plain() + ": not a mount of nosigbus") != std::string::npos);
    CHECK(reload(daemon_program, directories.plain() + "/missing").ending == "exit 2");
}

TEST_SUITE_END();
