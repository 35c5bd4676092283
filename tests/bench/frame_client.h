// A client of a compositor: a process of its own that draws into a buffer which both have, and commits it 60 times a
// second.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "lib/unique_fd.h"
#include "tests/bench/clock.h"

namespace nosigbus::bench {

// What is damaged, in bytes: whole lines, as they lie in the buffer one behind the other.
struct Damage {
    std::size_t offset = 0;
    std::size_t length = 0;
};

struct Commit {
    Clock::time_point when{};
    Damage damage{};
    std::uint64_t sum = 0;  // of all words of the buffer
};

class FrameClient {
  public:
    static constexpr int commits_per_second = 60;

    // Of a buffer of `size` bytes, all zeros yet, that `fd` is open on for writing.
    FrameClient(int fd, std::size_t size);
    FrameClient(const FrameClient&) = delete;
    FrameClient& operator=(const FrameClient&) = delete;
    ~FrameClient();

    // The client is to commit `frames` times, each time after it has drawn the next `damage` bytes anew, by stores
    // through a mapping: of that nobody is told. It draws once the frame before has been released, and commits when the
    // next sixtieth of a second begins.
    void start(std::size_t frames, std::size_t damage);

    // Sleeps until it commits.
    Commit wait_for_commit();

    // It may draw again.
    void release();

  private:
    UniqueFd socket_;
    pid_t pid_;
};

}  // namespace nosigbus::bench
