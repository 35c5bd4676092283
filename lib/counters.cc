#include "lib/counters.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace nosigbus {
namespace {

using Count = ViewCounters::Count;

struct Shown {
    const char* name;
    Count ViewCounters::*count;
};

// As they are called in docs/semantics.md.
constexpr std::array shown = {
    Shown{"faults_averted", &ViewCounters::faults_averted},
    Shown{"bytes_zeroed", &ViewCounters::bytes_zeroed},
    Shown{"changes", &ViewCounters::changes},
    Shown{"refreshes", &ViewCounters::refreshes},
    Shown{"drops", &ViewCounters::pages_dropped},
    Shown{"pushes", &ViewCounters::pages_pushed},
    Shown{"barriers", &ViewCounters::barriers},
    Shown{"errors", &ViewCounters::read_errors},
};

// With a comma before each.
std::string members(const ViewCounters& counters) {
    std::string text;
    for (const auto& [name, count] : shown) text += fmt::format(R"(,"{}":{})", name, (counters.*count).load());
    return text;
}

}  // namespace

std::string to_text(const Counters& counters) {
    const std::array<std::pair<const char*, const Count*>, 19> table = {{
        {"faults_averted", &counters.views.faults_averted},
        {"bytes_zeroed", &counters.views.bytes_zeroed},
        {"changes", &counters.views.changes},
        {"refreshes", &counters.views.refreshes},
        {"pages_compared", &counters.pages_compared},
        {"pages_pushed", &counters.views.pages_pushed},
        {"pages_dropped", &counters.views.pages_dropped},
        {"whole_drops", &counters.whole_drops},
        {"barriers", &counters.views.barriers},
        {"held_back", &counters.held_back},
        {"events", &counters.events},
        {"event_overflows", &counters.event_overflows},
        {"unwatched_opens", &counters.unwatched_opens},
        {"sweep_refreshes", &counters.sweep_refreshes},
        {"early_truncations", &counters.early_truncations},
        {"read_errors", &counters.views.read_errors},
        {"restarts", &counters.restarts},
        {"reloads", &counters.reloads},
        {"failed_reloads", &counters.failed_reloads},
    }};
    std::string text;
    for (const auto& [name, count] : table) text += fmt::format("{} {}\n", name, count->load());
    return text;
}

std::string to_json(const Counters& counters, const ShadowsNow& shadows) {
    return fmt::format(
        R"({{"engine":"{}","shadows":{},"shadow_memory":{},"shadow_memory_allowed":{}{},"restarts":{}}})",
        shadows.engine, shadows.count, shadows.memory, shadows.allowed, members(counters.views),
        counters.restarts.load());
}

std::string to_json(const ViewCounters& counters, off_t real_size, off_t view_size, EngineChoice engine,
                    std::uint64_t shadow_memory) {
    return fmt::format(R"({{"real_size":{},"view_size":{},"engine":"{}","engine_reason":"{}","shadow_memory":{}{}}})",
                       real_size, view_size, engine.engine == Engine::shadow ? "shadow" : "cache", engine.why,
                       shadow_memory, members(counters));
}

}  // namespace nosigbus
