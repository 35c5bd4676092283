#include "fs/pruner.h"

#include <poll.h>

#include <algorithm>
#include <vector>

#include "lib/descriptor_table.h"
#include "lib/pulse.h"

namespace nosigbus {
namespace {

using namespace std::chrono_literals;

// So many slots are looked at in one go: what the kernel forgets is forgotten in some milliseconds.
constexpr std::size_t slots_at_once = 8192;
// What the kernel is asked to forget comes back as FORGETs, which stand behind no other requests for long.
constexpr auto patience = 1000ms;
constexpr auto patience_for_forgets = 20ms;
// Where nothing could be pruned, everything is in use: that is not looked at again at once.
constexpr auto pause = 1000ms;

bool comes_true(bool (*question)(int), int argument, std::chrono::milliseconds patience) {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!question(argument)) {
        if (std::chrono::steady_clock::now() >= end) return false;
        ::poll(nullptr, 0, 1);
    }
    return true;
}

}  // namespace

// Of the next slots, around the table. Returns whether the kernel has done it.
bool Pruner::prune_next(std::size_t& looked_at) {
    auto ids = nodes_.ids(next_slot_, slots_at_once);
    next_slot_ = ids ? next_slot_ + slots_at_once : 0;
    if (!ids) return true;
    looked_at += slots_at_once;
    return ids->empty() || kernel_.prune(*ids);
}

bool Pruner::make_room() {
    const Parked parked;
    const std::lock_guard lock(mutex_);
    const int any = nodes_.get(root_id)->descriptor();
    if (has_room_for_more(any)) return true;  // somebody else has made it
    const auto start = Clock::now();
    if (start < hopeless_until_) return false;
    const std::size_t all = nodes_.slots();
    for (std::size_t looked_at = 0; looked_at < all && Clock::now() < start + patience;) {
        if (!prune_next(looked_at)) break;
        if (comes_true(has_room_for_more, any, patience_for_forgets)) return true;
    }
    hopeless_until_ = Clock::now() + pause;
    return false;
}

}  // namespace nosigbus
