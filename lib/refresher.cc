#include "lib/refresher.h"

#include <algorithm>
#include <exception>

#include "lib/log.h"
#include "lib/syscalls.h"
#include "lib/view_size.h"

namespace nosigbus {

void Refresher::stop() {
    if (!thread_.joinable()) return;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    woken_.notify_one();
    thread_.join();
}

void Refresher::start() {
    thread_ = std::thread([this] { run(); });
}

void Refresher::changed(const NodePtr& node) {
    add(node, true, -1, {});
}

void Refresher::refresh(const NodePtr& node, Done done) {
    add(node, true, -1, std::move(done));
}

void Refresher::grow(const NodePtr& node, off_t real_size, Done done) {
    add(node, false, real_size, std::move(done));
}

void Refresher::add(const NodePtr& node, bool stale, off_t real_size, Done done) {
    {
        const std::lock_guard lock(mutex_);
        const auto [entry, is_new] = waiting_.try_emplace(node.get(), Work{.node = node, .done = {}});
        if (is_new) {
            try {
                queue_.push_back(node.get());
            } catch (...) {
                waiting_.erase(entry);
                throw;
            }
        }
        Work& work = entry->second;
        if (done) work.done.push_back(std::move(done));
        work.stale |= stale;
        work.real_size = std::max(work.real_size, real_size);
    }
    woken_.notify_one();
}

void Refresher::run() {
    std::unique_lock lock(mutex_);
    for (;;) {
        woken_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
        if (queue_.empty()) return;
        const auto entry = waiting_.find(queue_.front());
        queue_.pop_front();
        Work work = std::move(entry->second);
        waiting_.erase(entry);
        lock.unlock();
        perform(work);
        work = {};  // may close the node's descriptor: not under the lock
        lock.lock();
    }
}

void Refresher::perform(Work& work) {
    Node& node = *work.node;
    // Whatever fails here, this thread goes on: without it no view would follow its file.
    try {
        const off_t real_size = std::max(work.real_size, sys::file_size(node.descriptor()));
        const off_t size = view_size(real_size, max_size_, node.view_size());
        const bool grows = size > node.view_size();
        node.grow_view(size);
        if (grows || (work.real_size >= 0 && node.outgrown())) {
            pages_.grow(node.id(), size);
            node.told_kernel();
        }
        if (work.stale) pages_.drop(node.id());
    } catch (const std::exception& failure) {
        log::error("cannot refresh inode {}: {}", node.key().inode, failure.what());
    }
    for (const Done& done : work.done) {
        try {
            done();
        } catch (const std::exception& failure) {
            log::error("inode {}: {}", node.key().inode, failure.what());
        }
    }
}

}  // namespace nosigbus
