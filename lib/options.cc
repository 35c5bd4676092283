#include "lib/options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <utility>

#include "lib/size_suffix.h"

namespace nosigbus {
namespace {

using Action = OptionRule::Action;
using Value = OptionRule::Value;

constexpr std::array rules = {
    OptionRule{"max_size", Value::required, Action::max_size,
               "views reach to the next multiple of this size (K, M, G, T; default 1G)"},
    OptionRule{"stat", Value::required, Action::stat, "what stat(2) tells: view (default) or real, the file's size"},
    OptionRule{"refresh", Value::required, Action::refresh,
               "compare open views with their files every so many milliseconds (0, default: only when told to)"},
    OptionRule{"on_error", Value::required, Action::on_error,
               "a load of what cannot be read gets zeros (default) or fails, which is SIGBUS"},
    OptionRule{"cached_opens", Value::none, Action::cached_opens,
               "open files as before Linux 6.6: read(2) sees zeros up to the view's end"},
    OptionRule{"keep_requests", Value::none, Action::keep_requests,
               "keep requests until they are answered, as before Linux 6.9; for tests"},
    OptionRule{
        "engine", Value::required, Action::engine,
        "shadow: views opened to be read have a copy in memory, which loads never wait for; cache: none has; auto "
        "(default): those of files up to shadow_max"},
    OptionRule{"shadow_max", Value::required, Action::shadow_max, "see engine (default 64M)"},
    OptionRule{"shadow_memory", Value::required, Action::shadow_memory,
               "how much memory all shadows may take (default: a quarter of the machine's)"},
    OptionRule{"fd_views", Value::required, Action::fd_views,
               "whether .nosigbus/fd gives views of descriptors: yes (default) or no"},
    OptionRule{"allow_other", Value::none, Action::allow_other, "let other users in (root's default)"},
    OptionRule{"noallow_other", Value::none, Action::noallow_other, "let in nobody but the user who mounts"},
    OptionRule{"ro", Value::none, Action::pass, "read-only"},
    OptionRule{"rw", Value::none, Action::pass, "read-write (default)"},
    OptionRule{"suid", Value::none, Action::pass, ""},
    OptionRule{"nosuid", Value::none, Action::pass, ""},
    OptionRule{"dev", Value::none, Action::pass, ""},
    OptionRule{"nodev", Value::none, Action::pass, ""},
    OptionRule{"exec", Value::none, Action::pass, ""},
    OptionRule{"noexec", Value::none, Action::pass, ""},
    OptionRule{"sync", Value::none, Action::pass, ""},
    OptionRule{"async", Value::none, Action::pass, ""},
    OptionRule{"dirsync", Value::none, Action::pass, ""},
    OptionRule{"atime", Value::none, Action::pass, ""},
    OptionRule{"noatime", Value::none, Action::pass, ""},
    OptionRule{"context", Value::required, Action::pass, ""},
    OptionRule{"fscontext", Value::required, Action::pass, ""},
    OptionRule{"defcontext", Value::required, Action::pass, ""},
    OptionRule{"rootcontext", Value::required, Action::pass, ""},
    // The times of a view are those of its backing file, kept by the source's own file system.
    OptionRule{"diratime", Value::none, Action::ignore, ""},
    OptionRule{"nodiratime", Value::none, Action::ignore, ""},
    OptionRule{"relatime", Value::none, Action::ignore, ""},
    OptionRule{"norelatime", Value::none, Action::ignore, ""},
    OptionRule{"strictatime", Value::none, Action::ignore, ""},
    OptionRule{"nostrictatime", Value::none, Action::ignore, ""},
    OptionRule{"lazytime", Value::none, Action::ignore, ""},
    OptionRule{"nolazytime", Value::none, Action::ignore, ""},
    OptionRule{"default_permissions", Value::none, Action::ignore, ""},
    // What mount(8), fstab(5) and systemd.mount(5) keep for themselves.
    OptionRule{"defaults", Value::none, Action::ignore, ""},
    OptionRule{"auto", Value::none, Action::ignore, ""},
    OptionRule{"noauto", Value::none, Action::ignore, ""},
    OptionRule{"user", Value::optional, Action::ignore, ""},
    OptionRule{"nouser", Value::none, Action::ignore, ""},
    OptionRule{"users", Value::none, Action::ignore, ""},
    OptionRule{"nousers", Value::none, Action::ignore, ""},
    OptionRule{"owner", Value::none, Action::ignore, ""},
    OptionRule{"noowner", Value::none, Action::ignore, ""},
    OptionRule{"group", Value::none, Action::ignore, ""},
    OptionRule{"nogroup", Value::none, Action::ignore, ""},
    OptionRule{"nofail", Value::none, Action::ignore, ""},
    OptionRule{"fail", Value::none, Action::ignore, ""},
    OptionRule{"_netdev", Value::none, Action::ignore, ""},
    OptionRule{"silent", Value::none, Action::ignore, ""},
    OptionRule{"loud", Value::none, Action::ignore, ""},
    OptionRule{"comment", Value::required, Action::ignore, ""},
    OptionRule{"uhelper", Value::required, Action::ignore, ""},
    OptionRule{"helper", Value::required, Action::ignore, ""},
    OptionRule{"x-*", Value::optional, Action::ignore, ""},
    OptionRule{"X-*", Value::optional, Action::ignore, ""},
    OptionRule{"remount", Value::none, Action::refuse, ""},
};

constexpr std::chrono::milliseconds longest_refresh = std::chrono::hours(24);
constexpr off_t largest_max_size = off_t{1} << 60;  // well inside what an off_t holds

// The options between commas, without the quotes and backslashes that protected some.
std::vector<std::string> split(std::string_view list) {
    std::vector<std::string> parts(1);
    bool quoted = false;
    for (std::size_t i = 0; i < list.size(); ++i) {
        const char c = list[i];
        if (c == '\\' && i + 1 < list.size()) {
            parts.back() += list[++i];
        } else if (c == '"') {
            quoted = !quoted;
        } else if (c == ',' && !quoted) {
            parts.emplace_back();
        } else {
            parts.back() += c;
        }
    }
    std::erase(parts, "");
    return parts;
}

bool matches(const OptionRule& rule, std::string_view name) {
    if (rule.name.ends_with('*')) return name.starts_with(rule.name.substr(0, rule.name.size() - 1));
    return rule.name == name;
}

off_t parse_max_size(const std::string& option, std::string_view value) {
    const off_t page = ::sysconf(_SC_PAGESIZE);
    const auto size = parse_size(value);
    if (!size || *size <= 0 || *size % page != 0 || *size > largest_max_size) {
        throw BadOption(
            fmt::format("option {}: a size is a number with an optional K, M, G or T; max_size is a multiple of {} of "
                        "at least that and at most {}T",
                        option, page, largest_max_size >> 40));
    }
    return *size;
}

off_t parse_bytes(const std::string& option, std::string_view value) {
    const auto size = parse_size(value);
    if (!size || *size < 0 || *size > largest_max_size) {
        throw BadOption(
            fmt::format("option {}: a size is a number of bytes with an optional K, M, G or T, from 0 to {}T", option,
                        largest_max_size >> 40));
    }
    return *size;
}

std::chrono::milliseconds parse_refresh(const std::string& option, std::string_view value) {
    std::int64_t milliseconds = 0;
    const auto [end, error] = std::from_chars(value.begin(), value.end(), milliseconds);
    if (error != std::errc() || end != value.end() || milliseconds < 0 || milliseconds > longest_refresh.count()) {
        throw BadOption(fmt::format("option {}: refresh is a number of milliseconds from 0, which is never, to {}",
                                    option, longest_refresh.count()));
    }
    return std::chrono::milliseconds(milliseconds);
}

template <typename Choice, std::size_t count = 2>
Choice choose(const std::string& option, std::string_view value,
              const std::array<std::pair<std::string_view, Choice>, count>& choices) {
    std::string names;
    for (std::size_t i = 0; i < count; ++i) {
        const auto& [name, choice] = choices[i];
        if (name == value) return choice;
        if (i > 0) names += i + 1 < count ? ", " : " or ";
        names += name;
    }
    throw BadOption(fmt::format("option {}: {} expected", option, names));
}

std::pair<std::string_view, Options::Engine> named(Options::Engine engine) {
    return {name_of(engine), engine};
}

void apply(const std::string& option, Options& options) {
    const std::size_t equals = option.find('=');
    const std::string_view name = std::string_view(option).substr(0, equals);
    std::optional<std::string_view> value;
    if (equals != std::string::npos) value = std::string_view(option).substr(equals + 1);

    const auto* const rule = std::find_if(rules.begin(), rules.end(), [&](const auto& r) { return matches(r, name); });
    if (rule == rules.end())
        throw BadOption(fmt::format("unknown option {}: nosigbus -h lists those that there are", option));
    if (rule->value == Value::none && value) throw BadOption(fmt::format("option {}: {} takes no value", option, name));
    if (rule->value == Value::required && (!value || value->empty()))
        throw BadOption(fmt::format("option {}: {} needs a value: {}=...", option, name, name));

    switch (rule->action) {
        case Action::max_size:
            options.max_size = parse_max_size(option, *value);
            break;
        case Action::stat:
            options.stat =
                choose<Options::Stat>(option, *value, {{{"view", Options::Stat::view}, {"real", Options::Stat::real}}});
            break;
        case Action::refresh:
            options.refresh = parse_refresh(option, *value);
            break;
        case Action::on_error:
            options.on_error = choose<Options::OnError>(
                option, *value, {{{"zeros", Options::OnError::zeros}, {"fail", Options::OnError::fail}}});
            break;
        case Action::cached_opens:
            options.cached_opens = true;
            break;
        case Action::keep_requests:
            options.keep_requests = true;
            break;
        case Action::engine:
            options.engine = choose<Options::Engine, 3>(
                option, *value,
                {{named(Options::Engine::automatic), named(Options::Engine::cache), named(Options::Engine::shadow)}});
            break;
        case Action::shadow_max:
            options.shadow_max = parse_bytes(option, *value);
            break;
        case Action::shadow_memory:
            options.shadow_memory = parse_bytes(option, *value);
            break;
        case Action::fd_views:
            options.fd_views = choose<bool>(option, *value, {{{"yes", true}, {"no", false}}});
            break;
        case Action::allow_other:
        case Action::noallow_other:
            options.allow_other = rule->action == Action::allow_other;
            break;
        case Action::pass:
            options.kernel.push_back(option);
            break;
        case Action::ignore:
            break;
        case Action::refuse:
            throw BadOption(fmt::format(
                "option {}: a mounted view keeps its options; unmount it, then mount it with the new ones", option));
    }
}

}  // namespace

const char* name_of(Options::Engine engine) {
    switch (engine) {
        case Options::Engine::cache:
            return "cache";
        case Options::Engine::shadow:
            return "shadow";
        default:
            return "auto";
    }
}

off_t quarter_of_memory() {
    return static_cast<off_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE) / 4;
}

std::span<const OptionRule> option_rules() {
    return rules;
}

void parse_options(std::string_view list, Options& options) {
    const auto all = split(list);
    // First, since with it mount(8) (util-linux 2.41) gives what the kernel says of the mount, which is no option of
    // ours.
    for (const std::string& option : all) {
        if (option == "remount") apply(option, options);
    }
    for (const std::string& option : all) apply(option, options);
}

}  // namespace nosigbus
