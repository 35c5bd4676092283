#include "lib/log.h"

#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>

namespace nosigbus::log {
namespace {

std::atomic<bool> to_syslog{false};

int priority(Level level) {
    switch (level) {
        case Level::info:
            return LOG_INFO;
        case Level::warning:
            return LOG_WARNING;
        case Level::error:
            return LOG_ERR;
    }
    return LOG_ERR;
}

}  // namespace

void use_syslog() {
    to_syslog = true;
}

namespace {

// syslog(3) would keep a descriptor for the next line. Another process that shares our descriptors, or comes after us,
// may have closed it by then, and its number be somebody else's.
void write_to_syslog(Level level, const std::string& line) {
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    ::openlog("nosigbus", LOG_PID, LOG_DAEMON);
    ::syslog(priority(level), "%s", line.c_str());
    ::closelog();
}

}  // namespace

std::string printable(std::string text) {
    std::replace_if(
        text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, '?');
    return text;
}

void write(Level level, const std::string& message) {
    std::string line = printable(message);
    if (to_syslog) return write_to_syslog(level, line);
    line = "nosigbus: " + line + '\n';
    // One write(2), so that lines of several threads do not mix. Nobody is left to tell when stderr is gone.
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace nosigbus::log
