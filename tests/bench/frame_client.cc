#include "tests/bench/frame_client.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <exception>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>

#include "tests/bench/memory.h"
#include "tests/mount/eventually.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"
#include "tests/mount/process.h"

namespace nosigbus::bench {

namespace {

using namespace test;

struct Order {
    std::size_t frames;
    std::size_t damage;
};

struct Release {};

template <typename Message>
void send(int socket, const Message& message) {
    must(::send(socket, &message, sizeof message, MSG_NOSIGNAL), "send");
}

// False where the other one is gone.
template <typename Message>
bool receive(int socket, Message& message) {
    return must(::recv(socket, &message, sizeof message, 0), "recv") == static_cast<ssize_t>(sizeof message);
}

class Drawing {
  public:
    Drawing(int fd, std::size_t size) : mapping_(fd, size, PROT_READ | PROT_WRITE) {}

    // Draws the next `length` bytes; at the end of the buffer it begins anew.
    Commit draw(std::size_t length) {
        if (next_ + length > mapping_.size()) next_ = 0;
        const std::span part(mapping_.data() + next_, length);
        sum_ -= sum_of_words(part);
        store_pages(part, 0, 1, ++drawings_);
        sum_ += sum_of_words(part);
        return {.damage = {std::exchange(next_, next_ + length), length}, .sum = sum_};
    }

  private:
    Mapping mapping_;
    std::size_t next_ = 0;
    std::uint64_t drawings_ = 0;
    std::uint64_t sum_ = 0;
};

void work(int socket, Drawing drawing) {
    constexpr auto interval = std::chrono::nanoseconds(std::chrono::seconds(1)) / FrameClient::commits_per_second;
    for (Order order{}; receive(socket, order);) {
        auto deadline = Clock::now();
        for (std::size_t frame = 0; frame < order.frames; ++frame) {
            Commit commit = drawing.draw(order.damage);
            // Who is late waits for the next one.
            do deadline += interval;
            while (deadline < Clock::now());
            std::this_thread::sleep_until(deadline);
            commit.when = Clock::now();
            send(socket, commit);
            if (Release release; !receive(socket, release)) return;
        }
    }
}

}  // namespace

FrameClient::FrameClient(int fd, std::size_t size) {
    std::array<int, 2> ends{};
    must(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), "socketpair");
    socket_ = UniqueFd(ends[0]);
    UniqueFd other(ends[1]);
    const timeval most = {.tv_sec = patience.count(), .tv_usec = 0};
    must(::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most), "setsockopt");
    pid_ = fork_process();
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    socket_.reset();
    try {
        work(other.get(), Drawing(fd, size));
        ::_exit(0);
    } catch (const std::exception&) {
        ::_exit(1);
    }
}

FrameClient::~FrameClient() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
}

void FrameClient::start(std::size_t frames, std::size_t damage) {
    send(socket_.get(), Order{frames, damage});
}

Commit FrameClient::wait_for_commit() {
    Commit commit;
    if (!receive(socket_.get(), commit)) throw std::runtime_error("the client is gone");
    return commit;
}

void FrameClient::release() {
    send(socket_.get(), Release());
}

}  // namespace nosigbus::bench
