#include "lib/errands.h"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "lib/syscalls.h"
#include "tests/unit/temporary.h"

using namespace nosigbus;
using namespace nosigbus::test;

namespace {

UniqueFd numbered(int number) {
    UniqueFd file(sys::check(::memfd_create("numbered", MFD_CLOEXEC), "memfd_create"));
    const std::string content = std::to_string(number);
    sys::write_at(file.get(), std::as_bytes(std::span(content)), 0);
    return file;
}

// Runs errands as another process would, of which all that matters here is that it shares our descriptors.
class Runner {
  public:
    explicit Runner(ErrandBoard& board) : board_(board), thread_([this] { run(); }) {}
    Runner(const Runner&) = delete;
    Runner& operator=(const Runner&) = delete;
    ~Runner() {
        stopping_ = true;
        board_.ring();
        thread_.join();
    }

  private:
    void run() {
        resume_errands(board_);
        for (;;) {
            const std::uint32_t seen = board_.bell;
            if (stopping_) return;
            run_errands(board_);
            await_errands(board_, seen);
        }
    }

    ErrandBoard& board_;
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

}  // namespace

TEST_CASE("many threads have errands run at the same time, and each gets what it asked for") {
    ErrandBoard board{};
    const Runner runner(board);
    Errands errands(board);
    constexpr int threads = 64;  // more than there are slots
    std::vector<UniqueFd> files;
    files.reserve(threads);
    for (int i = 0; i < threads; ++i) files.push_back(numbered(i));
    std::atomic<int> wrong{0};
    {
        std::vector<std::jthread> all;
        for (int i = 0; i < threads; ++i) {
            all.emplace_back([&, i] {
                for (int round = 0; round < 50; ++round) {
                    const PeerDescriptor found = errands.descriptor_of(::getpid(), files[i].get());
                    if (content_of(found.descriptor.get()) != std::to_string(i)) ++wrong;
                    if (found.rights != Rights{true, true}) ++wrong;
                }
            });
        }
    }
    CHECK(wrong == 0);
    for (const Errand& each : board.errands) CHECK(each.state == Errand::free);
}

TEST_CASE("why an errand failed is told") {
    ErrandBoard board{};
    const Runner runner(board);
    Errands errands(board);
    for (const auto& errand : {std::pair{777, ENOENT}, std::pair{-5, ENOENT}}) {
        const auto [number, error] = errand;
        CAPTURE(errand.first);
        int found = 0;
        try {
            errands.descriptor_of(::getpid(), number);
        } catch (const std::system_error& failure) {
            found = failure.code().value();
        }
        CHECK(found == error);
    }
}

TEST_CASE("what one who ran errands left when he died, the next one runs") {
    ErrandBoard board{};
    const UniqueFd file = numbered(7);
    Errand& left = board.errands[3];
    left.thread = ::getpid();
    left.number = file.get();
    left.state = Errand::running;
    {
        const Runner runner(board);
        while (left.state != Errand::done) std::this_thread::yield();
    }
    const UniqueFd found(left.descriptor);
    CHECK(left.error == 0);
    CHECK(content_of(found.get()) == "7");
}

TEST_CASE("what a worker had asked for when it died is forgotten, unless somebody is at it just now") {
    ErrandBoard board{};
    board.errands[0].state = Errand::asked;
    board.errands[1].state = Errand::done;
    CHECK(forget_errands(board));
    for (const Errand& each : board.errands) CHECK(each.state == Errand::free);
    board.errands[2].state = Errand::running;
    CHECK_FALSE(forget_errands(board));
    CHECK(board.errands[2].state == Errand::running);
}

TEST_CASE("who gives up on an errand leaves its slot to the next, and to nobody else") {
    ErrandBoard board{};
    Errands errands(board, std::chrono::milliseconds(1));
    constexpr int threads = 64;
    std::vector<UniqueFd> files;
    files.reserve(threads);
    for (int i = 0; i < threads; ++i) files.push_back(numbered(i));
    std::atomic<int> wrong{0};
    std::atomic<int> served{0};
    std::atomic<int> given_up{0};
    std::atomic<bool> stopping{false};
    {
        std::vector<std::jthread> all;
        for (int i = 0; i < threads; ++i) {
            all.emplace_back([&, i] {
                while (!stopping) {
                    try {
                        const PeerDescriptor found = errands.descriptor_of(::getpid(), files[i].get());
                        if (content_of(found.descriptor.get()) != std::to_string(i)) ++wrong;
                        ++served;
                    } catch (const std::system_error& failure) {
                        if (failure.code().value() != EIO) ++wrong;
                        ++given_up;
                    }
                }
            });
        }
        // Somebody who runs them is there every now and then only.
        while (served < 500 || given_up < 500) {
            const int before = given_up;
            while (given_up < before + 100) std::this_thread::yield();
            run_errands(board);
        }
        stopping = true;
    }
    CHECK(wrong == 0);
    for (const Errand& each : board.errands) CHECK(each.state == Errand::free);
}
