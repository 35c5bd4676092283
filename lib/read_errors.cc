#include "lib/read_errors.h"

#include <cstring>

#include "lib/log.h"

namespace nosigbus {

void ReadErrors::report(std::uint64_t node, int error) noexcept {
    const std::uint64_t count = ++count_;
    try {
        const std::lock_guard lock(mutex_);
        const auto now = std::chrono::steady_clock::now();
        if (now < next_line_) return;
        next_line_ = now + std::chrono::seconds(1);
        log::error(
            "node {}: a load got zeros because its backing file could not be read: {} ({} such since the last line)",
            node, std::strerror(error), count - logged_);
        logged_ = count;
    } catch (const std::exception&) {
        // No memory for a log line: it stays counted.
    }
}

}  // namespace nosigbus
