#include "lib/shared_state.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "lib/futex.h"
#include "lib/syscalls.h"

namespace nosigbus {

struct SharedState::Header {
    std::array<char, 8> magic;
    std::uint32_t version;
    std::uint32_t size;  // of this
    std::atomic<std::uint32_t> init_length;
    std::array<std::byte, 256> init;
    std::atomic<std::uint64_t> accepted_flags;
    std::atomic<std::uint64_t> nodes_high;
    std::atomic<std::uint64_t> open_files_high;
    std::atomic<std::uint64_t> lookups_high;
    std::atomic<std::uint64_t> deeds_high;
    std::atomic<std::uint64_t> truncations_high;
    std::atomic<std::uint64_t> inboxes_high;
    Lifeline lifeline;
    Counters counters;
    ErrandBoard errands;
#ifdef NOSIGBUS_FAULT_POINTS
    Fault fault;
#endif
};

namespace {

constexpr std::array<char, 8> magic = {'n', 'o', 's', 'i', 'g', 'b', 'u', 's'};

// To be counted up with each change of what stands in this memory, Counters included. A successor of another version
// does not take over: see docs/design.md.
#ifndef NOSIGBUS_STATE_VERSION
#define NOSIGBUS_STATE_VERSION 6
#endif
constexpr std::uint32_t version = NOSIGBUS_STATE_VERSION;

constexpr std::size_t nodes_at = 16384;
constexpr std::size_t open_files_at = nodes_at + SharedState::node_capacity * sizeof(NodeSlot);
constexpr std::size_t lookups_at = open_files_at + SharedState::open_file_capacity * sizeof(OpenFileSlot);
constexpr std::size_t deeds_at = lookups_at + SharedState::lookup_capacity * sizeof(LookupSlot);
constexpr std::size_t truncations_at = deeds_at + SharedState::deed_capacity * sizeof(DeedSlot);
constexpr std::size_t inboxes_at = truncations_at + SharedState::truncation_capacity * sizeof(TruncationSlot);
constexpr std::size_t total = inboxes_at + SharedState::inbox_capacity * sizeof(InboxSlot);

static_assert(SharedState::node_capacity <= slot_mask && SharedState::open_file_capacity <= slot_mask);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "a lock would not survive its owner");

UniqueFd make_memory() {
    UniqueFd memory(sys::check(::memfd_create("nosigbus-state", MFD_CLOEXEC), "memfd_create"));
    sys::check(::ftruncate(memory.get(), total), "ftruncate");
    return memory;
}

MappedRegion map(const UniqueFd& memory) {
    return {total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory.get(), 0};
}

template <typename Slot>
std::unique_ptr<SlotTable<Slot>> table_in(const MappedRegion& region, std::size_t at, std::uint64_t capacity,
                                          std::atomic<std::uint64_t>& high) {
    // Zeroed memory is a valid array of free slots: every member of one is an integer or a lock-free atomic of one.
    const std::span slots(reinterpret_cast<Slot*>(region.data() + at), static_cast<std::size_t>(capacity));
    return std::make_unique<SlotTable<Slot>>(slots, high);
}

}  // namespace

void Lifeline::ring() noexcept {
    // What the kernel has stored stays.
    std::uint32_t before = quiet;
    bell.compare_exchange_strong(before, news);
    sys::futex_wake(bell, 1);
}

template <typename Slot>
SlotTable<Slot>::SlotTable(std::span<Slot> slots, std::atomic<std::uint64_t>& high) : slots_(slots), high_(high) {
    std::uint64_t none = 0;
    high_.compare_exchange_strong(none, 1);
    make_room_in_free(high_);
    for (const Slot& slot : taken()) {
        if (slot.id == 0 && slot.turn <= last_turn) free_.push_back(number_of(slot));
    }
    // The lowest first, as if they had been given back in order.
    std::reverse(free_.begin(), free_.end());
}

template <typename Slot>
void SlotTable<Slot>::make_room_in_free(std::uint64_t high) {
    if (free_.capacity() < high)
        free_.reserve(std::min<std::size_t>(std::max<std::size_t>(2 * high, 64), slots_.size()));
}

template <typename Slot>
Slot& SlotTable<Slot>::take() {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
        Slot& slot = slots_[free_.back()];
        free_.pop_back();
        return slot;
    }
    const std::uint64_t number = high_;
    if (number >= slots_.size()) sys::fail(ENFILE, "no free slot");
    make_room_in_free(number + 1);
    high_ = number + 1;
    fault_point("slot.taken");
    return slots_[number];
}

template <typename Slot>
SlotId SlotTable<Slot>::publish(Slot& slot) {
    const SlotId id = (slot.turn << slot_bits) | number_of(slot);
    fault_point("slot.filled");
    slot.id = id;
    fault_point("slot.published");
    return id;
}

template <typename Slot>
void SlotTable<Slot>::give_back(Slot& slot) {
    const bool used_up = slot.turn >= last_turn;
    ++slot.turn;  // first: a crash in between must not bring the id back
    fault_point("slot.turned");
    slot.id = 0;
    fault_point("slot.free");
    if (used_up) return;
    const std::lock_guard lock(mutex_);
    free_.push_back(number_of(slot));
}

template class SlotTable<NodeSlot>;
template class SlotTable<OpenFileSlot>;
template class SlotTable<LookupSlot>;
template class SlotTable<DeedSlot>;
template class SlotTable<TruncationSlot>;
template class SlotTable<InboxSlot>;

SharedState::SharedState() : memory_(make_memory()), region_(map(memory_)) {
    static_assert(sizeof(Header) <= nodes_at);
    Header& head = header();
    head.magic = magic;
    head.version = version;
    head.size = sizeof(Header);
    for (auto* descriptor : {&head.lifeline.device, &head.lifeline.inotify, &head.lifeline.mount_namespace,
                             &head.lifeline.successor_ready})
        *descriptor = -1;
    for (auto& former : head.lifeline.former) former = -1;
    head.lifeline.bell = Lifeline::quiet;
    look_at_slots();
}

SharedState::SharedState(UniqueFd memory) : memory_(std::move(memory)) {
    const off_t size = sys::file_size(memory_.get());
    if (size < static_cast<off_t>(sizeof(Header))) throw UnreadableState("there is no state of nosigbus");
    std::array<char, 8> found_magic{};
    std::uint32_t found_version = 0;
    sys::check(::pread(memory_.get(), found_magic.data(), found_magic.size(), offsetof(Header, magic)), "pread");
    sys::check(::pread(memory_.get(), &found_version, sizeof found_version, offsetof(Header, version)), "pread");
    if (found_magic != magic) throw UnreadableState("there is no state of nosigbus");
    if (found_version != version) {
        throw UnreadableState(
            fmt::format("the state is of version {}, and this nosigbus reads version {}", found_version, version));
    }
    if (size != static_cast<off_t>(total)) throw UnreadableState("the state is of another kind of machine");
    region_ = map(memory_);
    if (header().size != sizeof(Header)) throw UnreadableState("the state is of another kind of machine");
    look_at_slots();
}

void SharedState::look_at_slots() {
    Header& head = header();
    nodes_ = table_in<NodeSlot>(region_, nodes_at, node_capacity, head.nodes_high);
    open_files_ = table_in<OpenFileSlot>(region_, open_files_at, open_file_capacity, head.open_files_high);
    lookups_ = table_in<LookupSlot>(region_, lookups_at, lookup_capacity, head.lookups_high);
    deeds_ = table_in<DeedSlot>(region_, deeds_at, deed_capacity, head.deeds_high);
    truncations_ = table_in<TruncationSlot>(region_, truncations_at, truncation_capacity, head.truncations_high);
    inboxes_ = table_in<InboxSlot>(region_, inboxes_at, inbox_capacity, head.inboxes_high);
}

SharedState::Header& SharedState::header() const {
    return *reinterpret_cast<Header*>(region_.data());
}

Lifeline& SharedState::lifeline() const {
    return header().lifeline;
}

Counters& SharedState::counters() const {
    return header().counters;
}

ErrandBoard& SharedState::errands() const {
    return header().errands;
}

#ifdef NOSIGBUS_FAULT_POINTS
Fault& SharedState::fault() const {
    return header().fault;
}
#endif

void SharedState::keep_init(std::span<const std::byte> request) {
    Header& head = header();
    const std::size_t length = std::min(request.size(), head.init.size());
    std::copy_n(request.begin(), length, head.init.begin());
    head.init_length = static_cast<std::uint32_t>(length);
}

std::span<const std::byte> SharedState::init() const {
    return std::span(header().init).first(header().init_length);
}

std::atomic<std::uint64_t>& SharedState::accepted_flags() const {
    return header().accepted_flags;
}

}  // namespace nosigbus
