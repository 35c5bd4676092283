#include "fs/kept_requests.h"

#include <linux/fuse.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <new>

#include "fs/current_request.h"
#include "fs/request_check.h"
#include "lib/fault_point.h"
#include "lib/log.h"

namespace nosigbus {
namespace {

static_assert(InboxSlot::size >= sizeof(fuse_in_header) + sizeof(fuse_write_in) + KeptRequests::max_write);

fuse_in_header head_of(const InboxSlot& slot) {
    fuse_in_header head{};
    std::memcpy(&head, slot.head.data(), sizeof head);
    return head;
}

bool is_kept_until_answered(const fuse_in_header& head) {
    return head.len >= sizeof head && head.len <= InboxSlot::size && head.opcode != FUSE_INIT && is_answered(head);
}

// Whether the kernel waits for an answer to `request`: what follows is the answer to an interrupt of it, to which
// nothing happens where the request is there, and which is ENOENT where it is not (fuse_dev_do_write).
bool is_waited_for(int device, RequestNumber request) {
    constexpr std::uint64_t interrupt = 1;  // FUSE_INT_REQ_BIT
    const fuse_out_header nothing = {.len = sizeof nothing, .error = 0, .unique = request | interrupt};
    return ::write(device, &nothing, sizeof nothing) == static_cast<ssize_t>(sizeof nothing);
}

}  // namespace

void KeptRequests::arrived(InboxSlot& slot) noexcept {
    const fuse_in_header head = head_of(slot);
    if (!is_kept_until_answered(head)) return;
    const std::lock_guard lock(mutex_);
    try {
        kept_.insert_or_assign(head.unique, Kept{&slot, Owner::thread});
    } catch (const std::bad_alloc&) {
        // As promised.
    }
}

void KeptRequests::answered(RequestNumber request) noexcept {
    fault_point("kept.answered");
    const std::lock_guard lock(mutex_);
    const auto found = kept_.find(request);
    if (found == kept_.end()) return;
    // The next worker need not ask the kernel about it.
    std::memset(found->second.slot->head.data(), 0, sizeof(fuse_in_header));
    if (found->second.owner == Owner::request) table_.give_back(*found->second.slot);
    kept_.erase(found);
}

bool KeptRequests::is_kept(const InboxSlot& slot) const {
    const std::lock_guard lock(mutex_);
    const auto found = kept_.find(head_of(slot).unique);
    return found != kept_.end() && found->second.slot == &slot;
}

void KeptRequests::leave(InboxSlot& slot) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = kept_.find(head_of(slot).unique);
    if (found != kept_.end() && found->second.slot == &slot) {
        found->second.owner = Owner::request;
    } else {
        table_.give_back(slot);
    }
}

void KeptRequests::lose(const InboxSlot& slot) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = kept_.find(head_of(slot).unique);
    if (found != kept_.end() && found->second.slot == &slot) kept_.erase(found);
}

void KeptRequests::take_over(int device, bool are_all_gone) {
    const std::lock_guard lock(mutex_);
    for (InboxSlot& slot : table_.taken()) {
        if (slot.id == 0) continue;
        const fuse_in_header head = head_of(slot);
        if (!is_kept_until_answered(head) || !is_waited_for(device, head.unique)) continue;
        // Where a thread of a former worker may still be about, its slot stays its own: see Worker::look_after_former.
        kept_.insert_or_assign(head.unique, Kept{&slot, are_all_gone ? Owner::request : Owner::former_worker});
        to_ask_.push_back(head.unique);
    }
    std::ranges::sort(to_ask_, std::greater());
}

std::size_t KeptRequests::ask_next(int device, std::span<std::byte> buffer) {
    const std::lock_guard lock(mutex_);
    while (!to_ask_.empty()) {
        const RequestNumber request = to_ask_.back();
        to_ask_.pop_back();
        const auto found = kept_.find(request);
        if (found == kept_.end()) continue;
        fuse_in_header head = head_of(*found->second.slot);
        if (head.unique == request && head.len <= buffer.size()) {
            std::memcpy(buffer.data(), found->second.slot->head.data(), head.len);
            head.unique |= asked_again_bit;
            std::memcpy(buffer.data(), &head, sizeof head);
            // Nobody has read another one to that place meanwhile.
            if (is_waited_for(device, request)) return head.len;
        }
        if (found->second.owner == Owner::request) table_.give_back(*found->second.slot);
        kept_.erase(found);
    }
    return 0;
}

}  // namespace nosigbus
