// The files and directories that clients have open through the mount, each with our own descriptor of it.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "lib/change_watcher.h"
#include "lib/node_table.h"
#include "lib/shared_state.h"
#include "lib/unique_fd.h"
#include "lib/view.h"

namespace nosigbus {

class OpenFile {
  public:
    // `flags` are those `descriptor` was opened with; `watch` keeps the node watched for changes meanwhile. `request`
    // is the one in whose answer the kernel gets the handle.
    OpenFile(SharedState& state, NodePtr node, UniqueFd descriptor, int flags, ChangeWatcher::Watch watch,
             RequestNumber request, EngineChoice wanted);
    // Takes over what another worker left in `slot`, which is in use.
    OpenFile(SharedState& state, NodePtr node, OpenFileSlot& slot, ChangeWatcher::Watch watch);
    OpenFile(const OpenFile&) = delete;
    OpenFile& operator=(const OpenFile&) = delete;
    ~OpenFile();

    [[nodiscard]] SlotId id() const { return id_; }
    [[nodiscard]] const NodePtr& node() const { return node_; }
    [[nodiscard]] int descriptor() const { return slot_.descriptor; }
    [[nodiscard]] bool is_writable() const;

    // The kernel has the handle, and will send RELEASE for it. Until then a successor of a worker that dies closes it,
    // if the kernel asks for that request again.
    void note_taken() { slot_.opening = 0; }
    // The kernel has it no more. A thread that still works with the file may outlive the answer to that, and the worker
    // not the thread.
    void note_closed() { slot_.is_closed = true; }

  private:
    SharedState& state_;
    NodePtr node_;
    ChangeWatcher::Watch watch_;
    std::optional<OpenView> view_;  // of a regular file
    OpenFileSlot& slot_;
    SlotId id_;
};

using OpenFilePtr = std::shared_ptr<OpenFile>;

// Thread-safe.
class OpenFiles {
  public:
    explicit OpenFiles(SharedState& state) : state_(state) {}

    // Makes open files of all that another worker left. `nodes` are all that it knew, in the order of their slots, and
    // `watcher` watches them again; what was being closed of a slow node goes to `close_slowly`. Throws std::bad_alloc;
    // then a file that goes takes with it a descriptor that is still needed.
    void take_over(const std::vector<NodePtr>& nodes, ChangeWatcher& watcher,
                   const std::function<void(UniqueFd)>& close_slowly);

    // Returns the new open file, whose id is the handle for the kernel. `wanted` is for View::opened. Throws
    // std::system_error.
    OpenFilePtr add(NodePtr node, UniqueFd descriptor, int flags, ChangeWatcher::Watch watch, RequestNumber request = 0,
                    EngineChoice wanted = not_asked_for);

    // What a worker that died had opened for `request`. Null: nothing.
    OpenFilePtr opened_for(RequestNumber request);

    // Throws std::system_error EBADF for a handle that is not in use.
    OpenFilePtr get(SlotId id);

    void remove(SlotId id);

    // For those of slow nodes that are removed, whose closing may take any time. Set before there are any.
    void close_slowly(std::function<void(OpenFilePtr)> close) { close_slowly_ = std::move(close); }

  private:
    SharedState& state_;
    std::mutex mutex_;
    std::function<void(OpenFilePtr)> close_slowly_;
    std::vector<OpenFilePtr> by_slot_;
};

}  // namespace nosigbus
