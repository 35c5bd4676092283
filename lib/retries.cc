#include "lib/retries.h"

#include "lib/pulse.h"

namespace nosigbus {

void Retries::add(Attempt attempt) {
    const std::lock_guard lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
    attempts_.push_back(std::move(attempt));
    woken_.notify_one();
}

void Retries::stop() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    woken_.notify_one();
    if (thread_.joinable()) thread_.join();
    attempts_.clear();
}

void Retries::run() {
    std::list<Attempt> round;  // this thread's alone, meanwhile
    std::unique_lock lock(mutex_);
    for (;;) {
        woken_.wait(lock, [this] { return stopping_ || !attempts_.empty(); });
        if (woken_.wait_for(lock, interval, [this] { return stopping_; })) return;
        round.splice(round.end(), attempts_);
        lock.unlock();
        for (auto attempt = round.begin(); attempt != round.end();) {
            const AtWork at_work("trying again");
            attempt = (*attempt)() ? round.erase(attempt) : std::next(attempt);
        }
        lock.lock();
        attempts_.splice(attempts_.begin(), round);
    }
}

}  // namespace nosigbus
