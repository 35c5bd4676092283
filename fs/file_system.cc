#include "fs/file_system.h"

namespace nosigbus {

FileSystem::FileSystem(UniqueFd source, const Options& options)
    : nodes_(state_, std::move(source), options.max_size),
      refresher_(page_cache_, options.max_size),
      watcher_([this](const NodePtr& node) { refresher_.changed(node); }) {}

void FileSystem::follow_changes(fuse_session* session) {
    page_cache_.use(session);
    refresher_.start();
    watcher_.start();
}

void FileSystem::stop_following() {
    watcher_.stop();
    refresher_.stop();
}

}  // namespace nosigbus
