// Has the kernel forget views of descriptors that nobody has open any more, and with them the files: a memfd's memory
// is often that of nobody else.
//
// The kernel keeps a name until it is short of memory, also one that expires at once. FUSE_NOTIFY_PRUNE (Linux 6.18)
// drops it, and FUSE_NOTIFY_INVAL_ENTRY before that, by its name. Neither can be sent when the last open file has gone:
// the name is in use a little longer (__fput). So this looks again and again, while there are such views.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "fs/page_cache.h"
#include "lib/node_table.h"

namespace nosigbus {

class Forgetter {
  public:
    static constexpr std::chrono::milliseconds interval{100};

    Forgetter(NodeTable& nodes, PageCache& kernel) : nodes_(nodes), kernel_(kernel) {}
    Forgetter(const Forgetter&) = delete;
    Forgetter& operator=(const Forgetter&) = delete;
    ~Forgetter() { stop(); }

    void start();
    void stop();

    // That node is a view of a descriptor. `name` is the one it has been found by, empty where that is not known.
    // Throws std::bad_alloc.
    void add(NodeId node, std::string_view name);

  private:
    void run();
    void look();
    [[nodiscard]] bool is_open(NodeId node, bool& is_known);

    NodeTable& nodes_;
    PageCache& kernel_;
    std::mutex mutex_;
    std::condition_variable woken_;
    std::unordered_map<NodeId, std::set<std::string>> views_;  // with the names they were found by
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace nosigbus
