#include "fs/barrier.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "lib/counters.h"
#include "lib/last_call.h"
#include "lib/spare_memory.h"

namespace nosigbus {
namespace {

bool is_written_to(const Node& node) {
    const View* const view = node.view_if_opened();
    return view != nullptr && view->has_writers();
}

// Where there is no memory a shadow is not like its file for a while.
bool shows(const Node& node) {
    const View* const view = node.view_if_opened();
    const auto shadow = view == nullptr ? nullptr : view->shadow();
    return !shadow || shadow->is_whole();
}

void refresh(FileSystem& fs, const NodePtr& node, std::optional<ByteRange> range, Refresher::Done done) {
    Refresher& refresher = fs.refresher_of(*node);
    if (!range) return refresher.refresh(node, std::move(done));
    refresher.refresh(node, range->offset, range->length, std::move(done));
}

// What is left to be done of a barrier. When it goes it says whether all has been.
class Barrier {
  public:
    Barrier(std::vector<NodePtr> views, std::function<void(bool)> done)
        : views_(std::move(views)), done_(std::move(done)) {}
    Barrier(const Barrier&) = delete;
    Barrier& operator=(const Barrier&) = delete;
    ~Barrier() {
        if (done_) done_(!has_failed_ && std::ranges::all_of(views_, [](const NodePtr& each) { return shows(*each); }));
    }

    [[nodiscard]] const std::vector<NodePtr>& views() const { return views_; }
    void fail() { has_failed_ = true; }
    void forget() { done_ = {}; }

  private:
    const std::vector<NodePtr> views_;
    std::function<void(bool)> done_;
    std::atomic<bool> has_failed_{false};
};

void refresh_all(FileSystem& fs, const std::shared_ptr<Barrier>& barrier, std::optional<ByteRange> range) {
    for (const NodePtr& each : barrier->views()) refresh(fs, each, range, [barrier] {});
}

// On the refresher's thread: there is nobody to throw to.
void refresh_all_after(FileSystem& fs, const std::shared_ptr<Barrier>& barrier,
                       std::optional<ByteRange> range) noexcept {
    try {
        with_spare_memory([&] { refresh_all(fs, barrier, range); });
    } catch (const std::exception&) {
        barrier->fail();
    }
}

// Has the kernel write back what clients have stored in views of which not all others show it, then refreshes all.
void begin(FileSystem& fs, const std::shared_ptr<Barrier>& barrier, const Node& flushed, Stores stores,
           std::optional<ByteRange> range) {
    std::vector<NodePtr> stored_to;
    for (const NodePtr& each : barrier->views()) {
        const bool is_flushed = each.get() == &flushed && stores == Stores::written_back;
        if (barrier->views().size() > 1 && !is_flushed && is_written_to(*each)) stored_to.push_back(each);
    }
    if (stored_to.empty()) return refresh_all(fs, barrier, range);
    const auto then = when_last_goes([&fs, barrier, range] { refresh_all_after(fs, barrier, range); });
    for (const NodePtr& each : stored_to) fs.refresher_of(*each).write_back_and_refresh(each, [then] {});
}

}  // namespace

void wait_for_views(FileSystem& fs, const NodePtr& node, std::optional<ByteRange> range, Stores stores,
                    std::function<void(bool shows)> done) {
    View* const view = node->view_if_opened();
    count(fs.counters(), view == nullptr ? nullptr : &view->counters(), &ViewCounters::barriers);
    auto views = fs.other_views(*node);
    views.push_back(node);
    const auto barrier = std::make_shared<Barrier>(std::move(views), std::move(done));
    try {
        begin(fs, barrier, *node, stores, range);
    } catch (...) {
        barrier->forget();
        throw;
    }
}

}  // namespace nosigbus
