#include "lib/node_table.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>

#include "lib/syscalls.h"
#include "lib/view_size.h"

namespace nosigbus {

NodeKey key_of(const struct statx& attributes) {
    return {makedev(attributes.stx_dev_major, attributes.stx_dev_minor), attributes.stx_ino, attributes.stx_mnt_id};
}

Node::Node(SharedState& state, GivenPagesBudget& budget, UniqueFd path, const NodeKey& key, mode_t mode,
           off_t view_size)
    : state_(state), budget_(budget), slot_(state.nodes().take()) {
    slot_.device = key.device;
    slot_.inode = key.inode;
    slot_.mount = key.mount;
    slot_.lookups = 0;
    slot_.view_size = view_size;
    slot_.known_size = view_size;
    slot_.outgrown = false;
    slot_.type = mode & S_IFMT;
    slot_.descriptor = path.release();
    // After the slot has been filled.
    id_ = state.nodes().publish(slot_);  // NOLINT(*-prefer-member-initializer)
}

Node::~Node() {
    const UniqueFd closing(slot_.descriptor);
    state_.nodes().give_back(slot_);
}

void Node::grow_view(off_t size) {
    if (size <= slot_.view_size) return;
    slot_.outgrown = true;
    slot_.view_size = size;
}

View& Node::view() {
    std::call_once(view_made_, [this] {
        made_view_ = std::make_unique<View>(slot_.descriptor, budget_);
        view_ = made_view_.get();
    });
    return *made_view_;
}

off_t Node::next_unversioned_size() {
    return unversioned_size(view_size(), slot_.size_turn.fetch_add(1));
}

Lookup::~Lookup() {
    if (node_) table_->forget(node_->id(), 1);
}

NodeTable::NodeTable(SharedState& state, UniqueFd root, off_t max_size) : state_(state), max_size_(max_size) {
    const auto attributes = sys::stat_fd(root.get(), STATX_TYPE | STATX_INO | STATX_MNT_ID);
    const NodePtr node = add(std::move(root), key_of(attributes), attributes);
    ++node->slot_.lookups;  // the kernel never forgets the root
}

NodePtr NodeTable::add(UniqueFd path, const NodeKey& key, const struct statx& attributes) {
    const off_t size = view_size(static_cast<off_t>(attributes.stx_size), max_size_);
    auto node = std::make_shared<Node>(state_, budget_, std::move(path), key, attributes.stx_mode, size);
    const auto number = static_cast<std::size_t>(node->id() & slot_mask);
    if (by_slot_.size() <= number) by_slot_.resize(number + 1);
    by_key_[key] = node.get();
    by_slot_[number] = node;
    return node;
}

Lookup NodeTable::look_up(UniqueFd path, const struct statx& attributes) {
    const NodeKey key = key_of(attributes);
    const std::lock_guard lock(mutex_);
    const auto known = by_key_.find(key);
    NodePtr node = known == by_key_.end() ? add(std::move(path), key, attributes)
                                          : by_slot_[static_cast<std::size_t>(known->second->id() & slot_mask)];
    ++node->slot_.lookups;
    return {*this, std::move(node)};
}

NodePtr NodeTable::get(NodeId id) {
    const auto number = static_cast<std::size_t>(id & slot_mask);
    const std::lock_guard lock(mutex_);
    if (number >= by_slot_.size() || !by_slot_[number] || by_slot_[number]->id() != id) sys::fail(ESTALE, "node id");
    return by_slot_[number];
}

void NodeTable::forget(NodeId id, std::uint64_t lookups) {
    const auto number = static_cast<std::size_t>(id & slot_mask);
    NodePtr last;  // destroyed after the lock is gone
    const std::lock_guard lock(mutex_);
    if (number >= by_slot_.size() || !by_slot_[number] || by_slot_[number]->id() != id) return;
    NodePtr& node = by_slot_[number];
    const std::uint64_t known = node->slot_.lookups;
    node->slot_.lookups = known - std::min(known, lookups);
    if (node->slot_.lookups > 0) return;
    by_key_.erase(node->key());
    last = std::move(node);
}

}  // namespace nosigbus
