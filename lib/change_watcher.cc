#include "lib/change_watcher.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "lib/log.h"
#include "lib/syscalls.h"

namespace nosigbus {

ChangeWatcher::ChangeWatcher(std::function<void(const NodePtr&)> changed)
    : changed_(std::move(changed)),
      inotify_(sys::check(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK), "inotify_init1")),
      stop_(sys::check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {}

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
    Watched& watched = entry->second;
    if (is_new) {
        // On the inode, not on a name: the watch survives rename and unlink.
        watched.descriptor = ::inotify_add_watch(inotify_.get(), sys::proc_path(node->descriptor()).c_str(), IN_MODIFY);
        if (watched.descriptor >= 0) {
            by_descriptor_.emplace(watched.descriptor, node.get());
        } else if (!told_of_shortage_) {
            told_of_shortage_ = true;
            log::warning(
                "inotify_add_watch: {}: changes to further files show at the next open or fsync only; "
                "see fs.inotify.max_user_watches in inotify(7)",
                std::strerror(errno));
        }
    }
    ++watched.opens;
    return {*this, node};
}

void ChangeWatcher::unwatch(const Node& node) noexcept {
    NodePtr last;  // destroyed after the lock is gone
    const std::lock_guard lock(mutex_);
    const auto entry = by_node_.find(&node);
    if (entry == by_node_.end() || --entry->second.opens > 0) return;
    last = std::move(entry->second.node);
    const int descriptor = entry->second.descriptor;
    by_node_.erase(entry);
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

void ChangeWatcher::run() {
    std::array<pollfd, 2> wait = {pollfd{.fd = inotify_.get(), .events = POLLIN, .revents = 0},
                                  pollfd{.fd = stop_.get(), .events = POLLIN, .revents = 0}};
    bool missed = false;
    for (;;) {
        constexpr int retry_ms = 100;
        if (::poll(wait.data(), wait.size(), missed ? retry_ms : -1) < 0) continue;  // EINTR
        if (wait[1].revents != 0) return;
        try {
            if (missed) tell_all();
            missed = false;
            read_events();
        } catch (const std::exception& failure) {
            // Out of memory. Which event is lost is not known, so every watched file may have changed.
            if (!missed) log::error("changes may show late: {}", failure.what());
            missed = true;
        }
    }
}

void ChangeWatcher::read_events() {
    alignas(inotify_event) std::array<char, 16384> buffer;
    const ssize_t length = ::read(inotify_.get(), buffer.data(), buffer.size());
    for (ssize_t at = 0; at < length;) {
        inotify_event event{};
        std::memcpy(&event, buffer.data() + at, sizeof event);
        at += static_cast<ssize_t>(sizeof event + event.len);
        if ((event.mask & IN_Q_OVERFLOW) != 0) {
            tell_all();
        } else if ((event.mask & IN_MODIFY) != 0) {
            tell(event.wd);
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
    for (const NodePtr& node : nodes) changed_(node);
}

void ChangeWatcher::tell_all() {
    std::vector<NodePtr> nodes;
    {
        const std::lock_guard lock(mutex_);
        for (const auto& [key, watched] : by_node_) nodes.push_back(watched.node);
    }
    for (const NodePtr& node : nodes) changed_(node);
}

}  // namespace nosigbus
