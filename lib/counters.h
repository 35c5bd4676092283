// What has happened since the mount, in numbers. Part of the memory that outlives a worker, see SharedState.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace nosigbus {

struct Counters {
    using Count = std::atomic<std::uint64_t>;

    Count refreshes{0};       // passes over the pages of a view
    Count pages_compared{0};  // of those that the kernel was given
    Count pages_pushed{0};
    Count pages_dropped{0};  // as far as it is known that the kernel had them
    Count whole_drops{0};    // of views of which it was not known what the kernel had
    Count barriers{0};
    Count held_back{0};          // times the refresher let files wait that change all the time
    Count events{0};             // of inotify(7), as they were read
    Count event_overflows{0};    // times the queue of inotify(7) had no room
    Count unwatched_opens{0};    // opens of files for which inotify(7) had no watch left
    Count sweep_refreshes{0};    // asked for because a file looked different, without an event
    Count early_truncations{0};  // answered before they had happened, see Truncations
    Count read_errors{0};        // pages that a load could not be given
    Count restarts{0};           // workers that died and were replaced
    Count reloads{0};            // times a newly installed nosigbus has taken over
    Count failed_reloads{0};     // times it could not
};

// One line for each: its name, a space, the number.
std::string to_text(const Counters& counters);

}  // namespace nosigbus
