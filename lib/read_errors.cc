#include "lib/read_errors.h"

#include <cstring>

#include "lib/log.h"
#include "lib/syscalls.h"

namespace nosigbus {

void ReadErrors::report(int fd, int error) noexcept {
    const std::uint64_t count = ++counters_.views.read_errors;
    try {
        const std::lock_guard lock(mutex_);
        const auto now = std::chrono::steady_clock::now();
        if (now < next_line_) return;
        next_line_ = now + std::chrono::seconds(1);
        log::error("{}: a page could not be read: {} ({} such since the last line)",
                   fd < 0 ? "a view without a file" : sys::name_of(fd), std::strerror(error), count - logged_);
        logged_ = count;
    } catch (const std::exception&) {
        // No memory for a log line: it stays counted.
    }
}

}  // namespace nosigbus
