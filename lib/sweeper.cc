#include "lib/sweeper.h"

#include <algorithm>
#include <exception>
#include <vector>

#include "lib/fault_point.h"
#include "lib/log.h"
#include "lib/pulse.h"

namespace nosigbus {

Sweeper::Sweeper(const ChangeWatcher& watcher, std::function<void(const NodePtr&)> changed,
                 std::chrono::milliseconds refresh, Counters& counters)
    : watcher_(watcher), changed_(std::move(changed)), refresh_(refresh), counters_(counters) {}

void Sweeper::start() {
    thread_ = std::thread([this] { run(); });
}

void Sweeper::stop() {
    if (!thread_.joinable()) return;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    woken_.notify_one();
    thread_.join();
}

void Sweeper::run() {
    prepare_pulse();
    const auto start = Clock::now();
    std::vector<Round> rounds = {{interval, start + interval, &Sweeper::sweep},
                                 {unwatched_interval, start + unwatched_interval, &Sweeper::sweep_unwatched}};
    if (refresh_.count() > 0) rounds.push_back({refresh_, start + refresh_, &Sweeper::refresh_all});
    std::unique_lock lock(mutex_);
    for (;;) {
        Round& round = *std::min_element(rounds.begin(), rounds.end(),
                                         [](const auto& a, const auto& b) { return a.next < b.next; });
        if (woken_.wait_until(lock, round.next, [this] { return stopping_; })) return;
        lock.unlock();
        const AtWork at_work("looking at files");
        fault_point("sweeper.round");
        const auto begun = Clock::now();
        try {
            (this->*round.act)();
        } catch (const std::exception& failure) {
            log::error("cannot look for changes: {}", failure.what());
        }
        lock.lock();
        // With very many files open a round takes long: no more than a tenth of the time.
        const auto now = Clock::now();
        round.next = now + std::max<Clock::duration>(round.every, 9 * (now - begun));
    }
}

void Sweeper::sweep() {
    look_at(watcher_.open_nodes());
}

void Sweeper::sweep_unwatched() {
    look_at(watcher_.unwatched());
}

void Sweeper::refresh_all() {
    for (const NodePtr& node : watcher_.open_nodes()) {
        const AtWork progress("refreshing all files");
        changed_(node);
    }
}

void Sweeper::look_at(const std::vector<NodePtr>& nodes) {
    for (const NodePtr& node : nodes) {
        const AtWork progress("looking at files");
        View* const view = node->view_if_opened();
        if (view == nullptr || !view->may_have_changed()) continue;
        ++counters_.sweep_refreshes;
        count(counters_, &view->counters(), &ViewCounters::changes);
        changed_(node);
    }
}

}  // namespace nosigbus
