#include "fs/slow_work.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

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
    auto job = std::make_shared<Job>(Job{node->key().device, std::nullopt, node, Reply(nullptr), std::move(work),
                                         std::move(late), Clock::now() + patience});
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

// Nobody waits for it, and nobody is answered when it takes long.
void SlowWork::dispose(std::uint64_t device, std::optional<uid_t> user, std::function<void()> work) {
    const auto job = std::make_shared<Job>(Job{device, user, nullptr, Reply(nullptr),
                                               [work = std::move(work)] {
                                                   work();
                                                   return Give();
                                               },
                                               Give(), Clock::now() + patience});
    const std::lock_guard lock(mutex_);
    count_closing(*job, 1);
    try {
        add(job);
    } catch (...) {
        count_closing(*job, -1);
        throw;
    }
}

// With the lock held.
void SlowWork::count_closing(const Job& job, int change) {
    const auto count = [change](auto& counts, const auto& key) {
        if ((counts[key] += static_cast<unsigned>(change)) == 0) counts.erase(key);
    };
    count(closing_, job.device);
    if (job.user) count(closing_for_, *job.user);
    all_closing_ += static_cast<unsigned>(change);
}

bool SlowWork::has_too_many(uid_t user) {
    const std::lock_guard lock(mutex_);
    const auto closing = closing_for_.find(user);
    return closing != closing_for_.end() && closing->second >= closing_for_user;
}

bool SlowWork::has_too_many_on(std::uint64_t device) {
    const std::lock_guard lock(mutex_);
    const auto closing = closing_.find(device);
    return all_closing_ >= closing_at_most || (closing != closing_.end() && closing->second >= closing_on_device);
}

void SlowWork::close_for(UniqueFd descriptor, std::optional<uid_t> user) noexcept {
    if (!descriptor) return;
    const int number = descriptor.release();
    try {
        const auto file = sys::stat_fd(number, STATX_TYPE, AT_STATX_DONT_SYNC);
        dispose(makedev(file.stx_dev_major, file.stx_dev_minor), user, [number] { ::close(number); });
    } catch (const std::exception&) {
        // It stays open: to close it here and now could take any time.
    }
}

void SlowWork::close(UniqueFd descriptor) noexcept {
    close_for(std::move(descriptor), std::nullopt);
}

void SlowWork::close(UniqueFd descriptor, uid_t user) noexcept {
    close_for(std::move(descriptor), user);
}

void SlowWork::close(OpenFilePtr file) noexcept {
    try {
        const std::uint64_t device = file->node()->key().device;
        // std::function wants to copy what owns it only once.
        dispose(device, std::nullopt, [owned = std::make_shared<OpenFilePtr>(std::move(file))] { owned->reset(); });
    } catch (const std::exception&) {
        // Then it has been closed here and now.
    }
}

// With the lock held.
bool SlowWork::may_add_thread() const {
    return threads_.size() < threads_at_most && threads_.size() - held_up_ < threads_at_work_at_most;
}

// In the place of one that is held up. With the lock held.
void SlowWork::help() noexcept {
    try {
        threads_.emplace_back();
        threads_.back() = std::thread([this] { serve(); });
        ++alive_;
    } catch (const std::exception&) {
        if (!threads_.empty() && !threads_.back().joinable()) threads_.pop_back();
    }
}

// With the lock held.
void SlowWork::add(const JobPtr& job) {
    if (!watcher_.joinable()) watcher_ = std::thread([this] { watch(); });
    queue_.push_back(job);
    try {
        waited_for_.push_back(job);
        if (idle_ < queue_.size() && may_add_thread()) {
            help();
            if (threads_.empty()) sys::fail(EAGAIN, "no thread for slow files");
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
    job->has_begun = true;
    const bool is_too_late = job->was_late && job->late;  // what is to be closed is, however late
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
    if (was_late && job->is_held_up) {
        --held_up_;
        const auto stuck = stuck_.find(device);
        if (--stuck->second == 0) stuck_.erase(stuck);
    }
    if (job->node == nullptr) count_closing(*job, -1);
    const bool has_caught_up = was_late && job->node != nullptr && !is_too_late && !stopping_;
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

// With the lock held. Its thread, if it has one, keeps what it works with. What has not even begun says nothing about
// its file system: the threads may be held up by others.
void SlowWork::answer_late(Job& job) {
    job.was_late = true;
    if (job.has_begun) {
        job.is_held_up = true;
        ++held_up_;
        ++stuck_[job.device];
    }
    if (job.late) answer(job.reply, job.late);
}

void SlowWork::watch() {
    SpareMemory::of_this_thread().keep();
    std::unique_lock lock(mutex_);
    while (!stopping_) {
        const auto now = Clock::now();
        while (!waited_for_.empty() && waited_for_.front()->deadline <= now) {
            const JobPtr late = waited_for_.front();
            waited_for_.pop_front();
            answer_late(*late);
            if (!queue_.empty() && may_add_thread()) help();
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
