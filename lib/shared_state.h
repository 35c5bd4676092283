// What a restarted server needs to go on: which descriptor is which node or open file, how often the kernel knows it,
// how large its view has been, and the INIT request. It lives in a memfd; every process that shares our descriptor
// table can map it. All else a server keeps can be rebuilt from it.
//
// Readable after a crash at any instruction: a slot is in use exactly while its id is not 0, which is stored after the
// slot's other members were filled and cleared before its descriptor is closed.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "lib/mapped_region.h"
#include "lib/unique_fd.h"

namespace nosigbus {

// The low 24 bits are a slot's number, the others count how often it has been taken: an id is never used for another
// inode or open file. Slot 1 taken 0 times is FUSE_ROOT_ID.
using SlotId = std::uint64_t;

inline constexpr unsigned slot_bits = 24;
inline constexpr SlotId slot_mask = (SlotId{1} << slot_bits) - 1;
inline constexpr std::uint64_t last_turn = (std::uint64_t{1} << (64 - slot_bits)) - 1;

struct NodeSlot {
    std::atomic<SlotId> id;
    std::uint64_t turn;  // how often the slot has been taken
    std::uint64_t device;
    std::uint64_t inode;
    std::uint64_t mount;
    std::atomic<std::uint64_t> lookups;  // how often the kernel has been given the id, less what it forgot
    std::atomic<off_t> view_size;        // the largest the kernel may have been told; only grows
    std::atomic<std::uint32_t> size_turn;
    std::int32_t descriptor;        // O_PATH
    std::uint32_t type;             // S_IFMT bits
    std::atomic<off_t> known_size;  // what of it the kernel has been told
    std::atomic<bool> outgrown;
};

struct OpenFileSlot {
    std::atomic<SlotId> id;
    std::uint64_t turn;
    SlotId node;
    std::int32_t descriptor;
    std::int32_t flags;  // as the descriptor was opened
};

// A table of slots in shared memory. Thread-safe.
template <typename Slot>
class SlotTable {
  public:
    // `slots` is zeroed memory; `high` counts the slots ever taken, slot 0 included, which is never used.
    SlotTable(std::span<Slot> slots, std::atomic<std::uint64_t>& high) : slots_(slots), high_(high) {
        std::uint64_t none = 0;
        high_.compare_exchange_strong(none, 1);
    }

    // A slot whose id is not yet set: fill it, then publish. Throws std::system_error ENFILE when there is none left.
    Slot& take();

    // Makes the slot be in use. Returns its id.
    SlotId publish(Slot& slot);

    // Ends the use of a slot, published or not. Whoever calls closes its descriptor afterwards.
    void give_back(Slot& slot);

  private:
    std::span<Slot> slots_;
    std::atomic<std::uint64_t>& high_;
    std::mutex mutex_;
    std::vector<std::uint64_t> free_;  // rebuilt from the slots by a new process
};

class SharedState {
  public:
    static constexpr std::uint64_t node_capacity = std::uint64_t{1} << 22;
    static constexpr std::uint64_t open_file_capacity = std::uint64_t{1} << 20;

    // Makes the memory: sparse, so that it costs what is used. Throws std::system_error.
    SharedState();

    SlotTable<NodeSlot>& nodes() { return *nodes_; }
    SlotTable<OpenFileSlot>& open_files() { return *open_files_; }

    // The first INIT request as the kernel sent it; a later server will be handed it again.
    void keep_init(std::span<const std::byte> request);

  private:
    struct Header;

    [[nodiscard]] Header& header() const;

    UniqueFd memory_;
    MappedRegion region_;
    // Behind pointers because they are made once the memory stands.
    std::unique_ptr<SlotTable<NodeSlot>> nodes_;
    std::unique_ptr<SlotTable<OpenFileSlot>> open_files_;
};

}  // namespace nosigbus
