#include "fs/barrier.h"

#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "lib/counters.h"
#include "lib/last_call.h"
#include "lib/log.h"
#include "lib/spare_memory.h"

namespace nosigbus {
namespace {

bool is_written_to(const Node& node) {
    const View* const view = node.view_if_opened();
    return view != nullptr && view->has_writers();
}

// Where there is no memory a shadow is not like its file for a while.
bool shows_its_file(const Node& node) {
    const View* const view = node.view_if_opened();
    const auto shadow = view == nullptr ? nullptr : view->shadow();
    return !shadow || shadow->is_whole();
}

void refresh(FileSystem& fs, const NodePtr& node, std::optional<ByteRange> range, Refresher::Done done) {
    Refresher& refresher = fs.refresher_of(*node);
    if (!range) return refresher.refresh(node, std::move(done));
    refresher.refresh(node, range->offset, range->length, std::move(done));
}

// The views of the file whose clients may have stored what the file has not seen: a shadow is like the file.
std::vector<NodePtr> views_to_write_back(FileSystem& fs, const NodePtr& node, Stores stores) {
    std::vector<NodePtr> views;
    if (stores == Stores::perhaps_not && is_written_to(*node)) views.push_back(node);
    if (NodePtr twin = fs.nodes().twin_of(*node); twin && is_written_to(*twin)) views.push_back(std::move(twin));
    return views;
}

}  // namespace

void wait_for_views(FileSystem& fs, const NodePtr& node, std::optional<ByteRange> range, Stores stores,
                    std::function<void(bool shows)> done) {
    View* const view = node->view_if_opened();
    count(fs.counters(), view == nullptr ? nullptr : &view->counters(), &ViewCounters::barriers);
    const auto shadowed = fs.shadows().of_file(*node);
    const auto tell = [node, done = std::move(done)] { done(shows_its_file(*node)); };
    if (shadowed.empty()) return refresh(fs, node, range, tell);
    const auto refresh_all = [&fs, node, range, shadowed, last = when_last_goes(tell)] {
        try {
            with_spare_memory([&] {
                refresh(fs, node, range, [last] {});
                for (const NodePtr& each : shadowed) {
                    if (each != node) refresh(fs, each, range, [last] {});
                }
            });
        } catch (const std::exception& failure) {
            log::error("inode {}: a barrier: {}", node->key().inode, failure.what());
        }
    };
    const auto stored_to = views_to_write_back(fs, node, stores);
    if (stored_to.empty()) return refresh_all();
    const auto then = when_last_goes(refresh_all);
    for (const NodePtr& each : stored_to) fs.refresher_of(*each).write_back_and_refresh(each, [then] {});
}

}  // namespace nosigbus
