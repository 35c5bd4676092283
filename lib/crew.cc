#include "lib/crew.h"

#include <algorithm>
#include <system_error>

#include "lib/log.h"
#include "lib/pulse.h"

namespace nosigbus {

unsigned Crew::enough_helpers() {
    constexpr unsigned most_threads = 4;
    return std::clamp(std::thread::hardware_concurrency(), 1U, most_threads) - 1;
}

Crew::Crew(unsigned helpers) {
    threads_.reserve(helpers);
    try {
        for (unsigned i = 0; i < helpers; ++i) threads_.emplace_back([this, i] { help(i + 1); });
    } catch (const std::system_error& failure) {
        log::warning("fewer threads than wanted: {}", failure.what());
    }
}

Crew::~Crew() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    begun_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void Crew::run(std::size_t parts, const Job& job) {
    std::unique_lock lock(mutex_);
    job_ = &job;
    next_ = 0;
    parts_ = parts;
    begun_.notify_all();
    take_parts(0, lock);
    {
        const Parked parked;
        done_.wait(lock, [this] { return under_way_ == 0; });
    }
    job_ = nullptr;
}

// With the lock held, but not during a part.
void Crew::take_parts(unsigned who, std::unique_lock<std::mutex>& lock) {
    while (next_ < parts_) {
        const std::size_t part = next_++;
        const Job& job = *job_;
        ++under_way_;
        lock.unlock();
        job(part, who);
        lock.lock();
        if (--under_way_ == 0) done_.notify_one();
    }
}

void Crew::help(unsigned who) {
    prepare_pulse();  // a job may wait, see lock_parked
    std::unique_lock lock(mutex_);
    for (;;) {
        begun_.wait(lock, [this] { return stopping_ || next_ < parts_; });
        if (stopping_) return;
        take_parts(who, lock);
    }
}

}  // namespace nosigbus
