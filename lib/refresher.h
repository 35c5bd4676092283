// Makes views follow their backing files. The only thread that drops pages or grows views in the kernel.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "lib/node_table.h"
#include "lib/view_pages.h"

namespace nosigbus {

class Refresher {
  public:
    // Called on the refresher's thread, with no lock held.
    using Done = std::function<void()>;

    Refresher(ViewPages& pages, off_t max_size) : pages_(pages), max_size_(max_size) {}
    Refresher(const Refresher&) = delete;
    Refresher& operator=(const Refresher&) = delete;
    ~Refresher() { stop(); }

    void start();

    // Does what is still queued, then ends the thread.
    void stop();

    // The backing file has changed: the view shows it soon. Calls for one node that wait in the queue become one.
    void changed(const NodePtr& node);

    // The barrier: `done` is called when the view shows everything that happened to the file before this call.
    void refresh(const NodePtr& node, Done done);

    // `done` is called when the view holds `real_size` bytes and the kernel knows it.
    void grow(const NodePtr& node, off_t real_size, Done done);

  private:
    struct Work {
        NodePtr node;
        bool stale = false;
        off_t real_size = -1;  // that a grow() asked for
        std::vector<Done> done;
    };

    void add(const NodePtr& node, bool stale, off_t real_size, Done done);
    void run();
    void perform(Work& work);

    ViewPages& pages_;
    const off_t max_size_;
    std::mutex mutex_;
    std::condition_variable woken_;
    // Each node waits at most once: a file that changes in a loop costs one entry, and has its turn like all others.
    std::deque<const Node*> queue_;
    std::unordered_map<const Node*, Work> waiting_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace nosigbus
