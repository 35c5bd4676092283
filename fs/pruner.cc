#include "fs/pruner.h"

#include <poll.h>

#include <algorithm>
#include <vector>

#include "lib/descriptor_table.h"
#include "lib/log.h"
#include "lib/pulse.h"

namespace nosigbus {
namespace {

using namespace std::chrono_literals;

// So many slots are looked at in one go: what the kernel forgets is forgotten in some milliseconds.
constexpr std::size_t slots_at_once = 8192;
constexpr auto patience = 1000ms;
// FORGETs stand behind no other requests for long, but whoever reads them may have to wait for a processor.
constexpr auto patience_for_forgets = 300ms;
// Where nothing could be pruned, everything is in use: that is not looked at again at once.
constexpr auto pause = 1000ms;
constexpr auto pause_of_log = 60s;

}  // namespace

// Of the next slots, around the table. Returns whether the kernel has done it.
bool Pruner::prune_next(std::size_t& looked_at) {
    auto ids = nodes_.ids(next_slot_, slots_at_once);
    next_slot_ = ids ? next_slot_ + slots_at_once : 0;
    if (!ids) return true;
    looked_at += slots_at_once;
    return ids->empty() || kernel_.prune(*ids);
}

// As long as FORGETs come.
bool Pruner::forgets_make_room(int any, Clock::time_point end) {
    std::size_t nodes = nodes_.count();
    auto give_up = Clock::now() + patience_for_forgets;
    while (!has_room_for_more(any)) {
        const auto now = Clock::now();
        if (now >= std::min(give_up, end)) return false;
        ::poll(nullptr, 0, 1);
        const std::size_t left = nodes_.count();
        if (left < nodes) give_up = now + patience_for_forgets;
        nodes = left;
    }
    return true;
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
        if (has_room_for_more(any)) return true;
    }
    if (forgets_make_room(any, start + patience)) return true;
    const auto end = Clock::now();
    hopeless_until_ = end + pause;
    if (end >= next_line_) {
        log::warning(
            "no descriptor is left, and no inode is known that nobody uses: callers get ENFILE; see Limits in "
            "nosigbus(8)");
        next_line_ = end + pause_of_log;
    }
    return false;
}

}  // namespace nosigbus
