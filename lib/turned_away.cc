#include "lib/turned_away.h"

namespace nosigbus {

// What is noted of two threads at once in one place is of either, and both are noted again where they come back.
void TurnedAway::add(pid_t thread, const Node& from) {
    TurnedAwaySlot& place = place_of(thread);
    place.inode = from.key().inode;
    place.until = (now_() + patience).time_since_epoch().count();
    place.thread = thread;
}

bool TurnedAway::has(pid_t thread) const {
    const TurnedAwaySlot& place = place_of(thread);
    return thread != 0 && place.thread == thread && now_().time_since_epoch().count() < place.until;
}

bool TurnedAway::remove(pid_t thread, const Node& from) {
    const bool was_noted = has(thread);
    TurnedAwaySlot& place = place_of(thread);
    const bool was_from = place.inode == from.key().inode;
    return place.thread.compare_exchange_strong(thread, 0) && was_noted && was_from;
}

}  // namespace nosigbus
