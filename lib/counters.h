// What has happened, in numbers: for the whole mount since it was made, and for each view since it was first opened.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/engine.h"

namespace nosigbus {

// Of one view, or of all. Those of a view are its worker's: the next one begins anew.
struct ViewCounters {
    using Count = std::atomic<std::uint64_t>;

    // Page READs that begin past the file's end, and pages past it that were pushed: where a load from the file itself
    // is SIGBUS.
    Count faults_averted{0};
    Count bytes_zeroed{0};   // past the file's end, of the pages that the kernel was given
    Count changes{0};        // times the file was seen to have changed: by inotify(7), or by looking at it
    Count refreshes{0};      // passes over the pages of a view
    Count pages_dropped{0};  // as far as it is known that the kernel had them
    Count pages_pushed{0};
    Count barriers{0};
    Count read_errors{0};  // pages that a load could not be given
};

// Of the mount. Part of the memory that outlives a worker, see SharedState.
struct Counters {
    using Count = ViewCounters::Count;

    ViewCounters views;          // of all together
    Count pages_compared{0};     // of those that the kernel was given
    Count whole_drops{0};        // of views of which it was not known what the kernel had
    Count held_back{0};          // times the refresher let files wait that change all the time
    Count events{0};             // of inotify(7), as they were read
    Count event_overflows{0};    // times the queue of inotify(7) had no room
    Count unwatched_opens{0};    // opens of files for which inotify(7) had no watch left
    Count sweep_refreshes{0};    // asked for because a file looked different, without an event
    Count early_truncations{0};  // answered before they had happened, see Truncations
    Count restarts{0};           // workers that died and were replaced
    Count reloads{0};            // times a newly installed nosigbus has taken over
    Count failed_reloads{0};     // times it could not
};

// Counts for the mount, and for the view if there is one.
inline void count(Counters& mount, ViewCounters* view, ViewCounters::Count ViewCounters::*what,
                  std::uint64_t times = 1) noexcept {
    (mount.views.*what).fetch_add(times, std::memory_order_relaxed);
    if (view != nullptr) (view->*what).fetch_add(times, std::memory_order_relaxed);
}

// The kernel was given `length` bytes for a load or before one, of which the first `real_bytes` are the file's.
inline void count_load(Counters& mount, ViewCounters& view, std::size_t length, std::size_t real_bytes) noexcept {
    if (real_bytes == length) return;
    count(mount, &view, &ViewCounters::bytes_zeroed, length - real_bytes);
    if (real_bytes == 0) count(mount, &view, &ViewCounters::faults_averted);
}

// What there is now of shadows in a mount.
struct ShadowsNow {
    const char* engine;  // as mounted
    std::size_t count;
    std::uint64_t memory;   // of all, in bytes
    std::uint64_t allowed;  // likewise
};

// One line for each: its name, a space, the number.
std::string to_text(const Counters& counters);

// What is worth telling of a mount, or of a view, to people: a JSON object without objects in it, in one line.
std::string to_json(const Counters& counters, const ShadowsNow& shadows);
std::string to_json(const ViewCounters& counters, off_t real_size, off_t view_size, EngineChoice engine,
                    std::uint64_t shadow_memory);

}  // namespace nosigbus
