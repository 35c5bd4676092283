#include "lib/shared_state.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "lib/syscalls.h"

namespace nosigbus {

struct SharedState::Header {
    std::array<char, 8> magic;
    std::uint32_t version;
    std::atomic<std::uint32_t> init_length;
    std::array<std::byte, 256> init;
    std::atomic<std::uint64_t> nodes_high;
    std::atomic<std::uint64_t> open_files_high;
};

namespace {

constexpr std::array<char, 8> magic = {'n', 'o', 's', 'i', 'g', 'b', 'u', 's'};
constexpr std::uint32_t version = 1;

constexpr std::size_t nodes_at = 4096;
constexpr std::size_t open_files_at = nodes_at + SharedState::node_capacity * sizeof(NodeSlot);
constexpr std::size_t total = open_files_at + SharedState::open_file_capacity * sizeof(OpenFileSlot);

static_assert(SharedState::node_capacity <= slot_mask && SharedState::open_file_capacity <= slot_mask);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "a lock would not survive its owner");

UniqueFd make_memory() {
    UniqueFd memory(sys::check(::memfd_create("nosigbus-state", MFD_CLOEXEC), "memfd_create"));
    sys::check(::ftruncate(memory.get(), total), "ftruncate");
    return memory;
}

template <typename Slot>
std::span<Slot> slots_in(const MappedRegion& region, std::size_t at, std::uint64_t capacity) {
    // Zeroed memory is a valid array of free slots: every member of one is an integer or a lock-free atomic of one.
    return {reinterpret_cast<Slot*>(region.data() + at), capacity};
}

}  // namespace

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
    high_ = number + 1;
    return slots_[number];
}

template <typename Slot>
SlotId SlotTable<Slot>::publish(Slot& slot) {
    const auto number = static_cast<std::uint64_t>(&slot - slots_.data());
    const SlotId id = (slot.turn << slot_bits) | number;
    slot.id = id;
    return id;
}

template <typename Slot>
void SlotTable<Slot>::give_back(Slot& slot) {
    const bool used_up = slot.turn == last_turn;
    ++slot.turn;  // first: a crash in between must not bring the id back
    slot.id = 0;
    if (used_up) return;
    const std::lock_guard lock(mutex_);
    try {
        free_.push_back(static_cast<std::uint64_t>(&slot - slots_.data()));
    } catch (const std::bad_alloc&) {
        // Out of memory: the slot is lost to this process, which a destructor cannot say and nobody needs to know.
    }
}

template class SlotTable<NodeSlot>;
template class SlotTable<OpenFileSlot>;

SharedState::SharedState()
    : memory_(make_memory()), region_(total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory_.get(), 0) {
    static_assert(sizeof(Header) <= nodes_at);
    Header& head = header();
    head.magic = magic;
    head.version = version;
    nodes_ =
        std::make_unique<SlotTable<NodeSlot>>(slots_in<NodeSlot>(region_, nodes_at, node_capacity), head.nodes_high);
    open_files_ = std::make_unique<SlotTable<OpenFileSlot>>(
        slots_in<OpenFileSlot>(region_, open_files_at, open_file_capacity), head.open_files_high);
}

SharedState::Header& SharedState::header() const {
    return *reinterpret_cast<Header*>(region_.data());
}

void SharedState::keep_init(std::span<const std::byte> request) {
    Header& head = header();
    const std::size_t length = std::min(request.size(), head.init.size());
    std::copy_n(request.begin(), length, head.init.begin());
    head.init_length = static_cast<std::uint32_t>(length);
}

}  // namespace nosigbus
