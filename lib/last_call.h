// For what is to be done once several others are.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace nosigbus {

// Calls act(), which does not throw, when the last copy of what is returned goes. Throws std::bad_alloc: `act` is still
// the caller's then.
template <typename Act>
std::shared_ptr<const void> when_last_goes(Act&& act) {
    struct Last {
        explicit Last(Act&& last) : act(std::forward<Act>(last)) {}
        Last(const Last&) = delete;
        Last& operator=(const Last&) = delete;
        ~Last() { act(); }
        std::decay_t<Act> act;
    };
    return std::make_shared<Last>(std::forward<Act>(act));
}

}  // namespace nosigbus
