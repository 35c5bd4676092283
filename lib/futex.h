// futex(2), for which glibc has no function.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <ctime>

namespace nosigbus::sys {

// Where time_t may be longer than long, the call that takes a timespec of now has another number.
#if defined(SYS_futex_time64)
inline constexpr long futex_number = sizeof(std::time_t) > sizeof(long) ? SYS_futex_time64 : SYS_futex;
#else
inline constexpr long futex_number = SYS_futex;
#endif

inline void futex_wake(const std::atomic<std::uint32_t>& word, int waiters) noexcept {
    ::syscall(futex_number, &word, FUTEX_WAKE, waiters, nullptr, nullptr, 0);
}

// Sleeps while the word has this value, until it is woken, the time is over (null: never) or a signal comes.
inline void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t value, const timespec* timeout) noexcept {
    ::syscall(futex_number, &word, FUTEX_WAIT, value, timeout, nullptr, 0);
}

}  // namespace nosigbus::sys
