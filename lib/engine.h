// Whose pages the mappings of a view show.
#pragma once

#include <cstdint>

namespace nosigbus {

// The kernel's page cache, which asks us for them, or a shadow, see lib/shadow.h.
enum class Engine : std::uint8_t { cache, shadow };

struct EngineChoice {
    Engine engine;
    const char* why;  // in one word of a-z and _, for people
};

inline constexpr EngineChoice not_open{Engine::cache, "not_open"};
inline constexpr EngineChoice not_asked_for{Engine::cache, "not_asked_for"};

}  // namespace nosigbus
