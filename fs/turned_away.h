// Threads whose open(2) has been answered ESTALE, as the view has a shadow that is not for them. The kernel looks their
// name up once more, and only once (do_filp_open): whatever it finds then must be one that they can open.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>

#include "lib/shared_state.h"

namespace nosigbus {

// Thread-safe. Outlives a worker. May forget some, where there are very many. 0, a thread of which we are told nothing,
// is never noted.
class TurnedAway {
  public:
    explicit TurnedAway(Lifeline& line) : places_(line.turned_away) {}

    void add(pid_t thread) { place_of(thread) = thread; }
    [[nodiscard]] bool has(pid_t thread) const { return thread != 0 && place_of(thread) == thread; }
    // Whether it was noted, and is no more.
    bool remove(pid_t thread) { return thread != 0 && place_of(thread).compare_exchange_strong(thread, 0); }

  private:
    [[nodiscard]] std::atomic<pid_t>& place_of(pid_t thread) const {
        return places_[static_cast<std::size_t>(thread) % Lifeline::turned_away_at_most];
    }

    std::array<std::atomic<pid_t>, Lifeline::turned_away_at_most>& places_;
};

}  // namespace nosigbus
