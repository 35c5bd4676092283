#include "tests/session/fake_kernel.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <vector>

#include "fs/mount.h"

namespace nosigbus::test {
Wire::Wire() {
    // Message boundaries are kept, as /dev/fuse keeps them.
    std::array<int, 2> ends{};
    sys::check(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), "socketpair");
    // For the largest messages there are. An ordinary user gets as much as net.core.wmem_max allows.
    constexpr int room = 4 << 20;
    for (const int end : ends) {
        if (::setsockopt(end, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) != 0)
            ::setsockopt(end, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    }
    kernel_end_.reset(ends[0]);
    server_end_.reset(ends[1]);
}

std::size_t Wire::largest_answer() const {
    int room = 0;
    socklen_t size = sizeof room;
    sys::check(::getsockopt(kernel_end_.get(), SOL_SOCKET, SO_SNDBUF, &room, &size), "getsockopt");
    return static_cast<std::size_t>(room) - 4096;
}

void Wire::hang_up() {
    ::shutdown(kernel_end_.get(), SHUT_RDWR);
}

Answer Wire::init(const Offer& offer) {
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = FUSE_KERNEL_MINOR_VERSION;
    init.max_readahead = 128 << 10;
    init.flags = static_cast<std::uint32_t>(offer.flags);
    init.flags2 = static_cast<std::uint32_t>(offer.flags >> 32);
    return call(FUSE_INIT, 0, body(init));
}

FakeKernel::FakeKernel(const Options& options, const Offer& offer)
    : fs_(state_, sys::open_at(AT_FDCWD, source_.path().c_str(), O_PATH | O_DIRECTORY), options),
      session_(make_session(session_arguments("/source", options, false), fs_)) {
    fs_.use(session_.get());
    REQUIRE(session_);
    Channel::attach(session_.get(), fs_, give_server_end());
    fs_.follow_changes();
    threads_ = std::make_unique<RequestThreads>(session_.get(), state_, fs_.former_workers());
    threads_->start();
    init_answer_ = init(offer);
}

FakeKernel::~FakeKernel() {
    hang_up();
    threads_.reset();
    fs_.stop_following();
}

std::uint64_t Wire::send(fuse_opcode opcode, std::uint64_t node, const std::string& body) {
    const fuse_in_header header = make_header(opcode, node, body.size());
    send_raw(header, body);
    return header.unique;
}

void Wire::send_as(std::uint64_t unique, fuse_opcode opcode, std::uint64_t node, const std::string& body) {
    fuse_in_header header = make_header(opcode, node, body.size());
    header.unique = unique;
    send_raw(header, body);
}

fuse_in_header Wire::make_header(fuse_opcode opcode, std::uint64_t node, std::size_t size) {
    fuse_in_header header{};
    header.len = static_cast<std::uint32_t>(sizeof header + size);
    header.opcode = opcode;
    header.unique = std::exchange(next_unique_, next_unique_ + 2);
    header.nodeid = node;
    header.uid = user_;
    header.gid = ::getgid();
    header.pid = static_cast<std::uint32_t>(::getpid());
    return header;
}

void Wire::send_raw(const fuse_in_header& header, const std::string& body) {
    const std::string message = test::body(header) + body;
    REQUIRE(::send(kernel_end_.get(), message.data(), message.size(), 0) == static_cast<ssize_t>(message.size()));
}

Wire::Message Wire::receive() {
    std::vector<char> buffer(2 << 20);
    const ssize_t n = ::recv(kernel_end_.get(), buffer.data(), buffer.size(), 0);
    fuse_out_header header{};
    REQUIRE(n >= static_cast<ssize_t>(sizeof header));
    std::memcpy(&header, buffer.data(), sizeof header);
    REQUIRE(header.len == n);
    std::string bytes(buffer.data() + sizeof header, static_cast<std::size_t>(n) - sizeof header);
    if (header.unique == 0) {
        notifications_.push_back({header.error, std::move(bytes)});
        return {0, header.error};
    }
    // The answer to an interrupt (FUSE_INT_REQ_BIT) of what is not interrupted says nothing (fuse_dev_do_write).
    if ((header.unique & 1U) != 0 && header.error == 0 && bytes.empty()) return {header.unique, 0};
    CHECK_MESSAGE(!answers_.contains(header.unique), "answered twice");
    answers_[header.unique] = {-header.error, std::move(bytes)};
    return {header.unique, -header.error};
}

Wire::Message Wire::next_message() {
    pollfd wait = {.fd = kernel_end_.get(), .events = POLLIN, .revents = 0};
    REQUIRE(::poll(&wait, 1, 10'000) == 1);
    return receive();
}

Answer Wire::wait_for(std::uint64_t unique) {
    while (!answers_.contains(unique)) next_message();
    return std::move(answers_.extract(unique).mapped());
}

fuse_entry_out FakeKernel::look_up(const std::string& name) {
    const Answer answer = call(FUSE_LOOKUP, FUSE_ROOT_ID, name_of(name));
    REQUIRE(answer.error == 0);
    return answer.as<fuse_entry_out>();
}

std::uint64_t FakeKernel::open(std::uint64_t node, int flags) {
    fuse_open_in in{};
    in.flags = static_cast<std::uint32_t>(flags);
    const Answer answer = call(FUSE_OPEN, node, body(in));
    REQUIRE(answer.error == 0);
    return answer.as<fuse_open_out>().fh;
}

Answer FakeKernel::read_page(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::uint32_t size) {
    fuse_read_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = size;
    return call(FUSE_READ, node, body(in));
}

int FakeKernel::fsync(std::uint64_t node, std::uint64_t handle) {
    fuse_fsync_in in{};
    in.fh = handle;
    return call(FUSE_FSYNC, node, body(in)).error;
}

void Wire::receive_all() {
    for (;;) {
        pollfd wait = {.fd = kernel_end_.get(), .events = POLLIN, .revents = 0};
        if (::poll(&wait, 1, 0) != 1) return;
        receive();
    }
}

bool Wire::is_answered(std::uint64_t unique) {
    receive_all();
    return answers_.contains(unique);
}

std::deque<Notification> Wire::take_notifications() {
    receive_all();
    return std::exchange(notifications_, {});
}

bool drops(const Notification& sent, std::uint64_t node, std::int64_t offset) {
    const auto drop = sent.as<fuse_notify_inval_inode_out>();
    return sent.code == FUSE_NOTIFY_INVAL_INODE && drop.ino == node && drop.off >= 0 && drop.off <= offset &&
           (drop.len == 0 || offset < drop.off + drop.len);
}

bool any_drops(const std::deque<Notification>& sent, std::uint64_t node, std::int64_t offset) {
    return std::any_of(sent.begin(), sent.end(), [&](const Notification& each) { return drops(each, node, offset); });
}

}  // namespace nosigbus::test
