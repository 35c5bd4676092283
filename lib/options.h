// The mount options: one table that the parser, --help and the tests read.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace nosigbus {

// Of the machine, in bytes.
off_t quarter_of_memory();

struct Options {
    off_t max_size = off_t{1} << 30;
    bool allow_other = false;
    // What stat(2) tells: the view size, or the real size.
    enum class Stat { view, real };
    Stat stat = Stat::view;
    // How often every open view is compared with its file, for what leaves no event; 0: never.
    std::chrono::milliseconds refresh{0};
    // What a load gets that cannot be given its bytes.
    enum class OnError { zeros, fail };
    OnError on_error = OnError::zeros;
    // Files are opened cached, as on a kernel that cannot map files opened for direct I/O.
    bool cached_opens = false;
    // Requests are kept until they are answered, as for a kernel that does not ask again.
    bool keep_requests = false;
    // Which views have a shadow: none, those that are opened to be read, or of these the ones whose file is no larger
    // than shadow_max.
    enum class Engine { automatic, cache, shadow };
    Engine engine = Engine::automatic;
    // In bytes. Where all shadows take shadow_memory, no view gets another.
    off_t shadow_max = off_t{64} << 20;
    off_t shadow_memory = quarter_of_memory();
    // Whether there is .nosigbus/fd.
    bool fd_views = true;
    std::vector<std::string> kernel;  // options for the kernel's mount(2), in order
};

// An option nobody can use as it stands. what() is one line that names it and says what is accepted.
class BadOption : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct OptionRule {
    enum class Action {
        max_size,
        stat,
        refresh,
        on_error,
        cached_opens,
        keep_requests,
        engine,
        shadow_max,
        shadow_memory,
        fd_views,
        allow_other,
        noallow_other,
        pass,    // to the kernel
        ignore,  // mount(8)'s or systemd's own, or true anyway
        refuse,
    };
    enum class Value { none, required, optional };

    std::string_view name;  // a trailing * stands for the rest of the name
    Value value;
    Action action;
    std::string_view help;  // for what users may want to know of, else empty
};

std::span<const OptionRule> option_rules();

// As it is written.
const char* name_of(Options::Engine engine);

// Adds a list as it stands behind -o: options between commas; a comma inside double quotes or behind a backslash
// belongs to its value. The last of several that contradict each other wins. Throws BadOption.
void parse_options(std::string_view list, Options& options);

}  // namespace nosigbus
