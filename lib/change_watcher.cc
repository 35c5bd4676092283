#include "lib/change_watcher.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

#include "lib/fault_point.h"
#include "lib/log.h"
#include "lib/pulse.h"
#include "lib/sweeper.h"
#include "lib/syscalls.h"

namespace nosigbus {

UniqueFd ChangeWatcher::make_inotify() {
    return UniqueFd(sys::check(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK), "inotify_init1"));
}

ChangeWatcher::ChangeWatcher(std::function<void(const NodePtr&)> changed, Counters& counters, UniqueFd inotify)
    : changed_(std::move(changed)),
      counters_(counters),
      inotify_(std::move(inotify)),
      stop_(sys::check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
      allowance_(10, std::chrono::milliseconds(20)) {}

void ChangeWatcher::stop() {
    if (!thread_.joinable()) return;
    ::eventfd_write(stop_.get(), 1);
    thread_.join();
}

void ChangeWatcher::start() {
    thread_ = std::thread([this] { run(); });
}

ChangeWatcher::Watch ChangeWatcher::watch(const NodePtr& node) {
    const std::lock_guard lock(mutex_);
    const auto [entry, is_new] = by_node_.try_emplace(node.get(), Watched{node, -1, 0});
    if (is_new) {
        try {
            add_watch(entry->second);
        } catch (...) {
            by_node_.erase(entry);
            throw;
        }
    }
    ++entry->second.opens;
    return {*this, node};
}

void ChangeWatcher::add_watch(Watched& watched) {
    const Node* const node = watched.node.get();
    if (node->access().is_slow) {
        // To ask for a watch is to ask its file system whether we may.
        unwatched_.insert(node);
        return;
    }
    // On the inode, not on a name: the watch survives rename and unlink.
    const int descriptor = ::inotify_add_watch(inotify_.get(), sys::proc_path(node->descriptor()).c_str(), IN_MODIFY);
    if (descriptor >= 0) {
        by_descriptor_.emplace(descriptor, node);
        watched.descriptor = descriptor;
        return;
    }
    const int error = errno;
    unwatched_.insert(node);
    ++counters_.unwatched_opens;
    if (std::exchange(told_of_shortage_, true)) return;
    log::warning(
        "inotify_add_watch: {}: further files are looked at every {} ms instead; see fs.inotify.max_user_watches in "
        "inotify(7)",
        std::strerror(error), Sweeper::unwatched_interval.count());
}

void ChangeWatcher::unwatch(const Node& node) noexcept {
    NodePtr last;  // destroyed after the lock is gone
    const std::lock_guard lock(mutex_);
    const auto entry = by_node_.find(&node);
    if (entry == by_node_.end() || --entry->second.opens > 0) return;
    last = std::move(entry->second.node);
    const int descriptor = entry->second.descriptor;
    by_node_.erase(entry);
    unwatched_.erase(&node);
    if (descriptor < 0) return;
    const auto [first, end] = by_descriptor_.equal_range(descriptor);
    for (auto it = first; it != end; ++it) {
        if (it->second == &node) {
            by_descriptor_.erase(it);
            break;
        }
    }
    if (!by_descriptor_.contains(descriptor)) ::inotify_rm_watch(inotify_.get(), descriptor);
}

void ChangeWatcher::drop_other_watches() noexcept {
    try {
        // One line for each watch: "inotify wd:1f ino:…", proc(5).
        std::ifstream info(fmt::format("/proc/self/fdinfo/{}", inotify_.get()));
        const std::lock_guard lock(mutex_);
        for (std::string line; std::getline(info, line);) {
            constexpr std::string_view start = "inotify wd:";
            if (!line.starts_with(start)) continue;
            const int descriptor = std::stoi(line.substr(start.size()), nullptr, 16);
            if (!by_descriptor_.contains(descriptor)) ::inotify_rm_watch(inotify_.get(), descriptor);
        }
    } catch (const std::exception& failure) {
        log::warning("watches are left of a server that died: {}", failure.what());
    }
}

std::vector<NodePtr> ChangeWatcher::open_nodes() const {
    std::vector<NodePtr> nodes;
    const std::lock_guard lock(mutex_);
    nodes.reserve(by_node_.size());
    for (const auto& [key, watched] : by_node_) nodes.push_back(watched.node);
    return nodes;
}

std::vector<NodePtr> ChangeWatcher::unwatched() const {
    std::vector<NodePtr> nodes;
    const std::lock_guard lock(mutex_);
    nodes.reserve(unwatched_.size());
    for (const Node* node : unwatched_) nodes.push_back(by_node_.at(node).node);
    return nodes;
}

void ChangeWatcher::run() {
    prepare_pulse();
    std::array<pollfd, 2> wait = {pollfd{.fd = inotify_.get(), .events = POLLIN, .revents = 0},
                                  pollfd{.fd = stop_.get(), .events = POLLIN, .revents = 0}};
    bool missed = false;
    for (;;) {
        constexpr int retry_ms = 100;
        if (::poll(wait.data(), wait.size(), missed ? retry_ms : -1) < 0) continue;  // EINTR
        if (wait[1].revents != 0) return;
        const AtWork at_work("reading changes");
        fault_point("watcher.woken");
        try {
            if (missed) tell_all();
            missed = false;
            read_events();
        } catch (const std::exception& failure) {
            // Out of memory. Which event is lost is not known, so every watched file may have changed.
            if (!missed) log::error("changes may show late: {}", failure.what());
            missed = true;
        }
        const Parked resting;
        if (rest()) return;
    }
}

// Events of files that change all the time are cheaper to read by the hundred. Returns whether it is time to end.
bool ChangeWatcher::rest() {
    const auto now = Allowance::Clock::now();
    allowance_.spend(cost_of_reading, now);
    const auto ready = allowance_.ready(now);
    if (ready <= now) return false;
    pollfd stop = {.fd = stop_.get(), .events = POLLIN, .revents = 0};
    const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(ready - now);
    return ::poll(&stop, 1, static_cast<int>(std::min(milliseconds, longest_rest).count())) > 0;
}

void ChangeWatcher::read_events() {
    alignas(inotify_event) std::array<char, 65536> buffer;
    const ssize_t length = ::read(inotify_.get(), buffer.data(), buffer.size());
    int last = -1;
    for (ssize_t at = 0; at < length;) {
        inotify_event event{};
        std::memcpy(&event, buffer.data() + at, sizeof event);
        at += static_cast<ssize_t>(sizeof event + event.len);
        ++counters_.events;
        if ((event.mask & IN_Q_OVERFLOW) != 0) {
            ++counters_.event_overflows;
            if (!std::exchange(told_of_overflow_, true)) {
                log::warning(
                    "inotify: too many changes at once: all open views are compared with their files; see "
                    "fs.inotify.max_queued_events in inotify(7)");
            }
            tell_all();
        } else if ((event.mask & IN_MODIFY) != 0 && event.wd != last) {
            tell(event.wd);
            last = event.wd;
        }
    }
}

void ChangeWatcher::tell(int descriptor) {
    std::vector<NodePtr> nodes;
    {
        const std::lock_guard lock(mutex_);
        const auto [first, end] = by_descriptor_.equal_range(descriptor);
        for (auto it = first; it != end; ++it) nodes.push_back(by_node_.at(it->second).node);
    }
    for (const NodePtr& node : nodes) {
        View* const view = node->view_if_opened();
        count(counters_, view == nullptr ? nullptr : &view->counters(), &ViewCounters::changes);
        changed_(node);
    }
    fault_point("watcher.told");
}

void ChangeWatcher::tell_all() {
    for (const NodePtr& node : open_nodes()) changed_(node);
}

}  // namespace nosigbus
