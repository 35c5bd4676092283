#include "lib/open_files.h"

#include <fcntl.h>

#include <cerrno>

#include "lib/syscalls.h"

namespace nosigbus {

namespace {

bool is_for_writing(int flags) {
    return (flags & O_ACCMODE) != O_RDONLY;
}

std::optional<OpenView> open_view(Node& node, int flags) {
    if (!node.is_regular()) return std::nullopt;
    return std::optional<OpenView>(std::in_place, node.view(), is_for_writing(flags));
}

}  // namespace

OpenFile::OpenFile(SharedState& state, NodePtr node, UniqueFd descriptor, int flags, ChangeWatcher::Watch watch)
    : state_(state),
      node_(std::move(node)),
      watch_(std::move(watch)),
      view_(open_view(*node_, flags)),
      slot_(state.open_files().take()) {
    slot_.node = node_->id();
    slot_.flags = flags;
    slot_.descriptor = descriptor.release();
    // After the slot has been filled.
    id_ = state_.open_files().publish(slot_);  // NOLINT(*-prefer-member-initializer)
}

OpenFile::~OpenFile() {
    const UniqueFd closing(slot_.descriptor);
    state_.open_files().give_back(slot_);
}

bool OpenFile::is_writable() const {
    return is_for_writing(slot_.flags);
}

OpenFilePtr OpenFiles::add(NodePtr node, UniqueFd descriptor, int flags, ChangeWatcher::Watch watch) {
    auto file = std::make_shared<OpenFile>(state_, std::move(node), std::move(descriptor), flags, std::move(watch));
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
    const std::lock_guard lock(mutex_);
    if (number >= by_slot_.size() || !by_slot_[number] || by_slot_[number]->id() != id) return;
    last = std::move(by_slot_[number]);
}

}  // namespace nosigbus
