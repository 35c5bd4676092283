#include "lib/counters.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace nosigbus {

std::string to_text(const Counters& counters) {
    const std::array<std::pair<const char*, const Counters::Count*>, 16> table = {{
        {"refreshes", &counters.refreshes},
        {"pages_compared", &counters.pages_compared},
        {"pages_pushed", &counters.pages_pushed},
        {"pages_dropped", &counters.pages_dropped},
        {"whole_drops", &counters.whole_drops},
        {"barriers", &counters.barriers},
        {"held_back", &counters.held_back},
        {"events", &counters.events},
        {"event_overflows", &counters.event_overflows},
        {"unwatched_opens", &counters.unwatched_opens},
        {"sweep_refreshes", &counters.sweep_refreshes},
        {"early_truncations", &counters.early_truncations},
        {"read_errors", &counters.read_errors},
        {"restarts", &counters.restarts},
        {"reloads", &counters.reloads},
        {"failed_reloads", &counters.failed_reloads},
    }};
    std::string text;
    for (const auto& [name, count] : table) text += fmt::format("{} {}\n", name, count->load());
    return text;
}

}  // namespace nosigbus
