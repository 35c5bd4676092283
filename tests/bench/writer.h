// The owner of a file, who changes it: a process of its own that sleeps before and after.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "tests/bench/clock.h"
#include "tests/mount/mapping.h"

namespace nosigbus::bench {

enum class Change : std::uint32_t {
    truncate,  // to 0
    punch,     // a hole
    write,     // Writer::fresh
    restore,   // Writer::usual, after any of these
};

class Writer {
  public:
    static constexpr std::byte usual{'a'};
    static constexpr std::byte fresh{'b'};

    // Will change the file `fd`, up to `length` bytes at once.
    Writer(int fd, std::size_t length);
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;
    ~Writer();

    // Wakes the process to change [offset, offset + length) by one system call, and returns at once.
    void start(Change change, std::size_t offset, std::size_t length);

    // When the system call began. Returns after the process has gone to sleep again; throws where the call failed.
    Clock::time_point wait();

    void change(Change change, std::size_t offset, std::size_t length) {
        start(change, offset, length);
        wait();
    }

  private:
    struct Desk;
    [[nodiscard]] Desk& desk() const { return *reinterpret_cast<Desk*>(memory_.data()); }

    test::Mapping memory_;  // shared with the process
    pid_t pid_;
};

}  // namespace nosigbus::bench
