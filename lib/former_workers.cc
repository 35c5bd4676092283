#include "lib/former_workers.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "lib/pulse.h"
#include "lib/syscalls.h"

namespace nosigbus {

FormerWorkers::FormerWorkers(Lifeline& line) : line_(line), give_up_(Clock::now() + patience) {
    std::copy(line.former.begin(), line.former.end(), ended_.begin());
}

int FormerWorkers::note_this_one(Lifeline& line) {
    UniqueFd self = sys::open_this_process();
    for (auto& place : line.former) {
        std::int32_t none = -1;
        if (place.compare_exchange_strong(none, self.get())) return self.release();
    }
    sys::fail(EAGAIN, "too many servers that do not end");
}

bool FormerWorkers::look() {
    std::array<pollfd, Lifeline::former_at_most> wait{};
    bool any = false;
    for (std::size_t i = 0; i < ended_.size(); ++i) {
        wait[i] = {.fd = ended_[i], .events = POLLIN, .revents = 0};
        any |= ended_[i] >= 0;
    }
    if (any && ::poll(wait.data(), wait.size(), 0) > 0) {
        for (std::size_t i = 0; i < ended_.size(); ++i) {
            if (wait[i].revents == 0) continue;
            line_.former[i] = -1;
            ::close(std::exchange(ended_[i], -1));
        }
    }
    gone_ = std::ranges::all_of(ended_, [](int fd) { return fd < 0; });
    return gone_;
}

bool FormerWorkers::are_gone() {
    if (gone_) return true;
    const std::lock_guard lock(mutex_);
    return look();
}

void FormerWorkers::wait_until(Clock::time_point end) {
    if (gone_) return;
    const Parked parked;
    // Not under the lock for long: the worker's first thread looks in between.
    constexpr std::chrono::milliseconds interval{5};
    while (!are_gone() && Clock::now() < end) ::poll(nullptr, 0, static_cast<int>(interval.count()));
}

}  // namespace nosigbus
