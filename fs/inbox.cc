#include "fs/inbox.h"

#include <linux/fuse.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <exception>
#include <span>
#include <utility>

#include "lib/fault_point.h"
#include "lib/log.h"

namespace nosigbus {
namespace {

thread_local Inbox* this_threads = nullptr;

InboxSlot& take_from(SlotTable<InboxSlot>& table) {
    InboxSlot& slot = table.take();
    slot.head.fill(std::byte{0});  // which makes it present, too: see Channel
    slot.done = 0;
    table.publish(slot);
    return slot;
}

template <typename Structure>
Structure at(std::span<const std::byte> bytes, std::size_t offset) {
    Structure result{};
    std::memcpy(&result, bytes.subspan(offset).data(), sizeof result);
    return result;
}

// The forgets in `head`, from the one with number `done` on.
void finish(std::span<const std::byte> head, std::size_t done,
            const std::function<void(SlotId, std::uint64_t)>& forget) {
    const auto header = at<fuse_in_header>(head, 0);
    if (header.opcode == FUSE_FORGET && done == 0)
        return forget(header.nodeid, at<fuse_forget_in>(head, sizeof header).nlookup);
    if (header.opcode != FUSE_BATCH_FORGET) return;
    const std::size_t start = sizeof header + sizeof(fuse_batch_forget_in);
    // What did not fit is lost: its nodes stay.
    const std::size_t count = std::min<std::size_t>(at<fuse_batch_forget_in>(head, sizeof header).count,
                                                    (head.size() - start) / sizeof(fuse_forget_one));
    for (std::size_t i = done; i < count; ++i) {
        const auto one = at<fuse_forget_one>(head, start + i * sizeof(fuse_forget_one));
        forget(one.nodeid, one.nlookup);
    }
}

}  // namespace

Inbox::Inbox(SharedState& state) : table_(state.inboxes()), slot_(&take_from(table_)) {
    this_threads = this;
}

Inbox::~Inbox() {
    this_threads = nullptr;
    if (kept_ != nullptr) {
        kept_->leave(*slot_);
    } else {
        table_.give_back(*slot_);
    }
}

// What was read last may be answered later, by somebody else: then it keeps its place.
void Inbox::make_room() {
    if (kept_ == nullptr || !kept_->is_kept(*slot_)) return;
    try {
        InboxSlot& other = take_from(table_);
        kept_->leave(*std::exchange(slot_, &other));
    } catch (const std::exception&) {
        static std::atomic_flag told;
        if (!told.test_and_set())
            log::warning("more requests than can be kept: should the worker die, some get no answer");
        kept_->lose(*slot_);
    }
}

Inbox* Inbox::of_this_thread() {
    return this_threads;
}

ssize_t Inbox::read(int fd, void* buffer, std::size_t length) {
    make_room();
    const std::size_t first = std::min(slot_->head.size(), length);
    // What was there has been done. Before the count, which from here on is of what comes.
    std::memset(slot_->head.data(), 0, sizeof(fuse_in_header));
    slot_->done = 0;
    auto* const rest = static_cast<std::byte*>(buffer) + first;
    const std::array<iovec, 2> parts = {iovec{.iov_base = slot_->head.data(), .iov_len = first},
                                        iovec{.iov_base = rest, .iov_len = length - first}};
    const ssize_t n = ::readv(fd, parts.data(), static_cast<int>(parts.size()));
    fault_point("inbox.read");
    if (n > 0) std::memcpy(buffer, slot_->head.data(), std::min(static_cast<std::size_t>(n), first));
    return n;
}

void Inbox::take_over(SharedState& state, const KeptRequests& kept,
                      const std::function<void(SlotId, std::uint64_t)>& forget) {
    for (InboxSlot& slot : state.inboxes().taken()) {
        if (slot.id == 0 || kept.is_kept(slot)) continue;
        std::size_t done = slot.done;
        finish(slot.head, done, [&](SlotId node, std::uint64_t lookups) {
            slot.done = static_cast<std::uint32_t>(++done);
            forget(node, lookups);
        });
        state.inboxes().give_back(slot);
    }
}

}  // namespace nosigbus
