#include "fs/truncations.h"

#include <algorithm>
#include <cerrno>
#include <exception>
#include <iterator>
#include <map>

#include "lib/fault_point.h"
#include "lib/log.h"
#include "lib/pulse.h"

namespace nosigbus {

void Truncations::start() {
    thread_ = std::thread([this] { watch(); });
}

void Truncations::stop() {
    for (std::thread& thread : taken_over_) thread.join();
    taken_over_.clear();
    if (!thread_.joinable()) return;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    added_.notify_one();
    thread_.join();
}

void Truncations::run(const NodePtr& node, Reply& reply, const std::function<void(TruncationSlot&)>& note,
                      const std::function<void()>& truncate, const std::function<void(Reply&)>& give) {
    std::unique_lock lock(mutex_);
    pending_.push_back({node, std::move(reply), &note, &give, std::chrono::steady_clock::now() + patience});
    const auto self = std::prev(pending_.end());
    lock.unlock();
    added_.notify_one();

    std::exception_ptr failure;
    try {
        lock.lock();
        {
            const Parked parked;
            happened_.wait(lock, [&] { return is_settled(*node, self); });
        }
        lock.unlock();
        truncate();
    } catch (...) {
        failure = std::current_exception();
    }

    lock.lock();
    const bool answered_early = self->answered_early;
    reply = std::move(self->reply);
    end(self);
    lock.unlock();
    if (!answered_early) {
        if (failure) std::rethrow_exception(failure);
        return give(reply);
    }
    happened_.notify_all();
    try {
        if (failure) std::rethrow_exception(failure);
    } catch (const std::exception& late) {
        log::error("inode {}: a truncation answered early has failed: {}", node->key().inode, late.what());
    }
}

// With the lock held.
void Truncations::end(List::iterator pending) {
    if (pending->slot != nullptr) table_.give_back(*pending->slot);
    pending_.erase(pending);
}

// In the order of the answers.
std::vector<TruncationSlot*> Truncations::noted() const {
    std::vector<TruncationSlot*> slots;
    for (TruncationSlot& slot : table_.taken()) {
        if (slot.id != 0) slots.push_back(&slot);
    }
    std::ranges::sort(slots, {}, &TruncationSlot::number);
    return slots;
}

Truncations::List::iterator Truncations::add_noted(const NodePtr& node, TruncationSlot& slot) {
    const std::lock_guard lock(mutex_);
    last_number_ = std::max(last_number_, slot.number);
    return pending_.insert(pending_.end(), {node, Reply(nullptr), nullptr, nullptr, {}, true, &slot});
}

void Truncations::take_over(const std::function<NodePtr(SlotId)>& node, const std::function<void()>& ready,
                            const std::function<void(const Node&, const TruncationSlot&)>& truncate) {
    std::map<SlotId, std::vector<List::iterator>> by_node;
    for (TruncationSlot* slot : noted()) {
        if (const NodePtr known = node(slot->node)) {
            by_node[slot->node].push_back(add_noted(known, *slot));
        } else {
            table_.give_back(*slot);  // cannot be: a node stays while somebody works with it
        }
    }
    for (const auto& [id, truncations] : by_node) {
        taken_over_.emplace_back([this, truncations = truncations, ready, truncate] {
            ready();
            for (const auto& each : truncations) {
                try {
                    truncate(*each->node, *each->slot);
                } catch (const std::exception& late) {
                    log::error("inode {}: a truncation answered early has failed: {}", each->node->key().inode,
                               late.what());
                }
                {
                    const std::lock_guard lock(mutex_);
                    end(each);
                }
                happened_.notify_all();
            }
        });
    }
}

void Truncations::settle(const Node& node) {
    std::unique_lock lock(mutex_);
    if (is_settled(node, pending_.end())) return;
    const Parked parked;
    happened_.wait(lock, [&] { return is_settled(node, pending_.end()); });
}

// Whether none of those before `before` has been answered early. With the lock held.
bool Truncations::is_settled(const Node& node, List::const_iterator before) const {
    return std::none_of(pending_.begin(), before, [&](const Pending& pending) {
        return pending.answered_early && are_of_one_file(pending.node->key(), node.key());
    });
}

void Truncations::answer_early(Pending& pending) {
    const AtWork at_work("answering truncations");
    pending.answered_early = true;
    ++counters_.early_truncations;
    try {
        pending.slot = &table_.take();
        (*pending.note)(*pending.slot);
        pending.slot->node = pending.node->id();
        pending.slot->number = ++last_number_;
        table_.publish(*pending.slot);
        fault_point("truncation.noted");
        (*pending.give)(pending.reply);
        fault_point("truncation.answered");
    } catch (const std::exception& failure) {
        log::error("inode {}: {}", pending.node->key().inode, failure.what());
        pending.reply.error(EIO);
    }
}

void Truncations::watch() {
    prepare_pulse();
    std::unique_lock lock(mutex_);
    for (;;) {
        added_.wait(lock, [this] { return stopping_ || !pending_.empty(); });
        if (stopping_) return;
        const auto now = std::chrono::steady_clock::now();
        auto next = now + patience;
        for (Pending& pending : pending_) {
            if (pending.answered_early) continue;
            if (pending.deadline > now) {
                next = pending.deadline;
                break;
            }
            answer_early(pending);
        }
        added_.wait_until(lock, next, [this] { return stopping_; });
    }
}

}  // namespace nosigbus
