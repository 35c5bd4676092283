#include "fs/request_threads.h"

#include <doctest/doctest.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <latch>
#include <vector>

#include "tests/session/fake_kernel.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

// A file system whose GETATTR waits until the test lets it go.
struct WaitingFileSystem {
    SharedState state;
    FormerWorkers former{state.lifeline()};
    std::latch go{1};
};

Session waiting_session(WaitingFileSystem& fs, Wire& wire) {
    static const fuse_lowlevel_ops ops = [] {
        fuse_lowlevel_ops table{};
        table.getattr = [](fuse_req_t request, fuse_ino_t /*node*/, fuse_file_info* /*info*/) {
            static_cast<WaitingFileSystem*>(fuse_req_userdata(request))->go.wait();
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
    REQUIRE(fuse_session_custom_io(session.get(), &io, wire.give_server_end()) == 0);
    return session;
}

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
    fs.go.count_down();
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
        fs.go.count_down();
    }
}
