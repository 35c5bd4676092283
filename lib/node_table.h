// The inodes the kernel knows by our ids, each with the O_PATH descriptor that reaches it. Hard links share a node.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_set>
#include <vector>

#include "lib/shared_state.h"
#include "lib/unique_fd.h"
#include "lib/view.h"

namespace nosigbus {

using NodeId = SlotId;

// The first node there is.
inline constexpr NodeId root_id = 1;

// Ids that no node in the table gets, for directories with nothing behind them: of slot 0, which is never used.
constexpr NodeId id_outside_table(std::uint64_t which) {
    return (last_turn - which) << slot_bits;
}
constexpr bool is_outside_table(NodeId id) {
    return (id & slot_mask) == 0 && id >= id_outside_table(15);
}

// What makes an inode the same one: an inode number alone is unique neither between file systems nor, with bind mounts
// that differ in what they allow, within one. Views of descriptors that differ in that are different ones, too.
struct NodeKey {
    std::uint64_t device;
    std::uint64_t inode;
    std::uint64_t mount;
    NodeAccess access{};

    bool operator==(const NodeKey&) const = default;
};

// Of the other node that there may be of the same file.
NodeKey twin_of(NodeKey key);
// Whether these are nodes of one file, or the same.
bool are_of_one_file(const NodeKey& one, const NodeKey& other);

// The key in statx(2)'s answer with STATX_INO and STATX_MNT_ID.
NodeKey key_of(const struct statx& attributes);

class NodeTable;

// Lives while the kernel knows it or somebody works with it. Its members may be called by any thread. There may be a
// million of them: docs/design.md says what each costs.
class Node {
  public:
    // `path` is O_PATH, unless `key` says otherwise. `view_size` is that of a regular file's view so far.
    Node(NodeTable& table, UniqueFd path, const NodeKey& key, mode_t mode, off_t view_size);
    // Takes over what another worker left in `slot`, which is in use.
    Node(NodeTable& table, NodeSlot& slot) : table_(table), slot_(slot) {}
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;
    ~Node();

    [[nodiscard]] NodeId id() const { return slot_.id; }
    // Ours. O_PATH, unless it is shared.
    [[nodiscard]] int descriptor() const { return slot_.descriptor; }
    [[nodiscard]] const NodeAccess& access() const { return slot_.access; }
    // A new open file for it. Of a shared one, which may not be opened again, the same one, whatever `flags` are.
    // Throws std::system_error.
    [[nodiscard]] UniqueFd open(int flags) const;
    [[nodiscard]] bool is_regular() const { return S_ISREG(slot_.type); }
    // Whether whoever looks for the file had better have its twin, see NodeTable: while it has a shadow.
    [[nodiscard]] bool turns_away() const { return slot_.turns_away && has_shadow(); }
    void turn_away() { slot_.turns_away = true; }
    [[nodiscard]] bool has_shadow() const {
        const View* const view = view_if_opened();
        return view != nullptr && view->engine().engine == Engine::shadow;
    }
    [[nodiscard]] bool is_open() const {
        const View* const view = view_if_opened();
        return view != nullptr && view->is_open();
    }
    [[nodiscard]] NodeKey key() const { return {slot_.device, slot_.inode, slot_.mount, slot_.access}; }

    [[nodiscard]] off_t view_size() const { return slot_.view_size; }

    // Makes the view at least `size`. Only the refresher calls it, then tells the kernel, then calls told_kernel.
    void grow_view(off_t size);
    void told_kernel() { slot_.known_size = slot_.view_size.load(); }

    // Whether every mapping reaches the view's end: not while it grows.
    [[nodiscard]] bool is_known_to_kernel() const { return slot_.known_size == slot_.view_size; }

    // Whether somebody may be told of a file of that size: its view is large enough, and every mapping reaches its end.
    [[nodiscard]] bool holds(off_t real_size) const {
        return !is_regular() || (real_size <= view_size() && is_known_to_kernel());
    }

    // Whether the view has grown since the kernel was given the node, so that two replies with different sizes may be
    // under way.
    [[nodiscard]] bool outgrown() const { return slot_.outgrown; }

    // The kernel may have been told a smaller size than the view's, as nobody maps the view's own pages.
    void note_shown_end() { slot_.outgrown = true; }

    // A write past the view's end has failed. The kernel may answer that with a truncation to the size it knows
    // (fuse_direct_IO), which nobody asked for.
    void note_failed_past_view() { slot_.failed_past_view = true; }
    [[nodiscard]] bool has_failed_past_view() const { return slot_.failed_past_view; }
    // To be called once that truncation has been answered: it may be asked for again until then.
    void forget_failed_past_view() { slot_.failed_past_view = false; }

    // For a later worker: the shadow of its view, -1 where there is none, and by which number the kernel knows it.
    struct ShadowNote {
        int descriptor;
        std::int32_t backing;
    };
    [[nodiscard]] ShadowNote shadow() const { return {slot_.shadow, slot_.backing}; }
    void note_shadow(ShadowNote shadow) {
        slot_.turns_away = false;
        slot_.backing = shadow.backing;
        slot_.shadow = shadow.descriptor;
    }
    // Nobody has it any more, and whoever opens the view from now on may have another engine. There is one such at a
    // time: nothing may be leaving yet.
    void let_shadow_go() {
        slot_.leaving_backing = slot_.backing;
        slot_.leaving = slot_.shadow.load();
        slot_.shadow = -1;
    }
    [[nodiscard]] ShadowNote leaving() const { return {slot_.leaving, slot_.leaving_backing}; }
    void forget_leaving() { slot_.leaving = -1; }
    // It is gone, whichever of the two it was.
    void forget_shadow(int descriptor) {
        for (auto* const each : {&slot_.leaving, &slot_.shadow}) {
            std::int32_t expected = descriptor;
            each->compare_exchange_strong(expected, -1);
        }
    }

    // What there is of it while clients have it open. Made when it is first asked for, and there until the node goes.
    View& view();
    // Null where it was never asked for: nobody has had the node open.
    [[nodiscard]] View* view_if_opened() const { return view_; }

    // A size for replies that the kernel does not order; a different one at each call.
    off_t next_unversioned_size();

  private:
    friend class NodeTable;

    NodeTable& table_;
    NodeSlot& slot_;
    std::atomic<View*> view_{nullptr};  // ours
};

using NodePtr = std::shared_ptr<Node>;

// One lookup of a node that the kernel has been, or is about to be, told of. Taken back on destruction unless it was
// kept: so a reply that fails leaks none. Where the worker dies before either, its successor takes it back, if the
// kernel asks for that request again, and else keeps it.
class Lookup {
  public:
    Lookup(NodeTable& table, NodePtr node, LookupSlot& slot) : table_(&table), node_(std::move(node)), slot_(&slot) {}
    Lookup(Lookup&&) = default;
    Lookup& operator=(Lookup&&) = delete;
    Lookup(const Lookup&) = delete;
    Lookup& operator=(const Lookup&) = delete;
    ~Lookup();

    [[nodiscard]] const NodePtr& node() const { return node_; }

    // The kernel has taken the reply: it will send FORGET for this lookup.
    void keep();

  private:
    NodeTable* table_;
    NodePtr node_;
    LookupSlot* slot_;
};

// Thread-safe; its lock is held for no system call but close(2).
class NodeTable {
  public:
    // Empty, but for what take_over finds.
    NodeTable(SharedState& state, off_t max_size) : state_(state), max_size_(max_size) {}

    // With the source directory, see add_root.
    NodeTable(SharedState& state, UniqueFd root, off_t max_size) : NodeTable(state, max_size) {
        add_root(std::move(root));
    }

    // The source directory, of which `root` is an O_PATH descriptor. The first node there is: its id is FUSE_ROOT_ID.
    void add_root(UniqueFd root);

    // Makes nodes of all that another worker left, and adds them to `all` in the order of their slots: also those that
    // the kernel knows no more and that only an open file may still need. Throws std::bad_alloc; then a node that goes
    // takes with it a descriptor that is still needed.
    void take_over(std::vector<NodePtr>& all);

    // A file may have two nodes, twins: one that turns away who comes with a name, as its shadow is not for everybody,
    // and another for these. Of two that do not, the one that somebody has open is found.
    //
    // The node of the inode behind `path`, an O_PATH descriptor unless `access` says otherwise, of which `attributes`
    // (type, inode, mount id, size) are known. The kernel is told of it in the answer to `request`. `path` is left to
    // the caller where there is such a node already.
    Lookup look_up(UniqueFd& path, const struct statx& attributes, RequestNumber request = 0, NodeAccess access = {});

    // The node with this id. Throws std::system_error ESTALE for one that is not in use, EPERM for one outside the
    // table: in such a directory nothing can be changed.
    NodePtr get(NodeId id);

    // The other node of that file, as far as the kernel knows it, else null.
    NodePtr twin_of(const Node& node);
    [[nodiscard]] bool has_twins() const { return twins_ > 0; }

    // `begin` is called right before the count is changed: for a note that must not say so for long beforehand.
    void forget(
        NodeId id, std::uint64_t lookups, const std::function<void()>& begin = [] {});

    // How many nodes the kernel knows, and how many slots there are, in use or not.
    [[nodiscard]] std::size_t count();
    [[nodiscard]] std::size_t slots();
    // The ids of `count` slots from the one with number `first` on, as far as they are in use by others than the root.
    // Nothing where there is no such slot and none behind it.
    std::optional<std::vector<NodeId>> ids(std::size_t first, std::size_t count);

    [[nodiscard]] off_t max_size() const { return max_size_; }

    // For descriptors of slow nodes that go, whose closing may take any time. Set before any is looked up.
    void close_slowly(std::function<void(UniqueFd)> close) { close_slowly_ = std::move(close); }

  private:
    // Nodes are found by keys that stand in their slots. (noexcept: else the set keeps each hash, too.)
    struct KeyHash {
        using is_transparent = void;
        std::size_t operator()(const NodeKey& key) const noexcept {
            return std::hash<std::uint64_t>{}(key.inode * 0x9e37'79b9'7f4a'7c15U ^ key.device << 1 ^ key.mount << 17);
        }
        std::size_t operator()(const Node* node) const noexcept { return (*this)(node->key()); }
    };
    struct SameKey {
        using is_transparent = void;
        static const NodeKey& key_of(const NodeKey& key) { return key; }
        static NodeKey key_of(const Node* node) { return node->key(); }
        template <typename A, typename B>
        bool operator()(const A& a, const B& b) const noexcept {
            return key_of(a) == key_of(b);
        }
    };

    friend class Lookup;
    friend class Node;

    NodePtr add(UniqueFd& path, const NodeKey& key, const struct statx& attributes);
    NodePtr find_or_add(UniqueFd& path, const struct statx& attributes, NodeAccess access);
    Node* find(const NodeKey& key) const;
    NodePtr shared(const Node& node) const { return by_slot_[static_cast<std::size_t>(node.id() & slot_mask)]; }

    // For all digests of pages: 8 bytes for each page, so enough for 27 GiB that were loaded.
    static constexpr std::size_t budget_for_given_pages = std::size_t{64} << 20;

    SharedState& state_;
    const off_t max_size_;
    GivenPagesBudget budget_{budget_for_given_pages};
    std::mutex mutex_;
    std::function<void(UniqueFd)> close_slowly_;
    std::deque<NodePtr> by_slot_;  // which does not move what it has when it grows
    std::unordered_set<Node*, KeyHash, SameKey> by_key_;
    std::atomic<std::size_t> twins_{0};  // how many of these are the other node of a file
};

}  // namespace nosigbus
