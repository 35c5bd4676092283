// The shadow engine: which views have a shadow, and what all of them may take. See lib/shadow.h for what one is, and
// the refresher for how it is kept true.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "fs/backing_ids.h"
#include "fs/channel.h"
#include "lib/change_watcher.h"
#include "lib/engine.h"
#include "lib/node_table.h"
#include "lib/options.h"
#include "lib/shadow.h"
#include "lib/shared_state.h"

namespace nosigbus {

// A mapping of a shadow holds the shadow, and not the file that was opened (backing_file_mmap): RELEASE may come while
// there are mappings. So each view that has a shadow is kept open by us, until nobody has the shadow any more.
//
// Thread-safe.
class Shadows {
  public:
    static constexpr std::chrono::milliseconds interval{100};
    // How often what has failed is tried again.
    static constexpr std::chrono::seconds retry_interval{1};

    // `refresh` makes what a view shows like its file, soon.
    Shadows(const Channel& channel, ChangeWatcher& watcher, const Lifeline& line, const Options& options,
            std::function<void(const NodePtr&)> refresh)
        : channel_(channel),
          watcher_(watcher),
          line_(line),
          options_(options),
          refresh_(std::move(refresh)),
          overcommit_(open_overcommit_policy()) {}
    Shadows(const Shadows&) = delete;
    Shadows& operator=(const Shadows&) = delete;
    ~Shadows() { stop(); }

    void start();
    // Lets all go.
    void stop();

    // Whose pages a view is to show if it is opened first with `flags`, and `file` is what was opened behind it, of
    // `real_size` bytes.
    [[nodiscard]] EngineChoice wanted(const Node& node, int flags, int file, off_t real_size) const;

    // Makes the shadow that the view is to have and does not have yet: of holes, the refresher makes it like the file.
    // Where it cannot be had the view does without.
    void make(const NodePtr& node);

    // What a former worker has made.
    void take_over(const NodePtr& node);

    // Ends its view's shadow if nobody has it any more: for who would write.
    void let_go_if_idle(const NodePtr& node);

    // Whether somebody has one open or mapped, whatever we were told of closes.
    [[nodiscard]] bool are_in_use() const;

    // The nodes of `node`'s file that have a shadow, itself included.
    [[nodiscard]] std::vector<NodePtr> of_file(const Node& node) const;

    // The file has another size now: its shadows end where it does when this returns.
    void cut(const Node& node) noexcept;

    // How many there are, and what all take together, in bytes, or will once they are like their files.
    [[nodiscard]] std::size_t count() const { return count_; }
    [[nodiscard]] std::uint64_t memory() const { return memory_; }

  private:
    struct Kept {
        Kept(NodePtr kept, ChangeWatcher::Watch watched);

        NodePtr node;
        std::shared_ptr<Shadow> shadow;  // null while it is being made
        ChangeWatcher::Watch watch;
        OpenView open;
    };

    // Device and inode.
    using File = std::pair<std::uint64_t, std::uint64_t>;
    static File file_of(const Node& node);

    struct Seen {
        NodePtr node;
        std::shared_ptr<Shadow> shadow;  // gone before its node
    };

    static UniqueFd open_overcommit_policy() noexcept;
    [[nodiscard]] bool holes_may_fault() const noexcept;
    [[nodiscard]] bool exceeds_budget(std::uint64_t more) const noexcept;
    // `size` is what it will take of memory. Where it throws, std::bad_alloc or std::system_error, nothing has changed,
    // and `memory` and the number are still the caller's.
    void add(const NodePtr& node, UniqueFd& memory, off_t shown_size, BackingId backing, std::uint64_t size);
    static void forget(Node& node, Node::ShadowNote shadow, int device) noexcept;
    void run();
    void look();
    bool let_go(const Seen& seen);
    using Kepts = std::multimap<File, std::unique_ptr<Kept>>;
    Kepts::iterator find_locked(const Seen& seen);
    [[nodiscard]] std::vector<Seen> all() const;
    [[nodiscard]] std::vector<Seen> all_of_file(const Node& node) const;

    const Channel& channel_;
    ChangeWatcher& watcher_;
    const Lifeline& line_;
    const Options& options_;
    const std::function<void(const NodePtr&)> refresh_;
    const UniqueFd overcommit_;  // /proc/sys/vm/overcommit_memory
    std::mutex making_;
    // Nothing is destroyed under them.
    mutable std::mutex probing_;  // who looks whether a shadow is in use
    mutable std::mutex mutex_;    // for the rest
    std::condition_variable woken_;
    Kepts kept_;
    std::atomic<std::size_t> count_{0};
    std::atomic<std::uint64_t> memory_{0};
    std::atomic<bool> is_refused_{false};  // the kernel will not have it
    std::atomic<bool> told_of_shortage_{false};
    std::atomic<bool> told_of_overcommit_{false};
    std::chrono::steady_clock::time_point next_retry_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace nosigbus
