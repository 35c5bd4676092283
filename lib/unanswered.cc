#include "lib/unanswered.h"

namespace nosigbus {

void Unanswered::take_over() {
    deeds_.take_over();
    const std::lock_guard lock(mutex_);
    for (LookupSlot& slot : state_.lookups().taken()) {
        if (slot.id != 0) lookups_.emplace(slot.request, &slot);
    }
    for (OpenFileSlot& slot : state_.open_files().taken()) {
        if (slot.id != 0 && slot.opening != 0) opened_.emplace(slot.opening, slot.id);
    }
}

void Unanswered::settle(LookupSlot& slot, bool is_taken_back) {
    // A worker that dies in between leaves a lookup too many, never one too few.
    const bool counts = slot.is_counted.exchange(false);
    if (counts && is_taken_back) nodes_.forget(slot.node, 1);
    state_.lookups().give_back(slot);
}

void Unanswered::asked_again(RequestNumber request) {
    const std::lock_guard lock(mutex_);
    const auto [first, end] = lookups_.equal_range(request);
    for (auto it = first; it != end; ++it) settle(*it->second, true);
    lookups_.erase(first, end);
    const bool has_note = deeds_.asked_again(request);
    if (const auto opened = opened_.find(request); opened != opened_.end()) {
        if (!has_note) files_.remove(opened->second);
        opened_.erase(opened);
    }
}

void Unanswered::all_asked() {
    const std::lock_guard lock(mutex_);
    for (const auto& [request, slot] : lookups_) settle(*slot, false);
    lookups_.clear();
    // By its number: the file may be closed by now, and its slot somebody else's.
    for (OpenFileSlot& slot : state_.open_files().taken()) {
        RequestNumber request = slot.opening;
        if (slot.id != 0 && opened_.contains(request)) slot.opening.compare_exchange_strong(request, 0);
    }
    opened_.clear();
    deeds_.all_asked();
}

}  // namespace nosigbus
