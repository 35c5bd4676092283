// One line per event, to stderr while in the foreground and to syslog(3) once the daemon has left its terminal.
#pragma once

#include <fmt/format.h>

#include <exception>
#include <string>

namespace nosigbus::log {

enum class Level { info, warning, error };

// From now on lines go to syslog(3). Call before threads start.
void use_syslog();

// With control characters replaced: names come from the source directory's owner.
std::string printable(std::string text);

// Writes "nosigbus: <message>", as printable.
void write(Level level, const std::string& message);

namespace detail {

template <typename Format>
void write_or_lose(Level level, Format format) noexcept {
    try {
        write(level, format());
    } catch (const std::exception&) {
        // No memory for a line. What it tells of goes on, and most of it is counted.
    }
}

}  // namespace detail

// These never throw: they are called where something has gone wrong already.
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) noexcept {
    detail::write_or_lose(Level::info, [&] { return fmt::format(format, std::forward<Args>(args)...); });
}

template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) noexcept {
    detail::write_or_lose(Level::warning, [&] { return fmt::format(format, std::forward<Args>(args)...); });
}

template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) noexcept {
    detail::write_or_lose(Level::error, [&] { return fmt::format(format, std::forward<Args>(args)...); });
}

}  // namespace nosigbus::log
