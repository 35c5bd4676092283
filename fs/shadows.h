// The shadow engine: which views have a shadow, and what all of them may take. See lib/shadow.h for what one is, and
// the refresher for how it is kept true.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "fs/channel.h"
#include "lib/change_watcher.h"
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

    Shadows(const Channel& channel, ChangeWatcher& watcher, const Lifeline& line, const Options& options)
        : channel_(channel), watcher_(watcher), line_(line), options_(options) {}
    Shadows(const Shadows&) = delete;
    Shadows& operator=(const Shadows&) = delete;
    ~Shadows() { stop(); }

    void start();
    // Lets all go.
    void stop();

    // Whose pages a view is to show if it is opened first with `flags`, and its file has `real_size` bytes.
    [[nodiscard]] Engine wanted(const Node& node, int flags, off_t real_size) const;

    // Makes the shadow that the view is to have and does not have yet: of holes, the refresher makes it like the file.
    // Where it cannot be had the view does without.
    void make(const NodePtr& node);

    // What a former worker has made.
    void take_over(const NodePtr& node);

    // Of all together, in bytes.
    [[nodiscard]] std::uint64_t memory() const;

  private:
    struct Kept {
        Kept(NodePtr kept, ChangeWatcher::Watch watched)
            : node(std::move(kept)), watch(std::move(watched)), open(node->view(), false, Engine::shadow) {}

        NodePtr node;
        ChangeWatcher::Watch watch;
        OpenView open;
    };

    void add(const NodePtr& node, UniqueFd memory, std::int32_t backing);
    void forget(Node& node, int descriptor, std::int32_t backing) noexcept;
    void run();
    void look();
    std::unique_ptr<Kept> exchange_kept(int descriptor, std::unique_ptr<Kept> kept);

    const Channel& channel_;
    ChangeWatcher& watcher_;
    const Lifeline& line_;
    const Options& options_;
    std::mutex making_;
    mutable std::mutex mutex_;  // for the rest; nothing is destroyed under it
    std::condition_variable woken_;
    std::map<int, std::unique_ptr<Kept>> kept_;  // by the shadow's descriptor
    bool is_refused_ = false;                    // the kernel will not have it
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace nosigbus
