#include "lib/errands.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <ctime>
#include <exception>
#include <system_error>
#include <utility>

#include "lib/fault_point.h"
#include "lib/futex.h"
#include "lib/pulse.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

using SteadyClock = std::chrono::steady_clock;

enum : std::uint32_t { may_read = 1, may_write = 2 };

void wake_all(const std::atomic<std::uint32_t>& word) noexcept {
    sys::futex_wake(word, INT_MAX);
}

void run(Errand& errand) noexcept {
    errand.descriptor = -1;
    errand.error = 0;
    try {
        PeerDescriptor found = descriptor_of(errand.thread, errand.number);
        errand.rights = (found.rights.read ? may_read : 0U) | (found.rights.write ? may_write : 0U);
        errand.descriptor = found.descriptor.release();
    } catch (const std::system_error& failure) {
        errand.error = failure.code().value();
    } catch (const std::exception&) {
        errand.error = ENOMEM;
    }
}

}  // namespace

void ErrandBoard::ring() noexcept {
    ++bell;
    wake_all(bell);
}

void resume_errands(ErrandBoard& board) noexcept {
    for (Errand& errand : board.errands) {
        std::uint32_t left = Errand::running;
        errand.state.compare_exchange_strong(left, Errand::asked);
    }
}

void run_errands(ErrandBoard& board) noexcept {
    for (Errand& errand : board.errands) {
        std::uint32_t wanted = Errand::asked;
        if (!errand.state.compare_exchange_strong(wanted, Errand::running)) continue;
        run(errand);
        errand.state = Errand::done;
        wake_all(errand.state);
    }
}

void await_errands(const ErrandBoard& board, std::uint32_t seen) noexcept {
    sys::futex_wait(board.bell, seen, nullptr);
}

bool forget_errands(ErrandBoard& board) noexcept {
    bool any = true;
    const auto until = SteadyClock::now() + std::chrono::milliseconds(100);  // an errand takes some microseconds
    while (any && SteadyClock::now() < until) {
        any = false;
        for (Errand& errand : board.errands) {
            for (std::uint32_t ended : {Errand::asked, Errand::done})
                errand.state.compare_exchange_strong(ended, Errand::free);
            any |= errand.state == Errand::running;
        }
        constexpr int look_again_ms = 1;
        if (any) ::poll(nullptr, 0, look_again_ms);
    }
    return !any;
}

Errand& Errands::take_slot() {
    std::unique_lock lock(mutex_);
    for (;;) {
        // Only who asks makes one free, and who asks is of this process.
        auto* const found =
            std::ranges::find_if(board_.errands, [](const Errand& each) { return each.state == Errand::free; });
        if (found != board_.errands.end()) {
            // Nobody runs it yet, nobody else takes it.
            found->state = Errand::done;
            return *found;
        }
        const Parked parked;
        freed_.wait(lock);
    }
}

PeerDescriptor Errands::descriptor_of(pid_t thread, int number) {
    Errand& errand = take_slot();
    errand.thread = thread;
    errand.number = number;
    errand.state = Errand::asked;
    board_.ring();
    fault_point("errand.asked");
    const auto until = SteadyClock::now() + patience_;
    std::uint32_t state = 0;
    {
        const Parked parked;
        while ((state = errand.state) != Errand::done) {
            // Nobody runs it from then on, and nobody else takes the slot before it is free.
            std::uint32_t unwanted = Errand::asked;
            if (SteadyClock::now() >= until && errand.state.compare_exchange_strong(unwanted, Errand::done)) break;
            const timespec look_again{.tv_sec = 0, .tv_nsec = 100'000'000};
            sys::futex_wait(errand.state, state, &look_again);
        }
    }
    PeerDescriptor found;
    int error = EIO;
    if (state == Errand::done) {
        found.descriptor = UniqueFd(errand.descriptor);
        found.rights = {.read = (errand.rights & may_read) != 0, .write = (errand.rights & may_write) != 0};
        error = errand.error;
    }
    {
        const std::lock_guard lock(mutex_);
        errand.state = Errand::free;
    }
    freed_.notify_one();
    if (error != 0) sys::fail(error, "a descriptor of the caller's");
    return found;
}

}  // namespace nosigbus
