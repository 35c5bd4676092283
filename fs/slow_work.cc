#include "fs/slow_work.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <exception>
#include <system_error>
#include <utility>

#include "lib/log.h"
#include "lib/spare_memory.h"
#include "lib/syscalls.h"

namespace nosigbus {

SlowWork::~SlowWork() {
    static_cast<void>(stop());
    for (std::thread& thread : threads_) thread.join();
}

void SlowWork::run(const NodePtr& node, Reply& reply, std::function<Give()> work, Give late) {
    {
        const std::lock_guard lock(mutex_);
        if (stopping_ || stuck_.contains(node->key().device)) {
            late(reply);
            return;
        }
    }
    auto job = std::make_shared<Job>(
        Job{node->key().device, node, Reply(nullptr), std::move(work), std::move(late), Clock::now() + patience});
    const std::lock_guard lock(mutex_);
    add(job);
    // Taken when nothing can fail any more; nobody looks at it before the lock is gone.
    job->reply = std::move(reply);
}

std::function<SlowWork::Give()> SlowWork::telling_errors(std::function<Give()> work) {
    return [work = std::move(work)]() -> Give {
        try {
            return work();
        } catch (const std::system_error& failure) {
            return [error = failure.code().value()](Reply& reply) { reply.error(error); };
        }
    };
}

// Without a deadline: nobody waits.
void SlowWork::dispose(std::uint64_t device, std::function<void()> work) {
    auto job = std::make_shared<Job>(Job{device, nullptr, Reply(nullptr),
                                         [work = std::move(work)] {
                                             work();
                                             return Give();
                                         },
                                         Give(), Clock::time_point::max()});
    const std::lock_guard lock(mutex_);
    add(job);
}

void SlowWork::close(UniqueFd descriptor) noexcept {
    if (!descriptor) return;
    try {
        const auto file = sys::stat_fd(descriptor.get(), STATX_TYPE, AT_STATX_DONT_SYNC);
        // std::function wants to copy what owns it only once.
        dispose(makedev(file.stx_dev_major, file.stx_dev_minor),
                [owned = std::make_shared<UniqueFd>(std::move(descriptor))] { owned->reset(); });
    } catch (const std::exception&) {
        // Then it has been closed here and now.
    }
}

void SlowWork::close(OpenFilePtr file) noexcept {
    try {
        const std::uint64_t device = file->node()->key().device;
        dispose(device, [owned = std::make_shared<OpenFilePtr>(std::move(file))] { owned->reset(); });
    } catch (const std::exception&) {
        // Then it has been closed here and now.
    }
}

// With the lock held.
void SlowWork::add(const JobPtr& job) {
    const bool is_waited_for = job->deadline != Clock::time_point::max();
    if (!watcher_.joinable()) watcher_ = std::thread([this] { watch(); });
    queue_.push_back(job);
    try {
        if (is_waited_for) waited_for_.push_back(job);
        if (idle_ < queue_.size() && threads_.size() < threads_at_most) {
            threads_.emplace_back();
            try {
                threads_.back() = std::thread([this] { serve(); });
                ++alive_;
            } catch (...) {
                threads_.pop_back();
                if (threads_.empty()) throw;
            }
        }
    } catch (...) {
        queue_.pop_back();
        waited_for_.remove(job);
        throw;
    }
    added_.notify_one();
    watched_.notify_one();
}

// The oldest one on a file system that has not its threads at work already. With the lock held.
std::deque<SlowWork::JobPtr>::iterator SlowWork::next_job() {
    return std::ranges::find_if(queue_, [this](const JobPtr& job) {
        const auto running = running_.find(job->device);
        return running == running_.end() || running->second < threads_for_device;
    });
}

void SlowWork::serve() {
    SpareMemory::of_this_thread().keep();
    std::unique_lock lock(mutex_);
    for (;;) {
        ++idle_;
        added_.wait(lock, [this] { return next_job() != queue_.end() || (stopping_ && queue_.empty()); });
        --idle_;
        if (queue_.empty()) break;
        do_next(lock);
    }
    if (--alive_ == 0) ended_.notify_all();
}

void SlowWork::do_next(std::unique_lock<std::mutex>& lock) {
    const auto next = next_job();
    JobPtr job = std::move(*next);
    queue_.erase(next);
    const std::uint64_t device = job->device;
    ++running_[device];
    const bool is_too_late = job->was_late;
    lock.unlock();
    Give give;
    try {
        if (!is_too_late) give = job->work();
    } catch (const std::exception& failure) {
        log::error("work on a slow file: {}", failure.what());
        give = job->late;
    }
    lock.lock();
    waited_for_.remove(job);
    const bool was_late = job->was_late;
    if (was_late) {
        const auto stuck = stuck_.find(device);
        if (--stuck->second == 0) stuck_.erase(stuck);
    }
    const bool has_caught_up = was_late && !is_too_late && !stopping_;
    lock.unlock();
    // Nobody else gives it now.
    if (!was_late && give) answer(job->reply, give);
    if (has_caught_up) caught_up_(job->node);
    give = {};
    job.reset();  // may close a file: not under the lock
    lock.lock();
    const auto running = running_.find(device);
    if (--running->second == 0) running_.erase(running);
    added_.notify_all();
}

// With the lock held. Its thread, if it has one, keeps what it works with.
void SlowWork::answer_late(Job& job) {
    job.was_late = true;
    ++stuck_[job.device];
    answer(job.reply, job.late);
}

void SlowWork::watch() {
    SpareMemory::of_this_thread().keep();
    std::unique_lock lock(mutex_);
    while (!stopping_) {
        const auto now = Clock::now();
        while (!waited_for_.empty() && waited_for_.front()->deadline <= now) {
            answer_late(*waited_for_.front());
            waited_for_.pop_front();
        }
        if (waited_for_.empty()) {
            watched_.wait(lock);
        } else {
            watched_.wait_until(lock, waited_for_.front()->deadline);
        }
    }
    for (const JobPtr& job : waited_for_) answer_late(*job);
    waited_for_.clear();
}

bool SlowWork::stop() {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    lock.unlock();
    watched_.notify_one();
    added_.notify_all();
    if (watcher_.joinable()) watcher_.join();
    lock.lock();
    constexpr std::chrono::seconds patience_with_end{1};
    return ended_.wait_for(lock, patience_with_end, [this] { return alive_ == 0; });
}

}  // namespace nosigbus
