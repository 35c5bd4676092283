// Threads whose open(2) has been answered ESTALE, as the view has a shadow that is not for them. The kernel looks their
// name up once more, and only once (do_filp_open): whatever it finds then must be one that they can open.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstddef>

#include "lib/node_table.h"
#include "lib/shared_state.h"

namespace nosigbus {

// Thread-safe. Outlives a worker. May forget some, where there are very many, and forgets whoever does not come back
// soon: some never do. 0, a thread of which we are told nothing, is never noted.
class TurnedAway {
  public:
    using Clock = std::chrono::steady_clock;  // of the machine: the same for each worker
    static constexpr std::chrono::seconds patience{5};

    explicit TurnedAway(Lifeline& line, Clock::time_point (*now)() = Clock::now)
        : places_(line.turned_away), now_(now) {}

    void add(pid_t thread, const Node& from);
    [[nodiscard]] bool has(pid_t thread) const;
    // It is no more. Returns whether it was, and came from that file.
    bool remove(pid_t thread, const Node& from);

  private:
    [[nodiscard]] TurnedAwaySlot& place_of(pid_t thread) const {
        return places_[static_cast<std::size_t>(thread) % places_.size()];
    }

    std::array<TurnedAwaySlot, Lifeline::turned_away_at_most>& places_;
    Clock::time_point (*const now_)();
};

}  // namespace nosigbus
