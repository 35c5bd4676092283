#include "fs/forgetter.h"

#include <exception>
#include <system_error>
#include <utility>

#include "fs/fd_views.h"
#include "lib/log.h"
#include "lib/pulse.h"

namespace nosigbus {

void Forgetter::start() {
    thread_ = std::thread([this] { run(); });
}

void Forgetter::stop() {
    if (!thread_.joinable()) return;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    woken_.notify_one();
    thread_.join();
}

void Forgetter::add(NodeId node, std::string_view name) {
    const std::lock_guard lock(mutex_);
    const bool is_first = views_.empty();
    std::set<std::string>& names = views_[node];
    if (!name.empty()) names.emplace(name);
    if (is_first) woken_.notify_one();
}

void Forgetter::run() {
    prepare_pulse();
    std::unique_lock lock(mutex_);
    for (;;) {
        woken_.wait(lock, [this] { return stopping_ || !views_.empty(); });
        if (woken_.wait_for(lock, interval, [this] { return stopping_; })) return;
        lock.unlock();
        try {
            const AtWork at_work("forgetting views");
            look();
        } catch (const std::exception& failure) {
            log::error("views of descriptors are kept: {}", failure.what());
        }
        lock.lock();
    }
}

bool Forgetter::is_open(NodeId node, bool& is_known) {
    try {
        const NodePtr found = nodes_.get(node);
        is_known = true;
        const View* const view = found->view_if_opened();
        return view != nullptr && view->is_open();
    } catch (const std::system_error&) {
        is_known = false;
        return false;
    }
}

void Forgetter::look() {
    std::vector<std::pair<NodeId, std::set<std::string>>> all;
    {
        const std::lock_guard lock(mutex_);
        all.assign(views_.begin(), views_.end());
    }
    std::vector<NodeId> idle;
    std::vector<NodeId> gone;
    for (const auto& [node, names] : all) {
        bool is_known = false;
        const bool is_used = is_open(node, is_known);
        if (!is_known) gone.push_back(node);
        if (is_known && !is_used) idle.push_back(node);
    }
    if (!idle.empty() && !kernel_.prune(idle)) {
        for (const auto& [node, names] : all) {
            bool is_known = false;
            if (is_open(node, is_known) || !is_known) continue;
            for (const std::string& name : names) kernel_.forget_name(fd_views::descriptors, name);
        }
    }
    const std::lock_guard lock(mutex_);
    for (const NodeId node : gone) views_.erase(node);
}

}  // namespace nosigbus
