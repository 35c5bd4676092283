#include "lib/peer_descriptor.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <functional>
#include <future>
#include <system_error>
#include <thread>

#include "lib/syscalls.h"
#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

int error_of(pid_t thread, int number) {
    try {
        descriptor_of(thread, number);
        return 0;
    } catch (const std::system_error& failure) {
        return failure.code().value();
    }
}

UniqueFd memory(const char* content) {
    UniqueFd file(sys::check(::memfd_create(content, MFD_CLOEXEC), "memfd_create"));
    sys::write_at(file.get(), std::as_bytes(std::span(std::string_view(content))), 0);
    return file;
}

// A process that lives while this does, after `prepare` has run in it.
class Peer {
  public:
    explicit Peer(const std::function<void()>& prepare) : child_(::fork()) {
        if (child_ == 0) {
            ready_.second.reset();
            prepare();
            ::write(ready_.first.get(), "", 1);
            for (;;) ::pause();
        }
        ready_.first.reset();
        char none = 0;
        REQUIRE(::read(ready_.second.get(), &none, 1) == 1);
    }
    Peer(const Peer&) = delete;
    Peer& operator=(const Peer&) = delete;
    ~Peer() {
        ::kill(child_, SIGKILL);
        ::waitpid(child_, nullptr, 0);
    }

    [[nodiscard]] pid_t pid() const { return child_; }

  private:
    static std::pair<UniqueFd, UniqueFd> make_pair() {
        int ends[2];
        sys::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
        return {UniqueFd(ends[0]), UniqueFd(ends[1])};
    }

    std::pair<UniqueFd, UniqueFd> ready_ = make_pair();
    pid_t child_;
};

}  // namespace

TEST_CASE("what another process has open is the same file, with its rights and no more") {
    const TemporaryDirectory directory;
    make_file(directory.file("a"), "disk");
    constexpr int number = 200;
    struct Case {
        int flags;
        Rights rights;
    };
    for (const Case& each : {Case{O_RDONLY, {true, false}}, Case{O_WRONLY, {false, true}},
                             Case{O_RDWR | O_APPEND, {true, true}}, Case{O_PATH, {false, false}}}) {
        CAPTURE(each.flags);
        const Peer peer([&] { ::dup2(::open(directory.file("a").c_str(), each.flags), number); });
        const PeerDescriptor found = descriptor_of(peer.pid(), number);
        CHECK(found.rights == each.rights);
        const UniqueFd file = sys::open_at(AT_FDCWD, directory.file("a").c_str(), O_PATH);
        CHECK(sys::stat_fd(found.descriptor.get(), STATX_INO).stx_ino == sys::stat_fd(file.get(), STATX_INO).stx_ino);
        if (each.rights.read) CHECK(content_of(found.descriptor.get()) == "disk");
    }
}

TEST_CASE("what is no regular file, or not there, is said to be so") {
    constexpr int pipe_number = 201;
    constexpr int directory_number = 202;
    constexpr int event_number = 203;
    const Peer peer([&] {
        int ends[2];
        ::pipe(ends);
        ::dup2(ends[0], pipe_number);
        ::dup2(::open("/", O_RDONLY | O_DIRECTORY), directory_number);
        ::dup2(::eventfd(0, 0), event_number);
    });
    for (const int number : {pipe_number, directory_number, event_number}) {
        CAPTURE(number);
        CHECK(error_of(peer.pid(), number) == EOPNOTSUPP);
    }
    CHECK(error_of(peer.pid(), 777) == ENOENT);
    CHECK(error_of(peer.pid(), 0x7fff'ffff) == ENOENT);
}

TEST_CASE("a thread that is not there, or not to be seen, is refused") {
    pid_t ended = 0;
    {
        const Peer peer([] {});
        ended = peer.pid();
    }
    CHECK(error_of(ended, 0) == EACCES);
    CHECK(error_of(0, 0) == EACCES);  // in another pid namespace
    CHECK(error_of(-1, 0) == EACCES);
}

TEST_CASE("a thread's own descriptors count, where it has some") {
    const UniqueFd shared = memory("shared");
    std::promise<pid_t> own_thread;
    std::promise<void> looked;
    std::thread thread([&] {
        sys::check(::unshare(CLONE_FILES), "unshare");
        const UniqueFd own = memory("own");
        sys::check(::dup2(own.get(), shared.get()), "dup2");
        own_thread.set_value(::gettid());
        looked.get_future().wait();
    });
    const pid_t id = own_thread.get_future().get();
    std::string content;
    int error = 0;
    try {
        content = content_of(descriptor_of(id, shared.get()).descriptor.get());
    } catch (const std::system_error& failure) {
        error = failure.code().value();
    }
    looked.set_value();
    thread.join();
    // Before Linux 6.9 the kernel gives those of the process only, and so we none.
    CHECK((content == "own" || error == EACCES));
    CHECK(content_of(descriptor_of(::gettid(), shared.get()).descriptor.get()) == "shared");
}

TEST_CASE("only root takes what a process has open that nobody may look into") {
    constexpr int number = 204;
    const Peer peer([&] {
        const UniqueFd file = memory("secret");
        ::dup2(file.get(), number);
        ::prctl(PR_SET_DUMPABLE, 0);
    });
    if (::geteuid() == 0) {
        CHECK(content_of(descriptor_of(peer.pid(), number).descriptor.get()) == "secret");
    } else {
        CHECK(error_of(peer.pid(), number) == EACCES);
    }
}
