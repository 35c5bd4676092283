// Programs that lie in the mount and are run from there.
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include <csignal>
#include <filesystem>

#include "tests/mount/files.h"
#include "tests/mount/trials.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

void put(const std::string& program, const std::string& path, mode_t mode = 0755) {
    std::filesystem::copy_file(std::filesystem::canonical(program), path);
    must(::chmod(path.c_str(), mode), "chmod");
}

void write_script(const std::string& path, const std::string& text, mode_t mode = 0755) {
    make_file(path, text);
    must(::chmod(path.c_str(), mode), "chmod");
}

// How it ended and what it said, as `user`.
std::string ran(const std::vector<std::string>& command, const User& user = root,
                const std::vector<std::string>& environment = {}) {
    const Run finished = run(command, {.environment = environment, .before_exec = [&] { become(user); }});
    return finished.ending + " " + finished.output;
}

// execve(2)'s own answer: "0" where it begins.
std::string started(const std::string& path, const User& user = root) {
    return as_user(user, [&] {
        // The answer is given when the program has begun, which takes the pipe with it, or has not.
        int ends[2] = {-1, -1};
        must(::pipe2(ends, O_CLOEXEC), "pipe2");
        const UniqueFd reader(ends[0]);
        UniqueFd writer(ends[1]);
        const pid_t pid = fork_process();
        if (pid == 0) {
            ::execl(path.c_str(), path.c_str(), nullptr);
            const int error = errno;
            static_cast<void>(::write(writer.get(), &error, sizeof error));
            ::_exit(1);
        }
        writer.reset();
        int error = 0;
        const bool failed = ::read(reader.get(), &error, sizeof error) == sizeof error;
        const std::string how = wait_for(pid);
        errno = error;
        return failed ? answer(-1) : how;
    });
}

// A program that runs until it is killed, and has begun.
class Sleeper {
  public:
    explicit Sleeper(const std::string& path) : process_({path, "1000"}) {
        const std::string name = std::filesystem::path(path).filename().string();
        if (!eventually([&] { return command_name(process_.pid()) == name; }))
            throw std::runtime_error("it did not begin: " + process_.errors());
    }

  private:
    Process process_;
};

std::string opened_in_turn(const std::string& path) {
    return in_turn({opened(path, O_RDONLY), opened(path, O_WRONLY), opened(path, O_RDWR),
                    opened(path, O_RDWR | O_TRUNC), opened(path, O_WRONLY | O_APPEND),
                    answer(::truncate(path.c_str(), 100000)), opened(path, O_PATH), answer(::chmod(path.c_str(), 0755)),
                    answer(::rename(path.c_str(), (path + "-new").c_str())),
                    answer(::rename((path + "-new").c_str(), path.c_str()))});
}

}  // namespace

TEST_SUITE_BEGIN("exec");

TEST_CASE("programs and scripts run from the mount, by all who may") {
    Parity parity(plain_like);
    parity.same("programs", [](auto& dir) {
        put("/bin/true", dir + "/true");
        put("/bin/false", dir + "/false");
        put("/bin/echo", dir + "/echo");
        put("/bin/sh", dir + "/sh");
        put("/bin/echo", dir + "/unreadable", 0711);
        put("/bin/echo", dir + "/no program", 0644);
        put("/bin/echo", dir + "/root's", 0700);
        write_script(dir + "/script", "#!/bin/sh\necho \"$1\" from a script\nexit 3\n");
        write_script(dir + "/script of ours", "#!" + dir + "/sh\necho by our own shell\n");
        write_script(dir + "/unreadable script", "#!/bin/sh\necho\n", 0711);
        write_script(dir + "/script of nobody", "#!/no/such/interpreter\n");
        write_script(dir + "/text", "no program at all");
        write_script(dir + "/empty", "");
        must(::symlink("echo", (dir + "/link").c_str()), "symlink");
        return std::string();
    });
    for (const User& user : {root, stranger}) {
        for (const std::string name : {"true", "false", "echo", "unreadable", "script", "script of ours", "link"})
            parity.same(name, [&](auto& dir) { return ran({dir + "/" + name, "words"}, user); });
        for (const std::string name : {"true", "no program", "root's", "unreadable", "unreadable script",
                                       "script of nobody", "text", "empty", "nothing", "."}) {
            parity.same("execve of " + name, [&](auto& dir) { return started(dir + "/" + name, user); });
        }
    }
    CHECK(ran({parity.mount().view("echo"), "words"}) == "exit 0 words\n");
}

TEST_CASE("a program runs with libraries that lie in the mount") {
    Parity parity(plain_like);
    Dl_info ours{};
    REQUIRE(::dladdr(::dlsym(RTLD_DEFAULT, "gnu_get_libc_version"), &ours) != 0);
    parity.same("libraries", [&ours](auto& dir) {
        put(ours.dli_fname, dir + "/libc.so.6");
        return std::string();
    });
    REQUIRE(std::filesystem::exists(parity.mount().view("libc.so.6")));
    for (const User& user : {root, stranger}) {
        const std::string said = parity.same("grep of its own maps", [&](auto& dir) {
            const std::string maps = ran({"/bin/cat", "/proc/self/maps"}, user, {"LD_LIBRARY_PATH=" + dir});
            return maps.find(dir + "/libc.so.6") == std::string::npos ? "another library" : "its library";
        });
        CHECK(said == "its library");
    }
}

TEST_CASE("a program that runs is not written to, and a file that is written to does not run") {
    Parity parity(plain_like);
    parity.same("a program", [](auto& dir) {
        put("/bin/sleep", dir + "/sleeper");
        put("/bin/true", dir + "/true");
        return std::string();
    });
    const std::string busy = parity.same("while it runs", [](auto& dir) {
        const Sleeper sleeper(dir + "/sleeper");
        return opened_in_turn(dir + "/sleeper");
    });
    CHECK(busy.find("ETXTBSY") != std::string::npos);
    parity.same("unlinked while it runs", [](auto& dir) {
        must(::link((dir + "/sleeper").c_str(), (dir + "/second").c_str()), "link");
        const Sleeper sleeper(dir + "/second");
        return in_turn({answer(::unlink((dir + "/second").c_str())), opened(dir + "/sleeper", O_WRONLY)});
    });
    CHECK(eventually([&] { return opened(parity.mount().view("sleeper"), O_WRONLY) == "0"; }));
    parity.same("when it has ended", [](auto& dir) { return opened_in_turn(dir + "/sleeper"); });
    for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR}) {
        parity.same("execve while it is open", [flags](auto& dir) {
            const UniqueFd file = open_file(dir + "/true", flags);
            return started(dir + "/true");
        });
    }
    parity.same("execve when it was closed", [](auto& dir) { return started(dir + "/true"); });
    parity.same("execve while it is mapped for writing", [](auto& dir) {
        UniqueFd file = open_file(dir + "/true", O_RDWR);
        void* const mapped = must(::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0), "mmap");
        file.reset();
        std::string said = started(dir + "/true");
        ::munmap(mapped, page);
        return said;
    });
}

TEST_CASE("a program that was replaced runs as it was, and the name leads to the new one") {
    const ViewMount mount({"max_size=1M"});
    put("/bin/sleep", mount.raw("program"));
    const Sleeper sleeper(mount.view("program"));
    put("/bin/true", mount.raw("new"));
    must(std::rename(mount.raw("new").c_str(), mount.raw("program").c_str()), "rename");
    CHECK(ran({mount.view("program")}) == "exit 0 ");
    put("/bin/false", mount.raw("newer"));
    must(std::rename(mount.raw("newer").c_str(), mount.raw("program").c_str()), "rename");
    CHECK(ran({mount.view("program")}) == "exit 1 ");
}

TEST_CASE("a script that is changed in the source runs as it is now") {
    const ViewMount mount({"max_size=1M"});
    write_script(mount.raw("script"), "#!/bin/sh\necho one\n");
    for (const std::string word : {"two", "three and more", "4"}) {
        ran({mount.view("script")});
        const UniqueFd file = open_file(mount.raw("script"), O_WRONLY | O_TRUNC);
        write_at(file.get(), 0, "#!/bin/sh\necho " + word + "\n");
        CHECK(eventually([&] { return ran({mount.view("script")}) == "exit 0 " + word + "\n"; }));
    }
}

TEST_CASE("fexecve and execveat") {
    Parity parity(plain_like);
    parity.same("a program", [](auto& dir) {
        put("/bin/true", dir + "/true");
        write_script(dir + "/script", "#!/bin/sh\nexit 4\n");
        return std::string();
    });
    for (const std::string name : {"true", "script"}) {
        for (const int flags : {O_RDONLY, O_PATH}) {
            parity.same(name, [&](auto& dir) {
                // The interpreter of a script opens it by its descriptor.
                const UniqueFd file(::open((dir + "/" + name).c_str(), flags));
                const pid_t pid = fork_process();
                if (pid == 0) {
                    char* arguments[] = {const_cast<char*>("program"), nullptr};
                    ::fexecve(file.get(), arguments, environ);
                    ::_exit(99);
                }
                return wait_for(pid);
            });
        }
    }
}

TEST_CASE("noexec: nothing runs, and nothing is mapped to be run") {
    const Parity parity({"max_size=1M", "noexec"});
    const ViewMount& mount = parity.mount();
    for (const std::string& top : {mount.source(), mount.plain()}) {
        put("/bin/true", top + "/true");
        write_script(top + "/script", "#!/bin/sh\n");
    }
    must(::mount(nullptr, mount.plain().c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_NOEXEC | MS_NOSUID | MS_NODEV,
                 nullptr),
         "remount");
    const auto tried = [](const std::string& dir) {
        const UniqueFd file = open_file(dir + "/true", O_RDONLY);
        void* const mapped = ::mmap(nullptr, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, file.get(), 0);
        std::string said = mapped == MAP_FAILED ? answer(-1) : "mapped";
        if (mapped != MAP_FAILED) ::munmap(mapped, page);
        return said + " " +
               in_turn({started(dir + "/true"), started(dir + "/script", stranger), ran({"/bin/sh", dir + "/script"}),
                        answer(::access((dir + "/true").c_str(), X_OK))});
    };
    CHECK(tried(mount.mountpoint()) == tried(mount.plain()));
}

TEST_CASE("set-user-id programs: with suid and without") {
    const auto said_by = [](const std::vector<std::string>& options, unsigned long flags) {
        const Parity parity(options);
        const ViewMount& mount = parity.mount();
        for (const std::string& top : {mount.source(), mount.plain()}) {
            put("/usr/bin/id", top + "/id", 06755);
            must(::chown((top + "/id").c_str(), 1000, shared_group), "chown");
            must(::chmod((top + "/id").c_str(), 06755), "chmod");
        }
        // The plain tmpfs is nosuid: the flags of one mount, not of the file system.
        must(::mount(nullptr, mount.plain().c_str(), nullptr, MS_REMOUNT | MS_BIND | flags, nullptr), "remount");
        const auto asked = [](const std::string& dir) {
            return in_turn({ran({dir + "/id", "-u"}, stranger), ran({dir + "/id", "-g"}, stranger),
                            ran({dir + "/id", "-u"}), ran({dir + "/id", "-ru"}, stranger)});
        };
        const std::string wanted = asked(mount.plain());
        CHECK(asked(mount.mountpoint()) == wanted);
        return wanted;
    };
    CHECK(said_by({"max_size=1M", "suid"}, 0).starts_with("exit 0 1000\n exit 0 700\n"));
    CHECK(said_by({"max_size=1M", "nosuid"}, MS_NOSUID).starts_with("exit 0 65534\n exit 0 65534\n"));
    CHECK(said_by({"max_size=1M"}, MS_NOSUID).starts_with("exit 0 65534\n exit 0 65534\n"));
}

TEST_CASE("capabilities of a program: with suid and without") {
    const auto said_by = [](const std::string& option, unsigned long flags) {
        const Parity parity({"max_size=1M", option});
        const ViewMount& mount = parity.mount();
        // linux/capability.h: revision 2, effective, CAP_NET_RAW permitted.
        const std::uint32_t capability[] = {0x02000001, 1U << 13U, 0, 0, 0};
        for (const std::string& top : {mount.source(), mount.plain()}) {
            put("/bin/grep", top + "/grep");
            must(::setxattr((top + "/grep").c_str(), "security.capability", capability, sizeof capability, 0),
                 "setxattr");
        }
        must(::mount(nullptr, mount.plain().c_str(), nullptr, MS_REMOUNT | MS_BIND | flags, nullptr), "remount");
        const auto asked = [](const std::string& dir) {
            return ran({dir + "/grep", "CapEff", "/proc/self/status"}, stranger);
        };
        const std::string wanted = asked(mount.plain());
        CHECK(asked(mount.mountpoint()) == wanted);
        return wanted;
    };
    CHECK(said_by("suid", 0) == "exit 0 CapEff:\t0000000000002000\n");
    CHECK(said_by("nosuid", MS_NOSUID) == "exit 0 CapEff:\t0000000000000000\n");
}

TEST_SUITE_END();
