// Truncations through the view, which must not wait for ever.
//
// While a SETATTR of the size is under way the kernel holds the file's writeback (fuse_set_nowrite). The truncation
// itself waits for the backing inode's lock. Whoever holds that lock may be a client that writes from the view into the
// backing file and faults on a page that somebody is about to drop, and has locked until it is written back: a ring
// that no signal ends. So a truncation that takes long is answered early, which opens the ring, and whatever asks for
// the file's bytes or size through the view waits until it has happened.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <thread>
#include <vector>

#include "fs/reply.h"
#include "lib/counters.h"
#include "lib/node_table.h"
#include "lib/shared_state.h"

namespace nosigbus {

class Truncations {
  public:
    Truncations(SharedState& state, Counters& counters) : table_(state.truncations()), counters_(counters) {}
    Truncations(const Truncations&) = delete;
    Truncations& operator=(const Truncations&) = delete;
    ~Truncations() { stop(); }

    void start();
    void stop();

    // Calls truncate(), then give(reply). Where truncate() takes longer than `patience`, another thread gives the reply
    // meanwhile; what truncate() throws then goes to the log. `note` says what is left to be done then, for a worker
    // that has to do it in the place of this one.
    void run(const NodePtr& node, Reply& reply, const std::function<void(TruncationSlot&)>& note,
             const std::function<void()>& truncate, const std::function<void(Reply&)>& give);

    // For each truncation that a worker answered and died before it had happened: truncate(node, slot) is called, once
    // ready() has returned, in the order of the answers. `node` knows the nodes. For a file's truncations there is a
    // thread of its own. Throws std::system_error.
    void take_over(const std::function<NodePtr(SlotId)>& node, const std::function<void()>& ready,
                   const std::function<void(const Node&, const TruncationSlot&)>& truncate);

    // Returns when no truncation of `node` that was answered early is still to happen. Not for what the kernel needs to
    // end one: pages read for a fault or written back.
    void settle(const Node& node);

  private:
    static constexpr std::chrono::milliseconds patience{200};

    struct Pending {
        NodePtr node;
        Reply reply;
        const std::function<void(TruncationSlot&)>* note;
        const std::function<void(Reply&)>* give;
        std::chrono::steady_clock::time_point deadline;
        bool answered_early = false;
        TruncationSlot* slot = nullptr;  // once it was
    };

    using List = std::list<Pending>;

    void watch();
    void answer_early(Pending& pending);
    void end(List::iterator pending);
    [[nodiscard]] std::vector<TruncationSlot*> noted() const;
    List::iterator add_noted(const NodePtr& node, TruncationSlot& slot);
    [[nodiscard]] bool is_settled(const Node& node, List::const_iterator before) const;

    SlotTable<TruncationSlot>& table_;
    Counters& counters_;
    std::mutex mutex_;
    std::condition_variable added_;
    std::condition_variable happened_;
    List pending_;  // in the order of their deadlines
    std::uint64_t last_number_ = 0;
    bool stopping_ = false;
    std::thread thread_;
    std::vector<std::thread> taken_over_;
};

}  // namespace nosigbus
