// Makes views follow their backing files. What drops or pushes pages or grows views in the kernel happens here only,
// one turn at a time: on the refresher's own thread, or on the watcher's, which saves the way from one to the other.
//
// A refresh is a pass over the pages that the kernel was given: what differs from the file is pushed, where nobody has
// the view open for writing, and dropped otherwise. It starts where the file's size has changed. Passes go in slices,
// so that no view waits for another's whole pass.
#pragma once

#include <sys/stat.h>

#include <condition_variable>
#include <functional>
#include <limits>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "lib/allowance.h"
#include "lib/counters.h"
#include "lib/crew.h"
#include "lib/node_table.h"
#include "lib/page_compare.h"
#include "lib/read_errors.h"
#include "lib/shadow.h"
#include "lib/view_pages.h"

namespace nosigbus {

class Refresher {
  public:
    // Called on the thread that has the turn, with no lock held.
    using Done = std::function<void()>;

    Refresher(ViewPages& pages, const PageDigester& digester, off_t max_size, Counters& counters, ReadErrors& errors);
    Refresher(const Refresher&) = delete;
    Refresher& operator=(const Refresher&) = delete;
    ~Refresher() { stop(); }

    void start();

    // Does what is still queued, then ends the thread.
    void stop();

    // The backing file has changed: the view shows it soon. Calls for one node that wait in the queue become one.
    void changed(const NodePtr& node);

    // The same from the watcher's thread, which takes a turn itself if nobody else has it: no request waits for it, and
    // no fault.
    void changed_and_help(const NodePtr& node);

    // `done` is called when the view shows everything that happened to the file before this call.
    void refresh(const NodePtr& node, Done done);

    // The same, once the kernel has written back what clients have stored in the view's pages.
    void write_back_and_refresh(const NodePtr& node, Done done);

    // The same for a part of the view only: the pages that have one of the `length` bytes at `offset`.
    void refresh(const NodePtr& node, off_t offset, off_t length, Done done);

    // `done` is called when the view holds `real_size` bytes and the kernel knows it.
    void grow(const NodePtr& node, off_t real_size, Done done);

  private:
    static constexpr std::uint64_t no_end = std::numeric_limits<std::uint64_t>::max();

    // A pass over a view, of which some slices may be done.
    struct Pass {
        bool stale = false;               // all of it
        bool stored_to = false;           // and by clients, which the file has not seen
        std::optional<PageRange> part{};  // that is stale, where not all of it is
        off_t real_size = -1;             // that a grow() asked for
        std::vector<Done> grown{};
        std::vector<Done> refreshed{};

        bool begun = false;
        off_t file_size = 0;
        std::uint64_t start = 0;     // the page it began at
        std::uint64_t cursor = 0;    // the next page to look at
        std::uint64_t end = no_end;  // the page to stop at: on the second leg, from page 0 on, where it began
        std::uint64_t cut_off = 0;   // from here on pages are dropped without a look: the file has shrunk by many
        bool may_push = true;
        bool pushed = false;
        bool again = false;          // a READ has come between: what the kernel has is not known
        PageRange shadowed{};        // what is left to be looked at of a shadow
        bool shadow_failed = false;  // it could not be made like the file
    };

    using Queue = std::list<const Node*>;

    // What waits for a node. The pass under way saw the file before what is wanted next was asked for.
    struct Entry {
        NodePtr node;
        Pass wanted;
        std::optional<Pass> under_way;
        bool is_restless = false;
        Queue* queue = nullptr;  // where it waits for its turn, or has it
        Queue::iterator place;
    };

    void add(const NodePtr& node, Pass wanted);
    void add_locked(const NodePtr& node, Pass wanted);
    static void merge(Pass& pass, Pass other);
    static void move_to(Entry& entry, Queue& queue);
    static bool nobody_waits(const Entry& entry);
    void sort_out_restless();
    Queue* next_queue(Allowance::Clock::time_point& ready);
    void run();
    void take_turn(Queue& queue, std::unique_lock<std::mutex>& lock);
    void go_on_or_erase(Entry& entry, NodePtr node, std::unique_lock<std::mutex>& lock);

    // go_on and go_on_slice return whether the pass is done. Whatever fails in go_on, the thread lives on.
    bool go_on(const NodePtr& node, Pass& pass);
    struct stat grow_if_outgrown(Node& node, Pass& pass);
    void begin(Node& node, View& view, const struct stat& file, Pass& pass);
    static std::optional<PageRange> next_range(View& view, Pass& pass);
    bool go_on_slice(Node& node, View& view, Pass& pass);
    void begin_shadow(Node& node, Shadow& shadow, View& view, Pass& pass);
    bool go_on_shadow(Node& node, View& view, Pass& pass);
    void copy_to_shadow(Shadow& shadow, View& view, int fd, PageRange slice);
    void tell_size(Node& node);
    void drop_all(Node& node);

    void look_at(Node& node, View& view, int fd, PageRange range, Pass& pass);
    void bring_up_to_date(Node& node, View& view, int fd, std::uint64_t first, std::span<GivenPages::State> states,
                          Pass& pass);
    bool push(Node& node, View& view, std::uint64_t first, std::span<GivenPages::State> states,
              std::span<const std::byte> bytes, std::span<const PageDigest> digests, Pass& pass);
    void note_zeros(View& view, std::size_t length, std::size_t real_bytes);
    void drop(Node& node, View& view, PageRange range);
    static void call_all(const Node& node, std::vector<Done>& done);

    ViewPages& pages_;
    const PageDigester& digester_;
    const off_t max_size_;
    Counters& counters_;
    ReadErrors& errors_;
    std::optional<Crew> crew_;
    std::optional<PageCompare> compare_;
    std::optional<ShadowCopier> copier_;
    std::vector<GivenPages::State> states_;
    std::unique_ptr<bool[]> differs_;
    std::vector<std::byte> window_;

    std::mutex mutex_;
    std::condition_variable woken_;
    // Each node waits at most once: a file that changes in a loop costs one entry, and has its turn like all others.
    std::unordered_map<const Node*, Entry> entries_;
    Queue prompt_;    // somebody waits for it, or it has been quiet until now
    Queue restless_;  // changing all the time: these have their turn too, but no more than half of the time
    Queue turn_;      // the one that has its turn
    bool prompt_has_had_its_turn_ = false;
    Allowance restless_allowance_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace nosigbus
