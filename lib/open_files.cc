#include "lib/open_files.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "lib/descriptor_table.h"
#include "lib/syscalls.h"

namespace nosigbus {

namespace {

bool is_for_writing(int flags) {
    return (flags & O_ACCMODE) != O_RDONLY;
}

std::optional<OpenView> open_view(Node& node, int flags, EngineChoice wanted) {
    if (!node.is_regular()) return std::nullopt;
    return std::optional<OpenView>(std::in_place, node.view(), is_for_writing(flags), wanted);
}

// What a former worker had settled for its view.
EngineChoice engine_of(const Node& node) {
    return {node.shadow().descriptor >= 0 ? Engine::shadow : Engine::cache, "opened_before_a_restart"};
}

}  // namespace

OpenFile::OpenFile(SharedState& state, NodePtr node, UniqueFd descriptor, int flags, ChangeWatcher::Watch watch,
                   RequestNumber request, EngineChoice wanted)
    : state_(state),
      node_(std::move(node)),
      watch_(std::move(watch)),
      view_(open_view(*node_, flags, wanted)),
      slot_(state.open_files().take()) {
    slot_.node = node_->id();
    slot_.flags = flags;
    slot_.opening = request;
    slot_.is_closed = false;
    slot_.descriptor = descriptor.release();
    // After the slot has been filled.
    id_ = state_.open_files().publish(slot_);  // NOLINT(*-prefer-member-initializer)
}

OpenFile::OpenFile(SharedState& state, NodePtr node, OpenFileSlot& slot, ChangeWatcher::Watch watch)
    : state_(state),
      node_(std::move(node)),
      watch_(std::move(watch)),
      view_(open_view(*node_, slot.flags, engine_of(*node_))),
      slot_(slot),
      id_(slot.id) {}

OpenFile::~OpenFile() {
    const UniqueFd closing(slot_.descriptor);
    state_.open_files().give_back(slot_);
}

bool OpenFile::is_writable() const {
    return is_for_writing(slot_.flags);
}

void OpenFiles::take_over(const std::vector<NodePtr>& nodes, ChangeWatcher& watcher,
                          const std::function<void(UniqueFd)>& close_slowly) {
    const auto slots = state_.open_files().taken();
    const std::lock_guard lock(mutex_);
    by_slot_.resize(slots.size() + 1);
    for (OpenFileSlot& slot : slots) {
        if (slot.id == 0) continue;
        const auto number_of = [](SlotId id) { return id & slot_mask; };
        const auto node = std::ranges::lower_bound(nodes, number_of(slot.node), {},
                                                   [&](const NodePtr& each) { return number_of(each->id()); });
        // Cannot be: a node goes after the files that are open on it.
        if (node == nodes.end() || (*node)->id() != slot.node) continue;
        if (slot.is_closed) {
            UniqueFd closing(slot.descriptor);
            state_.open_files().give_back(slot);  // first: nobody is to find the number of what is closed
            if ((*node)->access().is_slow) close_slowly(std::move(closing));
            continue;
        }
        ChangeWatcher::Watch watch;
        if ((*node)->is_regular()) watch = watcher.watch(*node);
        by_slot_[static_cast<std::size_t>(slot.id & slot_mask)] =
            std::make_shared<OpenFile>(state_, *node, slot, std::move(watch));
    }
}

OpenFilePtr OpenFiles::opened_for(RequestNumber request) {
    const std::lock_guard lock(mutex_);
    for (const OpenFileSlot& slot : state_.open_files().taken()) {
        if (slot.id != 0 && slot.opening == request) return by_slot_[static_cast<std::size_t>(slot.id & slot_mask)];
    }
    return nullptr;
}

OpenFilePtr OpenFiles::add(NodePtr node, UniqueFd descriptor, int flags, ChangeWatcher::Watch watch,
                           RequestNumber request, EngineChoice wanted) {
    auto file = std::make_shared<OpenFile>(state_, std::move(node), to_stay(std::move(descriptor)), flags,
                                           std::move(watch), request, wanted);
    const auto number = static_cast<std::size_t>(file->id() & slot_mask);
    const std::lock_guard lock(mutex_);
    if (by_slot_.size() <= number) by_slot_.resize(number + 1);
    by_slot_[number] = file;
    return file;
}

OpenFilePtr OpenFiles::get(SlotId id) {
    const auto number = static_cast<std::size_t>(id & slot_mask);
    const std::lock_guard lock(mutex_);
    if (number >= by_slot_.size() || !by_slot_[number] || by_slot_[number]->id() != id) sys::fail(EBADF, "file handle");
    return by_slot_[number];
}

void OpenFiles::remove(SlotId id) {
    const auto number = static_cast<std::size_t>(id & slot_mask);
    OpenFilePtr last;  // destroyed after the lock is gone
    {
        const std::lock_guard lock(mutex_);
        if (number >= by_slot_.size() || !by_slot_[number] || by_slot_[number]->id() != id) return;
        last = std::move(by_slot_[number]);
        last->note_closed();
    }
    if (last->node()->access().is_slow && close_slowly_) close_slowly_(std::move(last));
}

}  // namespace nosigbus
