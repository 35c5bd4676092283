#include "lib/node_table.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>

#include "lib/descriptor_table.h"
#include "lib/fault_point.h"
#include "lib/syscalls.h"
#include "lib/view_size.h"

namespace nosigbus {

NodeKey key_of(const struct statx& attributes) {
    return {makedev(attributes.stx_dev_major, attributes.stx_dev_minor), attributes.stx_ino, attributes.stx_mnt_id, {}};
}

NodeKey twin_of(NodeKey key) {
    key.access.is_twin = !key.access.is_twin;
    return key;
}

bool are_of_one_file(const NodeKey& one, const NodeKey& other) {
    return one == other || one == twin_of(other);
}

Node::Node(NodeTable& table, UniqueFd path, const NodeKey& key, mode_t mode, off_t view_size)
    : table_(table), slot_(table.state_.nodes().take()) {
    slot_.device = key.device;
    slot_.inode = key.inode;
    slot_.mount = key.mount;
    slot_.lookups = 0;
    slot_.view_size = view_size;
    slot_.known_size = view_size;
    slot_.outgrown = false;
    slot_.failed_past_view = false;
    slot_.shadow = -1;
    slot_.leaving = -1;
    slot_.turns_away = false;
    slot_.type = static_cast<std::uint16_t>(mode & S_IFMT);
    slot_.access = key.access;
    slot_.descriptor = path.release();
    // After the slot has been filled.
    table_.state_.nodes().publish(slot_);
}

Node::~Node() {
    const std::unique_ptr<View> view(view_.load());
    UniqueFd closing(slot_.descriptor);
    const bool is_slow = access().is_slow;
    table_.state_.nodes().give_back(slot_);  // first: nobody is to find the number of what is closed
    if (is_slow && table_.close_slowly_) table_.close_slowly_(std::move(closing));
}

void Node::grow_view(off_t size) {
    if (size <= slot_.view_size) return;
    slot_.outgrown = true;
    fault_point("view.grows");
    slot_.view_size = size;
    fault_point("view.grown");
}

UniqueFd Node::open(int flags) const {
    return access().is_shared ? sys::duplicate(descriptor()) : sys::reopen(descriptor(), flags);
}

View& Node::view() {
    if (View* const there = view_) return *there;
    auto made = std::make_unique<View>(slot_.descriptor, table_.budget_, slot_.access);
    View* other = nullptr;
    if (!view_.compare_exchange_strong(other, made.get())) return *other;
    return *made.release();
}

off_t Node::next_unversioned_size() {
    return unversioned_size(view_size(), slot_.size_turn.fetch_add(1));
}

Lookup::~Lookup() {
    if (!node_) return;
    table_->forget(node_->id(), 1, [this] { slot_->is_counted = false; });
    table_->state_.lookups().give_back(*slot_);
}

void Lookup::keep() {
    fault_point("lookup.answered");
    table_->state_.lookups().give_back(*slot_);
    node_.reset();
}

void NodeTable::add_root(UniqueFd root) {
    const std::lock_guard lock(mutex_);
    const auto attributes = sys::stat_fd(root.get(), STATX_TYPE | STATX_INO | STATX_MNT_ID);
    const NodePtr node = add(root, key_of(attributes), attributes);
    ++node->slot_.lookups;  // the kernel never forgets the root
}

void NodeTable::take_over(std::vector<NodePtr>& all) {
    const auto slots = state_.nodes().taken();
    const std::lock_guard lock(mutex_);
    by_slot_.resize(slots.size() + 1);
    all.reserve(slots.size());
    by_key_.reserve(slots.size());
    for (NodeSlot& slot : slots) {
        if (slot.id == 0) continue;
        all.push_back(std::make_shared<Node>(*this, slot));
        const NodePtr& node = all.back();
        if (slot.lookups == 0) continue;
        by_slot_[static_cast<std::size_t>(node->id() & slot_mask)] = node;
        by_key_.insert(node.get());
        if (node->access().is_twin) ++twins_;
    }
}

NodePtr NodeTable::add(UniqueFd& path, const NodeKey& key, const struct statx& attributes) {
    const off_t size = view_size(static_cast<off_t>(attributes.stx_size), max_size_);
    if (is_reserved(path.get()))
        sys::fail(ENFILE, "the last descriptors are reserved");  // `path` is still the caller's
    auto node = std::make_shared<Node>(*this, std::move(path), key, attributes.stx_mode, size);
    const auto number = static_cast<std::size_t>(node->id() & slot_mask);
    if (by_slot_.size() <= number) by_slot_.resize(number + 1);
    by_key_.insert(node.get());
    by_slot_[number] = node;
    if (node->access().is_twin) ++twins_;
    return node;
}

// With the lock held.
NodePtr NodeTable::find_or_add(UniqueFd& path, const struct statx& attributes, NodeAccess access) {
    NodeKey key = key_of(attributes);
    key.access = access;
    Node* const first = find(key);
    Node* const twin = twins_ > 0 || (first != nullptr && first->turns_away()) ? find(nosigbus::twin_of(key)) : nullptr;
    const bool may_be_first = first != nullptr && !first->turns_away();
    const bool may_be_twin = twin != nullptr && !twin->turns_away();
    if (may_be_twin && (!may_be_first || (twin->is_open() && !first->is_open()))) return shared(*twin);
    if (may_be_first) return shared(*first);
    if (first == nullptr) return add(path, key, attributes);
    if (twin == nullptr) return add(path, nosigbus::twin_of(key), attributes);
    return shared(*first);  // cannot be for long: only one of them has a shadow
}

// With the lock held.
Node* NodeTable::find(const NodeKey& key) const {
    const auto found = by_key_.find(key);
    return found == by_key_.end() ? nullptr : *found;
}

NodePtr NodeTable::twin_of(const Node& node) {
    if (!has_twins()) return nullptr;
    const std::lock_guard lock(mutex_);
    const Node* const twin = find(nosigbus::twin_of(node.key()));
    return twin == nullptr ? nullptr : shared(*twin);
}

Lookup NodeTable::look_up(UniqueFd& path, const struct statx& attributes, RequestNumber request, NodeAccess access) {
    LookupSlot& slot = state_.lookups().take();
    try {
        const std::lock_guard lock(mutex_);
        NodePtr node = find_or_add(path, attributes, access);
        slot.request = request;
        slot.node = node->id();
        slot.is_counted = false;
        state_.lookups().publish(slot);
        // A worker that dies between these two leaves a lookup too many: its node stays. One too few would be a node
        // that goes while the kernel knows it.
        ++node->slot_.lookups;
        fault_point("lookup.counted");
        slot.is_counted = true;
        fault_point("lookup.noted");
        return {*this, std::move(node), slot};
    } catch (...) {
        state_.lookups().give_back(slot);
        throw;
    }
}

NodePtr NodeTable::get(NodeId id) {
    const auto number = static_cast<std::size_t>(id & slot_mask);
    if (is_outside_table(id)) sys::fail(EPERM, "not a node of the table");
    const std::lock_guard lock(mutex_);
    if (number >= by_slot_.size() || !by_slot_[number] || by_slot_[number]->id() != id) sys::fail(ESTALE, "node id");
    return by_slot_[number];
}

void NodeTable::forget(NodeId id, std::uint64_t lookups, const std::function<void()>& begin) {
    if (id == root_id) return;  // not the kernel's to forget
    const auto number = static_cast<std::size_t>(id & slot_mask);
    NodePtr last;  // destroyed after the lock is gone
    const std::lock_guard lock(mutex_);
    if (number >= by_slot_.size() || !by_slot_[number] || by_slot_[number]->id() != id) return;
    NodePtr& node = by_slot_[number];
    const std::uint64_t known = node->slot_.lookups;
    begin();
    fault_point("forget");
    node->slot_.lookups = known - std::min(known, lookups);
    if (node->slot_.lookups > 0) return;
    by_key_.erase(node.get());
    if (node->access().is_twin) --twins_;
    last = std::move(node);
}

std::size_t NodeTable::count() {
    const std::lock_guard lock(mutex_);
    return by_key_.size();
}

std::size_t NodeTable::slots() {
    const std::lock_guard lock(mutex_);
    return by_slot_.size();
}

std::optional<std::vector<NodeId>> NodeTable::ids(std::size_t first, std::size_t count) {
    std::vector<NodeId> found;
    found.reserve(count);
    const std::lock_guard lock(mutex_);
    if (first >= by_slot_.size()) return std::nullopt;
    const std::size_t end = first + std::min(count, by_slot_.size() - first);
    for (std::size_t number = first; number < end; ++number) {
        if (by_slot_[number] && by_slot_[number]->id() != root_id) found.push_back(by_slot_[number]->id());
    }
    return found;
}

}  // namespace nosigbus
