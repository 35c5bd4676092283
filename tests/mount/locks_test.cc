// Locks: flock(2), those of fcntl(2) that a process owns, and those of open file descriptions.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>

#include <csignal>
#include <fstream>

#include "tests/mount/eventually.h"
#include "tests/mount/files.h"
#include "tests/mount/trials.h"
#include "tests/mount/worker.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

struct flock range(short type, off_t start = 0, off_t length = 0, short whence = SEEK_SET) {
    struct flock lock {};
    lock.l_type = type;
    lock.l_whence = whence;
    lock.l_start = start;
    lock.l_len = length;
    return lock;
}

std::string locked(int fd, int command, short type, off_t start = 0, off_t length = 0, short whence = SEEK_SET) {
    struct flock lock = range(type, start, length, whence);
    return answer(::fcntl(fd, command, &lock));
}

// Who is in the way of a lock: its type, its range and whether it is our own parent's.
std::string in_the_way(int fd, int command, short type, off_t start = 0, off_t length = 0) {
    struct flock lock = range(type, start, length);
    const int result = ::fcntl(fd, command, &lock);
    if (result != 0) return answer(result);
    if (lock.l_type == F_UNLCK) return "nobody";
    const std::string owner = lock.l_pid == ::getppid() ? "my parent" : lock.l_pid == -1 ? "no process" : "somebody";
    return fmt::format("{} {} {}+{}", owner, lock.l_type == F_RDLCK ? "reads" : "writes", lock.l_start, lock.l_len);
}

UniqueFd of(const std::string& dir, int flags = O_RDWR) {
    return open_file(dir + "/file", flags);
}

// Asks in another process, and as another user too.
std::string others(const std::function<std::string()>& question) {
    return in_turn({as_user(root, question), as_user(stranger, question)});
}

// Whether somebody waits for a lock of the file behind `fd`. proc(5) tells by inode: a lock of an open file description
// has no process.
bool is_waited_for(int fd) {
    const struct stat file = status(fd);
    const std::string inode = fmt::format(" {:02x}:{:02x}:{} ", major(file.st_dev), minor(file.st_dev), file.st_ino);
    std::ifstream locks("/proc/locks");
    for (std::string line; std::getline(locks, line);) {
        if (line.find("->") != std::string::npos && line.find(inode) != std::string::npos) return true;
    }
    return false;
}

// A process that does something and then waits until it is told to end, or killed.
class Companion {
  public:
    explicit Companion(const std::function<void()>& deed) {
        int done[2] = {-1, -1};
        must(::pipe2(done, O_CLOEXEC), "pipe2");
        const UniqueFd reader(done[0]);
        UniqueFd writer(done[1]);
        pid_ = fork_process();
        if (pid_ == 0) {
            try {
                deed();
                static_cast<void>(::write(writer.get(), "x", 1));
                for (;;) ::pause();
            } catch (const std::exception& failure) {
                fmt::print(stderr, "{}\n", failure.what());
            }
            ::_exit(1);
        }
        writer.reset();
        char byte = 0;
        if (::read(reader.get(), &byte, 1) != 1) throw std::runtime_error("it failed");
    }
    Companion(const Companion&) = delete;
    Companion& operator=(const Companion&) = delete;
    ~Companion() { end(); }

    void end() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        wait_for(pid_);
        pid_ = -1;
    }

  private:
    pid_t pid_ = -1;
};

// A process that waits for something which another one holds; says what came of it.
class Waiter {
  public:
    explicit Waiter(const std::function<std::string()>& wait)
        : answer_(must(::memfd_create("answer", MFD_CLOEXEC), "memfd_create")), pid_(fork_process()) {
        if (pid_ != 0) return;
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        try {
            write_at(answer_.get(), 0, wait());
        } catch (const std::exception& failure) {
            write_at(answer_.get(), 0, failure.what());
        }
        ::_exit(0);
    }
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;
    ~Waiter() {
        ::kill(pid_, SIGKILL);
        said();
    }

    std::string said() {
        if (ending_.empty()) ending_ = wait_for(pid_);
        return ending_ + " " + read_all(answer_.get());
    }
    void kill(int signal) const { ::kill(pid_, signal); }

  private:
    UniqueFd answer_;
    pid_t pid_;
    std::string ending_;
};

Step prepared() {
    return [](auto& dir) {
        make_file(dir + "/file", pattern(0, 10000));
        must(::chmod((dir + "/file").c_str(), 0666), "chmod");
        return std::string();
    };
}

}  // namespace

TEST_SUITE_BEGIN("locks");

TEST_CASE("flock between open files, processes and users") {
    Parity parity(plain_like);
    parity.same("a file", prepared());
    for (const int held : {LOCK_SH, LOCK_EX}) {
        parity.same(fmt::format("others, where {} is held", held), [held](auto& dir) {
            const UniqueFd file = of(dir);
            const UniqueFd same = UniqueFd(::fcntl(file.get(), F_DUPFD_CLOEXEC, 0));
            const UniqueFd second = of(dir, O_RDONLY);
            std::string said = answer(::flock(file.get(), held)) + " ";
            for (const int wanted : {LOCK_SH, LOCK_EX}) {
                said += in_turn({answer(::flock(same.get(), held | LOCK_NB)),
                                 answer(::flock(second.get(), wanted | LOCK_NB)),
                                 others([&] { return answer(::flock(of(dir).get(), wanted | LOCK_NB)); }), ""});
                ::flock(second.get(), LOCK_UN);
            }
            // By the same description, and so for all that share it.
            said += in_turn({answer(::flock(same.get(), LOCK_UN)),
                             others([&] { return answer(::flock(of(dir).get(), LOCK_EX | LOCK_NB)); })});
            return said;
        });
    }
    parity.same("upgrade and downgrade", [](auto& dir) {
        const UniqueFd one = of(dir);
        const UniqueFd two = of(dir);
        return in_turn({answer(::flock(one.get(), LOCK_SH)), answer(::flock(two.get(), LOCK_SH)),
                        answer(::flock(one.get(), LOCK_EX | LOCK_NB)), answer(::flock(two.get(), LOCK_UN)),
                        answer(::flock(one.get(), LOCK_EX | LOCK_NB)), answer(::flock(two.get(), LOCK_SH | LOCK_NB)),
                        answer(::flock(one.get(), LOCK_SH)), answer(::flock(two.get(), LOCK_SH | LOCK_NB))});
    });
    parity.same("what is no lock", [](auto& dir) {
        return in_turn({answer(::flock(of(dir).get(), 0)), answer(::flock(of(dir).get(), LOCK_SH | LOCK_EX)),
                        answer(::flock(of(dir, O_PATH).get(), LOCK_SH)), answer(::flock(-1, LOCK_SH))});
    });
    parity.same("a directory", [](auto& dir) {
        const UniqueFd one = open_file(dir, O_RDONLY | O_DIRECTORY);
        const UniqueFd two = open_file(dir, O_RDONLY | O_DIRECTORY);
        return in_turn({answer(::flock(one.get(), LOCK_EX)), answer(::flock(two.get(), LOCK_EX | LOCK_NB))});
    });
    parity.same("a lock goes with the last descriptor", [](auto& dir) {
        UniqueFd one = of(dir);
        UniqueFd same = UniqueFd(::fcntl(one.get(), F_DUPFD_CLOEXEC, 0));
        must(::flock(one.get(), LOCK_EX), "flock");
        const auto free = [&] { return answer(::flock(of(dir).get(), LOCK_EX | LOCK_NB)); };
        one.reset();
        std::string said = free();
        same.reset();
        return said + " " + free();
    });
    parity.same("hard links are one file", [](auto& dir) {
        must(::link((dir + "/file").c_str(), (dir + "/twin").c_str()), "link");
        const UniqueFd one = of(dir);
        const UniqueFd two = open_file(dir + "/twin", O_RDWR);
        return in_turn({answer(::flock(one.get(), LOCK_EX)), answer(::flock(two.get(), LOCK_EX | LOCK_NB)),
                        locked(one.get(), F_SETLK, F_WRLCK),
                        others([&] { return locked(open_file(dir + "/twin", O_RDWR).get(), F_SETLK, F_WRLCK); })});
    });
}

TEST_CASE("locks of a process, between processes and users") {
    Parity parity(plain_like);
    parity.same("a file", prepared());
    parity.same("what is in the way", [](auto& dir) {
        const UniqueFd file = of(dir);
        std::string said =
            in_turn({locked(file.get(), F_SETLK, F_WRLCK, 100, 100), locked(file.get(), F_SETLK, F_RDLCK, 300, 0)});
        for (const auto& [start, length] : {std::pair(0, 100), {0, 101}, {150, 10}, {200, 100}, {0, 0}, {1000000, 5}}) {
            for (const short type : {short{F_RDLCK}, short{F_WRLCK}}) {
                said += "\n" + others([&, start = start, length = length] {
                            const UniqueFd mine = of(dir);
                            return in_turn({in_the_way(mine.get(), F_GETLK, type, start, length),
                                            locked(mine.get(), F_SETLK, type, start, length)});
                        });
            }
        }
        return said;
    });
    parity.same("splitting and joining", [](auto& dir) {
        const UniqueFd file = of(dir);
        const auto seen = [&] {
            return as_user(stranger, [&] {
                const UniqueFd mine = of(dir);
                std::string all;
                for (const off_t at : {0, 10, 20, 30, 40})
                    all += in_the_way(mine.get(), F_GETLK, F_WRLCK, at, 10) + "; ";
                return all;
            });
        };
        return in_turn(
            {locked(file.get(), F_SETLK, F_WRLCK, 0, 50), seen(), locked(file.get(), F_SETLK, F_UNLCK, 10, 10), seen(),
             locked(file.get(), F_SETLK, F_RDLCK, 30, 10), seen(), locked(file.get(), F_SETLK, F_WRLCK, 5, 40), seen(),
             locked(file.get(), F_SETLK, F_UNLCK), seen()});
    });
    parity.same("ranges of other kinds", [](auto& dir) {
        const UniqueFd file = of(dir);
        must(::lseek(file.get(), 100, SEEK_SET), "lseek");
        return in_turn({locked(file.get(), F_SETLK, F_WRLCK, 10, -10), locked(file.get(), F_SETLK, F_WRLCK, 5, -10),
                        locked(file.get(), F_SETLK, F_WRLCK, -1, 5),
                        locked(file.get(), F_SETLK, F_WRLCK, 10, 20, SEEK_CUR),
                        locked(file.get(), F_SETLK, F_WRLCK, -200, 20, SEEK_CUR), locked(file.get(), F_SETLK, 77),
                        locked(file.get(), F_SETLK, F_WRLCK, 0, 1, 9),
                        others([&] { return in_the_way(of(dir).get(), F_GETLK, F_WRLCK, 105); })});
    });
    parity.same("descriptors that may not", [](auto& dir) {
        return in_turn(
            {locked(of(dir, O_RDONLY).get(), F_SETLK, F_WRLCK), locked(of(dir, O_WRONLY).get(), F_SETLK, F_RDLCK),
             locked(of(dir, O_RDONLY).get(), F_SETLK, F_RDLCK), locked(of(dir, O_WRONLY).get(), F_SETLK, F_WRLCK),
             locked(of(dir, O_PATH).get(), F_SETLK, F_RDLCK),
             locked(open_file(dir, O_RDONLY | O_DIRECTORY).get(), F_SETLK, F_RDLCK)});
    });
    parity.same("any close of the file lets go of them", [](auto& dir) {
        const UniqueFd file = of(dir);
        const auto free = [&] {
            return as_user(stranger, [&] { return in_the_way(of(dir).get(), F_GETLK, F_WRLCK); });
        };
        must(::fcntl(file.get(), F_GETFD), "fcntl");
        std::string said = in_turn({locked(file.get(), F_SETLK, F_WRLCK), free()});
        of(dir).reset();
        return said + " " + free();
    });
    parity.same("a child does not inherit them", [](auto& dir) {
        const UniqueFd file = of(dir);
        return in_turn(
            {locked(file.get(), F_SETLK, F_WRLCK), others([&] {
                 return in_turn({in_the_way(file.get(), F_GETLK, F_WRLCK), locked(file.get(), F_SETLK, F_WRLCK)});
             })});
    });
}

TEST_CASE("locks of open file descriptions") {
    Parity parity(plain_like);
    parity.same("a file", prepared());
    parity.same("two descriptions of one process", [](auto& dir) {
        const UniqueFd one = of(dir);
        const UniqueFd two = of(dir);
        return in_turn(
            {locked(one.get(), F_OFD_SETLK, F_WRLCK, 0, 100), locked(two.get(), F_OFD_SETLK, F_RDLCK, 50, 100),
             in_the_way(two.get(), F_OFD_GETLK, F_RDLCK, 50, 100), locked(two.get(), F_SETLK, F_WRLCK, 50, 100),
             in_the_way(two.get(), F_GETLK, F_WRLCK), locked(two.get(), F_OFD_SETLK, F_RDLCK, 100, 100), others([&] {
                 return in_turn({in_the_way(of(dir).get(), F_OFD_GETLK, F_WRLCK, 150, 10),
                                 locked(one.get(), F_OFD_SETLK, F_UNLCK)});
             }),
             locked(two.get(), F_OFD_SETLK, F_RDLCK, 50, 100)});
    });
    parity.same("another close does not let go of them", [](auto& dir) {
        UniqueFd one = of(dir);
        must(::fcntl(one.get(), F_GETFD), "fcntl");
        std::string said = locked(one.get(), F_OFD_SETLK, F_WRLCK);
        of(dir).reset();
        const auto free = [&] { return locked(of(dir).get(), F_OFD_SETLK, F_WRLCK); };
        said += " " + free();
        one.reset();
        return said + " " + free();
    });
    parity.same("a pid in a request", [](auto& dir) {
        struct flock lock = range(F_WRLCK);
        lock.l_pid = ::getpid();
        return answer(::fcntl(of(dir).get(), F_OFD_SETLK, &lock));
    });
}

TEST_CASE("who waits for a lock gets it when it is free") {
    Parity parity(plain_like);
    parity.same("a file", prepared());
    const std::vector<std::pair<std::string, std::function<std::string(int)>>> waits = {
        {"flock", [](int fd) { return answer(::flock(fd, LOCK_EX)); }},
        {"F_SETLKW", [](int fd) { return locked(fd, F_SETLKW, F_WRLCK); }},
        {"F_OFD_SETLKW", [](int fd) { return locked(fd, F_OFD_SETLKW, F_WRLCK); }}};
    for (const auto& [name, wait] : waits) {
        const std::string said = parity.same(name, [&, wait = wait](auto& dir) {
            UniqueFd file = of(dir);
            std::string said = wait(file.get());
            Waiter waiter([&] {
                file.reset();  // or the child would share the description, and the lock
                become(stranger);
                return wait(of(dir).get());
            });
            said += eventually([&] { return is_waited_for(file.get()); }) ? " waits" : " does not wait";
            ::flock(file.get(), LOCK_UN);
            locked(file.get(), F_SETLK, F_UNLCK);
            locked(file.get(), F_OFD_SETLK, F_UNLCK);
            return said + " " + waiter.said();
        });
        CHECK(said == "0 waits exit 0 0");
        parity.same(name + ", killed while it waits", [&, wait = wait](auto& dir) {
            UniqueFd file = of(dir);
            std::string said = wait(file.get());
            Waiter waiter([&] {
                file.reset();
                return wait(of(dir).get());
            });
            said += eventually([&] { return is_waited_for(file.get()); }) ? " waits" : " does not wait";
            waiter.kill(SIGKILL);
            return said + " " + waiter.said();
        });
    }
    parity.same("a deadlock of two processes", [](auto& dir) {
        const UniqueFd file = of(dir);
        std::string said = locked(file.get(), F_SETLK, F_WRLCK, 0, 1);
        Waiter waiter([&] {
            const UniqueFd mine = of(dir);
            std::string words = locked(mine.get(), F_SETLK, F_WRLCK, 1, 1);
            return words + " " + locked(mine.get(), F_SETLKW, F_WRLCK, 0, 1);
        });
        said += eventually([&] { return is_waited_for(file.get()); }) ? " waits" : " does not wait";
        said += " " + locked(file.get(), F_SETLKW, F_WRLCK, 1, 1);
        said += " " + locked(file.get(), F_SETLK, F_UNLCK, 0, 1);
        return said + " " + waiter.said();
    });
}

TEST_CASE("locks go with the process that held them") {
    Parity parity(plain_like);
    parity.same("a file", prepared());
    const std::vector<std::pair<std::string, std::function<std::string(int)>>> ways = {
        {"flock", [](int fd) { return answer(::flock(fd, LOCK_EX | LOCK_NB)); }},
        {"F_SETLK", [](int fd) { return locked(fd, F_SETLK, F_WRLCK); }},
        {"F_OFD_SETLK", [](int fd) { return locked(fd, F_OFD_SETLK, F_WRLCK); }}};
    for (const auto& [name, lock] : ways) {
        parity.same(name, [lock = lock](auto& dir) {
            Companion holder([&] {
                static const UniqueFd file = of(dir);
                if (lock(file.get()) != "0") throw std::runtime_error("it is not free");
            });
            std::string said = lock(of(dir).get());
            holder.end();
            return said + " " + lock(of(dir).get());
        });
    }
}

TEST_CASE("a lock survives the worker and the supervisor that served its file") {
    ViewMount mount(plain_like);
    const std::string dir = mount.mountpoint();
    prepared()(dir);

    const UniqueFd shared = of(dir);
    const UniqueFd owned = open_file(dir + "/second", O_RDWR | O_CREAT, 0666);
    must(::chmod((dir + "/second").c_str(), 0666), "chmod");
    const UniqueFd described = open_file(dir + "/third", O_RDWR | O_CREAT, 0666);
    must(::chmod((dir + "/third").c_str(), 0666), "chmod");
    must(::flock(shared.get(), LOCK_EX), "flock");
    REQUIRE(locked(owned.get(), F_SETLK, F_WRLCK) == "0");
    REQUIRE(locked(described.get(), F_OFD_SETLK, F_WRLCK) == "0");
    const auto asked = [&] {
        return others([&] {
            return in_turn({answer(::flock(of(dir).get(), LOCK_EX | LOCK_NB)),
                            locked(open_file(dir + "/second", O_RDWR).get(), F_SETLK, F_WRLCK),
                            locked(open_file(dir + "/third", O_RDWR).get(), F_OFD_SETLK, F_WRLCK)});
        });
    };
    CHECK(asked() == "EAGAIN EAGAIN EAGAIN EAGAIN EAGAIN EAGAIN");
    for (int round = 0; round < 3; ++round) {
        REQUIRE(eventually([&] { return kill_worker(mount.pid()) > 0; }));
        CHECK(asked() == "EAGAIN EAGAIN EAGAIN EAGAIN EAGAIN EAGAIN");
    }
    mount.kill_supervisor();
    CHECK(asked() == "EAGAIN EAGAIN EAGAIN EAGAIN EAGAIN EAGAIN");
    // And it can be let go of.
    must(::flock(shared.get(), LOCK_UN), "flock");
    CHECK(locked(owned.get(), F_SETLK, F_UNLCK) == "0");
    CHECK(locked(described.get(), F_OFD_SETLK, F_UNLCK) == "0");
    CHECK(asked() == "0 0 0 0 0 0");
}

TEST_SUITE_END();
