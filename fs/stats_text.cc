#include "fs/stats_text.h"

#include <algorithm>
#include <cstddef>

namespace nosigbus {
namespace {

class StatsReader {
  public:
    explicit StatsReader(std::string_view text) : rest_(text) {}

    std::optional<Stats> read() {
        Stats stats;
        if (!skip('{')) return std::nullopt;
        do {
            const auto name = quoted();
            if (!name || !skip(':')) return std::nullopt;
            const auto value = rest_.starts_with('"') ? quoted() : word();
            if (!value) return std::nullopt;
            stats.emplace_back(*name, *value);
        } while (skip(','));
        if (rest_ != "}") return std::nullopt;
        return stats;
    }

  private:
    bool skip(char wanted) {
        if (!rest_.starts_with(wanted)) return false;
        rest_.remove_prefix(1);
        return true;
    }

    std::optional<std::string_view> word() {
        constexpr std::string_view letters = "abcdefghijklmnopqrstuvwxyz0123456789_";
        const std::size_t length = std::min(rest_.find_first_not_of(letters), rest_.size());
        if (length == 0) return std::nullopt;
        const auto found = rest_.substr(0, length);
        rest_.remove_prefix(length);
        return found;
    }

    std::optional<std::string_view> quoted() {
        if (!skip('"')) return std::nullopt;
        const auto found = word();
        if (!found || !skip('"')) return std::nullopt;
        return found;
    }

    std::string_view rest_;
};

}  // namespace

std::optional<Stats> parse_stats(std::string_view text) {
    return StatsReader(text).read();
}

}  // namespace nosigbus
