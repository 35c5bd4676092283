#include "fs/file_system.h"

#include <algorithm>
#include <new>

#include "fs/attributes.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// The instance that all workers share, so that no event is lost between two of them. Each has a descriptor of its own,
// to be closed as one likes.
UniqueFd shared_inotify(Lifeline& line) {
    if (line.inotify < 0) line.inotify = ChangeWatcher::make_inotify().release();
    return sys::duplicate(line.inotify);
}

}  // namespace

FileSystem::FileSystem(SharedState& state, UniqueFd source, const Options& options)
    : FileSystem(state, options, &source) {}

FileSystem::FileSystem(SharedState& state, const Options& options) : FileSystem(state, options, nullptr) {}

FileSystem::FileSystem(SharedState& state, const Options& options, UniqueFd* source)
    : state_(state),
      options_(options),
      counters_(state.counters()),
      former_workers_(state.lifeline()),
      channel_(state, options_),
      nodes_(state, options.max_size),
      read_errors_(counters_),
      refresher_(page_cache_, digester_, options.max_size, counters_, read_errors_),
      slow_refresher_(page_cache_, digester_, options.max_size, counters_, read_errors_),
      watcher_([this](const NodePtr& node) { refresher_.changed_and_help(node); }, counters_,
               shared_inotify(state.lifeline())),
      shadows_(channel_, watcher_, state.lifeline(), options_,
               [this](const NodePtr& node) { refresher_.changed(node); }),
      sweeper_(
          watcher_, [this](const NodePtr& node) { refresher_of(*node).changed(node); }, options.refresh, counters_),
      open_files_(state),
      truncations_(state, counters_),
      slow_work_([this](const NodePtr& node) { refresher_of(*node).changed(node); }),
      deeds_(state),
      unanswered_(state, nodes_, open_files_, deeds_) {
    nodes_.close_slowly([this](UniqueFd descriptor) { slow_work_.close(std::move(descriptor)); });
    open_files_.close_slowly([this](OpenFilePtr file) { slow_work_.close(std::move(file)); });
    if (source == nullptr) return;
    nodes_.add_root(std::move(*source));
    source_device_ = nodes_.get(FUSE_ROOT_ID)->key().device;
}

void FileSystem::take_over() {
    nodes_.take_over(taken_over_);
    source_device_ = nodes_.get(FUSE_ROOT_ID)->key().device;
    open_files_.take_over(taken_over_, watcher_,
                          [this](UniqueFd descriptor) { slow_work_.close(std::move(descriptor)); });
    watcher_.drop_other_watches();
    unanswered_.take_over();
    for (const NodePtr& node : taken_over_) shadows_.take_over(node);
    doubt_all_views();
    for (const NodePtr& node : taken_over_) {
        // It was to grow, and nobody knows whether the kernel was told.
        if (!node->is_known_to_kernel()) refresher_of(*node).grow(node, 0, {});
        if (node->access().is_fd_view) forgetter_.add(node->id(), {});
    }
    take_over_truncations();
    taken_over_.clear();  // and with it whatever neither the kernel nor an open file needs
}

// They are done once the predecessors are gone, which may be at it themselves.
void FileSystem::take_over_truncations() {
    const auto node_of = [this](SlotId id) -> NodePtr {
        const auto found = std::ranges::find(taken_over_, id, &Node::id);
        return found == taken_over_.end() ? nullptr : *found;
    };
    truncations_.take_over(
        node_of, [this] { former_workers_.wait(); },
        [this](const Node& node, const TruncationSlot& slot) { truncate_late(*this, node, slot); });
}

void FileSystem::doubt_all_views() {
    for (const NodePtr& node : watcher_.open_nodes()) {
        node->view().pages().lose_count();
        refresher_of(*node).changed(node);
    }
}

void FileSystem::follow_changes() {
    refresher_.start();
    slow_refresher_.start();
    truncations_.start();
    watcher_.start();
    sweeper_.start();
    forgetter_.start();
    shadows_.start();
}

void FileSystem::note_growth(const NodePtr& node, off_t real_size) {
    if (node->is_regular() && real_size > node->view_size()) refresher_of(*node).grow(node, real_size, {});
}

std::vector<NodePtr> FileSystem::other_views(const Node& node) {
    auto views = shadows_.of_file(node);
    std::erase_if(views, [&](const NodePtr& each) { return each.get() == &node; });
    if (NodePtr twin = nodes_.twin_of(node); twin && twin->is_open() && std::ranges::find(views, twin) == views.end())
        views.push_back(std::move(twin));
    return views;
}

void FileSystem::refresh_other_views(const Node& node) noexcept {
    try {
        with_spare_memory([&] {
            for (const NodePtr& each : other_views(node)) refresher_of(*each).changed(each);
        });
    } catch (const std::bad_alloc&) {
        // The sweeper sees to it.
    }
}

void FileSystem::show_truncation(const Node& node) noexcept {
    shadows_.cut(node);
    refresh_other_views(node);
}

off_t FileSystem::size_for_unversioned_reply(const NodePtr& node, const struct statx& attributes) {
    note_growth(node, static_cast<off_t>(attributes.stx_size));
    return node->next_unversioned_size();
}

bool FileSystem::stop_following() {
    const bool is_at_rest = slow_work_.stop();  // first: so that nothing waits for its replies
    retries_.stop();
    forgetter_.stop();
    shadows_.stop();
    sweeper_.stop();
    watcher_.stop();
    truncations_.stop();
    slow_refresher_.stop();
    refresher_.stop();
    return is_at_rest;
}

}  // namespace nosigbus
