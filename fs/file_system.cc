#include "fs/file_system.h"

namespace nosigbus {

FileSystem::FileSystem(UniqueFd source, const Options& options)
    : options_(options),
      channel_(state_, options.cached_opens),
      nodes_(state_, std::move(source), options.max_size),
      refresher_(page_cache_, digester_, options.max_size, counters_),
      watcher_([this](const NodePtr& node) { refresher_.changed_and_help(node); }, counters_),
      sweeper_(
          watcher_, [this](const NodePtr& node) { refresher_.changed(node); }, options.refresh, counters_) {}

void FileSystem::follow_changes(fuse_session* session) {
    page_cache_.use(session);
    refresher_.start();
    truncations_.start();
    watcher_.start();
    sweeper_.start();
}

void FileSystem::note_growth(const NodePtr& node, off_t real_size) {
    if (node->is_regular() && real_size > node->view_size()) refresher_.grow(node, real_size, {});
}

off_t FileSystem::size_for_unversioned_reply(const NodePtr& node, const struct statx& attributes) {
    note_growth(node, static_cast<off_t>(attributes.stx_size));
    return node->next_unversioned_size();
}

void FileSystem::stop_following() {
    sweeper_.stop();
    watcher_.stop();
    truncations_.stop();
    refresher_.stop();
}

}  // namespace nosigbus
