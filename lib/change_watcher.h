// Hears from inotify(7) when a backing file that somebody has open through the mount is changed behind our back.
#pragma once

#include <functional>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "lib/allowance.h"
#include "lib/counters.h"
#include "lib/node_table.h"
#include "lib/unique_fd.h"

namespace nosigbus {

class ChangeWatcher {
  public:
    // `changed` is called on the watcher's thread, with no lock held, for each node that may have changed.
    ChangeWatcher(std::function<void(const NodePtr&)> changed, Counters& counters)
        : ChangeWatcher(std::move(changed), counters, make_inotify()) {}

    // Reads from `inotify`, on which another worker may have left watches. Whatever is watched again has the same one.
    ChangeWatcher(std::function<void(const NodePtr&)> changed, Counters& counters, UniqueFd inotify);

    // An inotify instance, non-blocking. Throws std::system_error.
    static UniqueFd make_inotify();

    ChangeWatcher(const ChangeWatcher&) = delete;
    ChangeWatcher& operator=(const ChangeWatcher&) = delete;
    ~ChangeWatcher() { stop(); }

    void start();
    void stop();

    // Keeps a node watched while it lives.
    class Watch {
      public:
        Watch() = default;
        Watch(ChangeWatcher& watcher, NodePtr node) : watcher_(&watcher), node_(std::move(node)) {}
        Watch(Watch&& other) noexcept : watcher_(other.watcher_), node_(std::move(other.node_)) {}
        Watch& operator=(Watch&& other) noexcept {
            std::swap(watcher_, other.watcher_);
            std::swap(node_, other.node_);
            return *this;
        }
        Watch(const Watch&) = delete;
        Watch& operator=(const Watch&) = delete;
        ~Watch() {
            if (node_) watcher_->unwatch(*node_);
        }

      private:
        ChangeWatcher* watcher_ = nullptr;
        NodePtr node_;
    };

    // From its return every change to the file's bytes or size is heard. Where the kernel has no watch left, the log
    // says so once, and the node is one of unwatched() while it is open.
    Watch watch(const NodePtr& node);

    // Takes away the watches of files that nobody has open: what a worker that died had no time for. Logs what fails.
    void drop_other_watches() noexcept;

    // All nodes that are open, and those of them that inotify had no watch for.
    [[nodiscard]] std::vector<NodePtr> open_nodes() const;
    [[nodiscard]] std::vector<NodePtr> unwatched() const;

  private:
    // To be woken and to read once. What is done about the events then is not for the watcher to reckon.
    static constexpr std::chrono::microseconds cost_of_reading{5};
    // Long enough to be cheap, short enough for the kernel's queue.
    static constexpr std::chrono::milliseconds longest_rest{5};

    struct Watched {
        NodePtr node;
        int descriptor;  // inotify's, or -1 where it had none for us
        unsigned opens;
    };

    void add_watch(Watched& watched);  // with the lock held
    void unwatch(const Node& node) noexcept;
    void run();
    bool rest();
    void read_events();
    void tell_all();
    void tell(int descriptor);

    std::function<void(const NodePtr&)> changed_;
    Counters& counters_;
    UniqueFd inotify_;
    UniqueFd stop_;  // eventfd
    Allowance allowance_;
    mutable std::mutex mutex_;
    std::unordered_map<const Node*, Watched> by_node_;
    std::unordered_set<const Node*> unwatched_;
    std::unordered_multimap<int, const Node*> by_descriptor_;  // nodes of one inode in two mounts share a watch
    bool told_of_shortage_ = false;
    bool told_of_overflow_ = false;
    std::thread thread_;
};

}  // namespace nosigbus
