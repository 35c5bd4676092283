#include "fs/request_threads.h"

#include <doctest/doctest.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <vector>

#include "tests/session/fake_kernel.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// A file system whose GETATTR of a node waits until the test lets it go.
class WaitingFileSystem {
  public:
    void wait(fuse_ino_t node) {
        std::unique_lock lock(mutex_);
        ++waiting_;
        changed_.notify_all();
        changed_.wait(lock, [&] { return all_may_go_ || may_go_.erase(node) > 0; });
        --waiting_;
        changed_.notify_all();
    }
    // One that waits at this node, or comes there next.
    void let_go(fuse_ino_t node) {
        const std::lock_guard lock(mutex_);
        may_go_.insert(node);
        changed_.notify_all();
    }
    void let_all_go() {
        const std::lock_guard lock(mutex_);
        all_may_go_ = true;
        changed_.notify_all();
    }

    // Whether so many wait at once, within ten seconds.
    bool so_many_wait(unsigned count) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return waiting_ == count; });
    }
    unsigned waiting() {
        const std::lock_guard lock(mutex_);
        return waiting_;
    }

    SharedState state;
    FormerWorkers former{state.lifeline()};

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::set<fuse_ino_t> may_go_;
    bool all_may_go_ = false;
    unsigned waiting_ = 0;
};

Session waiting_session(WaitingFileSystem& fs, Wire& wire) {
    static const fuse_lowlevel_ops ops = [] {
        fuse_lowlevel_ops table{};
        table.getattr = [](fuse_req_t request, fuse_ino_t node, fuse_file_info* /*info*/) {
            static_cast<WaitingFileSystem*>(fuse_req_userdata(request))->wait(node);
            fuse_reply_err(request, EXDEV);
        };
        table.read = [](fuse_req_t request, fuse_ino_t /*node*/, std::size_t /*size*/, off_t /*offset*/,
                        fuse_file_info* /*info*/) { fuse_reply_buf(request, "page", 4); };
        return table;
    }();
    fuse_args arguments = FUSE_ARGS_INIT(0, nullptr);
    REQUIRE(fuse_opt_add_arg(&arguments, "test") == 0);
    Session session(fuse_session_new(&arguments, &ops, sizeof ops, &fs));
    fuse_opt_free_args(&arguments);
    REQUIRE(session);
    fuse_custom_io io{};
    io.read = [](int fd, void* buffer, std::size_t length, void*) {
        const ssize_t n = ::read(fd, buffer, length);
        if (n == 0) errno = ENODEV;
        return n == 0 ? -1 : n;
    };
    io.writev = [](int fd, iovec* parts, int count, void*) { return ::writev(fd, parts, count); };
    libfuse::attach(session.get(), wire.give_server_end(), io, &fs);
    return session;
}

// The file system, served.
struct House {
    House() {
        threads.start();
        REQUIRE(wire.init({}).error == 0);
    }
    ~House() {
        fs.let_all_go();
        CHECK(fs.so_many_wait(0));
        load();
        wire.hang_up();
    }
    House(const House&) = delete;
    House& operator=(const House&) = delete;

    std::uint64_t ask(uid_t user, fuse_ino_t node = FUSE_ROOT_ID) {
        wire.act_as(user);
        return wire.send(FUSE_GETATTR, node, body(fuse_getattr_in{}));
    }
    // READ of a page and back: what was sent before has been read, save by the thread that had this one.
    void load() { CHECK(wire.call(FUSE_READ, FUSE_ROOT_ID, body(fuse_read_in{})).bytes == "page"); }

    Wire wire;
    WaitingFileSystem fs;
    Session session = waiting_session(fs, wire);
    RequestThreads threads{session.get(), fs.state, fs.former};
};

constexpr unsigned share = RequestThreads::share;
constexpr unsigned threads_at_most = 128;

}  // namespace

TEST_CASE("a READ, on which a fault waits, is answered however many other requests wait") {
    Wire wire;
    WaitingFileSystem fs;
    const Session session = waiting_session(fs, wire);
    RequestThreads threads(session.get(), fs.state, fs.former);
    threads.start();
    REQUIRE(wire.init({}).error == 0);
    std::vector<std::uint64_t> waiting;
    for (int i = 0; i < 300; ++i) {  // more than there are ever threads
        waiting.push_back(wire.send(FUSE_GETATTR, FUSE_ROOT_ID, body(fuse_getattr_in{})));
        CHECK(wire.call(FUSE_READ, FUSE_ROOT_ID, body(fuse_read_in{})).bytes == "page");
    }
    fs.let_all_go();
    for (const std::uint64_t unique : waiting) CHECK(wire.wait_for(unique).error == EXDEV);
    wire.hang_up();
}

TEST_CASE("the threads end when the connection does, also with requests under way") {
    Wire wire;
    WaitingFileSystem fs;
    const Session session = waiting_session(fs, wire);
    {
        RequestThreads threads(session.get(), fs.state, fs.former);
        threads.start();
        REQUIRE(wire.init({}).error == 0);
        for (int i = 0; i < 10; ++i) wire.send(FUSE_GETATTR, FUSE_ROOT_ID, body(fuse_getattr_in{}));
        wire.hang_up();
        fs.let_all_go();
    }
}

TEST_CASE("one user's requests that wait hold no more than his share of the threads") {
    House house;
    std::vector<std::uint64_t> asked;
    for (const uid_t user : {uid_t{0}, uid_t{1000}}) {
        for (unsigned i = 0; i < 2 * share; ++i) {
            asked.push_back(house.ask(user));
            house.load();
        }
    }
    CHECK(house.fs.so_many_wait(2 * share));
    // Another user's is served at once.
    house.fs.let_go(7);
    CHECK(house.wire.wait_for(house.ask(1001, 7)).error == EXDEV);
    CHECK(house.fs.waiting() == 2 * share);
    // Those that had to stand back are served in the end, though no further request comes.
    house.fs.let_all_go();
    for (const std::uint64_t unique : asked) CHECK(house.wire.wait_for(unique).error == EXDEV);
}

TEST_CASE("a thread that has finished takes the request of a user who has not his share") {
    House house;
    // Four users take all threads but the one that reads.
    for (unsigned i = 0; i < threads_at_most - 1; ++i) {
        house.ask(1000 + i % 4, 100 + i % 4);
        house.load();
    }
    REQUIRE(house.fs.so_many_wait(threads_at_most - 1));
    // The first user has his share; a further one of his, then one of somebody else's, have to stand back.
    const std::uint64_t greedy = house.ask(1000, 5);
    const std::uint64_t modest = house.ask(2000, 6);
    house.load();
    house.load();
    house.fs.let_go(5);
    house.fs.let_go(6);
    CHECK_FALSE(house.wire.is_answered(modest));
    house.fs.let_go(101);  // one of the second user's
    CHECK(house.wire.wait_for(modest).error == EXDEV);
    CHECK_FALSE(house.wire.is_answered(greedy));
    house.fs.let_go(100);  // one of his own
    CHECK(house.wire.wait_for(greedy).error == EXDEV);
}

TEST_CASE("users whose requests had to stand back are served in turn") {
    House house;
    for (unsigned i = 0; i < threads_at_most - 1; ++i) {
        house.ask(1000 + i % 4, 100);
        house.load();
    }
    REQUIRE(house.fs.so_many_wait(threads_at_most - 1));
    std::vector<std::uint64_t> many;
    for (unsigned i = 0; i < 20; ++i) many.push_back(house.ask(2000, 5));
    const std::uint64_t one = house.ask(2001, 6);
    house.load();
    house.load();
    house.fs.let_go(5);
    house.fs.let_go(6);
    house.fs.let_go(100);
    CHECK(house.wire.wait_for(many[0]).error == EXDEV);
    CHECK(house.wire.wait_for(one).error == EXDEV);
    CHECK_FALSE(house.wire.is_answered(many[1]));
}
