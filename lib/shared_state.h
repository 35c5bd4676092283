// What outlives a worker: which descriptor is which node or open file, how often the kernel knows it, how large its
// view has been, what was being done for whom, and the INIT request. It lives in a memfd that every process with our
// descriptor table can map. All else a worker keeps can be rebuilt from it.
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
#include <stdexcept>
#include <vector>

#include "lib/counters.h"
#include "lib/errands.h"
#include "lib/fault_point.h"
#include "lib/mapped_region.h"
#include "lib/node_access.h"
#include "lib/unique_fd.h"

namespace nosigbus {

// The low 24 bits are a slot's number, the others count how often it has been taken: an id is never used for another
// inode or open file. Slot 1 taken 0 times is FUSE_ROOT_ID.
using SlotId = std::uint64_t;

inline constexpr unsigned slot_bits = 24;
inline constexpr SlotId slot_mask = (SlotId{1} << slot_bits) - 1;
inline constexpr std::uint64_t last_turn = (std::uint64_t{1} << (64 - slot_bits)) - 1;

// The number by which the kernel calls a request (fuse_in_header.unique), without the bit that says that it asks again.
// 0: none.
using RequestNumber = std::uint64_t;

struct NodeSlot {
    std::atomic<SlotId> id;
    std::uint64_t turn;  // how often the slot has been taken
    std::uint64_t device;
    std::uint64_t inode;
    std::uint64_t mount;
    std::atomic<std::uint64_t> lookups;  // how often the kernel has been given the id, less what it forgot
    std::atomic<off_t> view_size;        // the largest the kernel may have been told; only grows
    std::atomic<off_t> known_size;       // what of it the kernel has been told
    std::atomic<std::uint32_t> size_turn;
    std::int32_t descriptor;           // O_PATH
    std::atomic<std::int32_t> shadow;  // the descriptor of one, or -1
    std::int32_t backing;              // by which the kernel knows that
    // The same of one that nobody has any more, and that is not yet gone.
    std::atomic<std::int32_t> leaving;
    std::int32_t leaving_backing;
    std::uint16_t type;  // S_IFMT bits
    NodeAccess access;
    std::atomic<bool> turns_away;
    std::atomic<bool> outgrown;
    std::atomic<bool> failed_past_view;
};

struct OpenFileSlot {
    std::atomic<SlotId> id;
    std::uint64_t turn;
    SlotId node;
    std::int32_t descriptor;
    std::int32_t flags;                  // as the descriptor was opened
    std::atomic<RequestNumber> opening;  // the request it is for, until the kernel has the handle
    std::atomic<bool> is_closed;         // the kernel has the handle no more; some thread may still work with it
};

// A lookup that is counted in its node, and that the kernel may not have been told of yet.
struct LookupSlot {
    std::atomic<SlotId> id;
    std::uint64_t turn;
    RequestNumber request;
    SlotId node;
    std::atomic<bool> is_counted;
};

// What stands at a name: enough to see later whether it is still the same. All 0: nothing.
struct Identity {
    std::uint64_t device;
    std::uint64_t inode;
    std::int64_t born_seconds;
    std::uint64_t born_nanoseconds;

    [[nodiscard]] bool is_there() const { return inode != 0 || device != 0; }
    bool operator==(const Identity&) const = default;
};

// What things were like before a request changed them.
struct Before {
    std::array<Identity, 2> names;
    off_t size;
    std::int64_t seconds;  // when that was, CLOCK_REALTIME_COARSE as file systems date their inodes
    std::int64_t nanoseconds;
};

// A request that must not be done twice, from before it is done until the kernel has the answer.
struct DeedSlot {
    std::atomic<SlotId> id;
    std::uint64_t turn;
    RequestNumber request;
    Before before;
    std::int64_t result;
    std::int32_t error;
    std::atomic<bool> is_done;
};

// A truncation that was answered before it has happened.
struct TruncationSlot {
    std::atomic<SlotId> id;
    std::uint64_t turn;
    std::uint64_t number;  // in the order in which they were answered
    SlotId node;
    SlotId handle;  // 0: none
    off_t size;
    std::int32_t which;  // FUSE_SET_ATTR_*
    std::array<std::int64_t, 4> times;
};

// What a thread was given last by the kernel, or what was given to one and is not answered yet: for what is not asked
// for again. That is forgets always, and everything before Linux 6.9.
struct InboxSlot {
    static constexpr std::size_t size = std::size_t{132} << 10;  // for a WRITE of 128 KiB

    std::atomic<SlotId> id;
    std::uint64_t turn;
    std::atomic<std::uint32_t> done;  // so many of its forgets are, or the next worker may not do them
    std::uint32_t unused;
    std::array<std::byte, size> head;
};

// A table of slots in shared memory. Thread-safe, for the threads of one process: one process at a time works with it.
template <typename Slot>
class SlotTable {
  public:
    // `slots` is zeroed memory, or what another process left there. `high` counts the slots ever taken, slot 0
    // included, which is never used. Throws std::bad_alloc.
    SlotTable(std::span<Slot> slots, std::atomic<std::uint64_t>& high);

    // A slot whose id is not yet set: fill it, then publish. Throws std::system_error ENFILE when there is none left.
    Slot& take();

    // Makes the slot be in use. Returns its id.
    SlotId publish(Slot& slot);

    // Ends the use of a slot, published or not. Whoever calls closes its descriptor afterwards. Needs no memory.
    void give_back(Slot& slot);

    // The slot with this id, for whoever knows that it may go at any moment. Null where no such slot was ever taken.
    [[nodiscard]] const Slot* find(SlotId id) const {
        const auto number = id & slot_mask;
        return number > 0 && number < high_.load() ? &slots_[number] : nullptr;
    }

    // All slots that have ever been taken; those in use have an id.
    [[nodiscard]] std::span<Slot> taken() const { return slots_.subspan(1, high_.load() - 1); }

  private:
    [[nodiscard]] std::uint32_t number_of(const Slot& slot) const {
        return static_cast<std::uint32_t>(&slot - slots_.data());
    }
    void make_room_in_free(std::uint64_t high);

    std::span<Slot> slots_;
    std::atomic<std::uint64_t>& high_;
    std::mutex mutex_;
    std::vector<std::uint32_t> free_;  // rebuilt from the slots by a new process; with room for all of them
};

// A thread whose open(2) was answered ESTALE, see TurnedAway.
struct TurnedAwaySlot {
    std::atomic<pid_t> thread;  // 0: none
    std::atomic<std::uint64_t> inode;
    std::atomic<std::int64_t> until;  // by the steady clock
};

// What supervisor and worker tell each other, and the supervisor its successor.
struct Lifeline {
    static constexpr std::size_t former_at_most = 8;

    // The supervisor sleeps on it (futex(2)) while it is `quiet`. The kernel stores `worker_dies` when the worker's
    // first thread ends (set_tid_address(2)).
    enum Bell : std::uint32_t { worker_dies = 0, quiet = 1, news = 2 };
    std::atomic<std::uint32_t> bell;
    // Wakes the supervisor. Async-signal-safe.
    void ring() noexcept;

    std::atomic<std::uint32_t> beats;            // counted by a worker that gets on with its work
    std::atomic<bool> serving;                   // the worker has come as far as to answer requests
    std::atomic<bool> ever_served;               // a worker has: the mount stands
    std::atomic<bool> begins_again;              // the worker ends because another has to begin once more
    std::atomic<bool> has_ended;                 // the connection has, and the worker goes in good order
    std::atomic<bool> said_unconfined;           // what a worker's confinement lacks has been logged
    std::atomic<std::uint64_t> obituaries_read;  // how many workers' ends have been logged

    static constexpr std::size_t turned_away_at_most = 256;
    std::array<TurnedAwaySlot, turned_away_at_most> turned_away;

    std::atomic<pid_t> supervisor;
    std::atomic<pid_t> worker;
    // Descriptors, which mean the same in all processes that share the table. -1: none.
    std::atomic<std::int32_t> device;  // /dev/fuse
    std::atomic<std::int32_t> inotify;
    std::atomic<std::int32_t> mount_namespace;  // the workers'
    std::atomic<std::int32_t> successor_ready;  // a pipe to write to when a new supervisor has taken over
    // Pidfds of workers that may still be about: dying, but held up in a system call.
    std::array<std::atomic<std::int32_t>, former_at_most> former;
    std::atomic<dev_t> mount_device;
    std::atomic<std::uint64_t> checked;  // what a successor that can read all this was asked to say
};

// The state is of another version of nosigbus, or none at all. what() is one line.
class UnreadableState : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

class SharedState {
  public:
    static constexpr std::uint64_t node_capacity = std::uint64_t{1} << 22;
    static constexpr std::uint64_t open_file_capacity = std::uint64_t{1} << 20;
    static constexpr std::uint64_t lookup_capacity = std::uint64_t{1} << 16;
    static constexpr std::uint64_t deed_capacity = std::uint64_t{1} << 12;
    static constexpr std::uint64_t truncation_capacity = std::uint64_t{1} << 10;
    static constexpr std::uint64_t inbox_capacity = std::uint64_t{1} << 12;

    // Makes the memory: sparse, so that it costs what is used. Throws std::system_error.
    SharedState();

    // Takes over what another process left in `memory`. Throws UnreadableState or std::system_error.
    explicit SharedState(UniqueFd memory);

    // What the tables keep for this process only, made anew from the slots: for a worker that has just been cloned, of
    // which the slots knew more than the process it was cloned from. Throws std::bad_alloc.
    void look_at_slots();

    SlotTable<NodeSlot>& nodes() { return *nodes_; }
    SlotTable<OpenFileSlot>& open_files() { return *open_files_; }
    SlotTable<LookupSlot>& lookups() { return *lookups_; }
    SlotTable<DeedSlot>& deeds() { return *deeds_; }
    SlotTable<TruncationSlot>& truncations() { return *truncations_; }
    SlotTable<InboxSlot>& inboxes() { return *inboxes_; }
    [[nodiscard]] Lifeline& lifeline() const;
    [[nodiscard]] Counters& counters() const;
    [[nodiscard]] ErrandBoard& errands() const;
#ifdef NOSIGBUS_FAULT_POINTS
    [[nodiscard]] Fault& fault() const;
#endif

    // The first INIT request as the kernel sent it; a later worker is handed it again. Empty: none so far.
    void keep_init(std::span<const std::byte> request);
    [[nodiscard]] std::span<const std::byte> init() const;
    // The flags of the reply to it: what the kernel has been promised, and no later worker can change.
    [[nodiscard]] std::atomic<std::uint64_t>& accepted_flags() const;

    [[nodiscard]] int descriptor() const {
        return memory_.get();
    }

    // Calls act(descriptor) for each that the state names and this process therefore must not lose.
    template <typename Act>
    void for_each_descriptor(Act act) const;

  private:
    struct Header;

    [[nodiscard]] Header& header() const;

    UniqueFd memory_;
    MappedRegion region_;
    // Behind pointers because they are made once the memory stands.
    std::unique_ptr<SlotTable<NodeSlot>> nodes_;
    std::unique_ptr<SlotTable<OpenFileSlot>> open_files_;
    std::unique_ptr<SlotTable<LookupSlot>> lookups_;
    std::unique_ptr<SlotTable<DeedSlot>> deeds_;
    std::unique_ptr<SlotTable<TruncationSlot>> truncations_;
    std::unique_ptr<SlotTable<InboxSlot>> inboxes_;
};

template <typename Act>
void SharedState::for_each_descriptor(Act act) const {
    const auto if_there = [&act](int descriptor) {
        if (descriptor >= 0) act(descriptor);
    };
    act(memory_.get());
    const Lifeline& line = lifeline();
    if_there(line.device);
    if_there(line.inotify);
    if_there(line.mount_namespace);
    if_there(line.successor_ready);
    for (const auto& former : line.former) if_there(former);
    for (const NodeSlot& slot : nodes_->taken()) {
        if (slot.id == 0) continue;
        if_there(slot.descriptor);
        if_there(slot.shadow);
        if (slot.leaving != slot.shadow) if_there(slot.leaving);
    }
    for (const OpenFileSlot& slot : open_files_->taken()) {
        if (slot.id != 0) if_there(slot.descriptor);
    }
}

}  // namespace nosigbus
