// One line per event, to stderr while in the foreground and to syslog(3) once the daemon has left its terminal.
#pragma once

#include <fmt/format.h>

#include <string>

namespace nosigbus::log {

enum class Level { info, warning, error };

// From now on lines go to syslog(3). Call before threads start.
void use_syslog();

// Writes "nosigbus: <message>". Control characters in it are replaced: names come from the source directory's owner.
void write(Level level, const std::string& message);

template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
    write(Level::info, fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
    write(Level::warning, fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
    write(Level::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace nosigbus::log
