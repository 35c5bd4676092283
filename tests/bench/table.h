// A table in Markdown that is readable as it stands.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace nosigbus::bench {

class Table {
  public:
    // The first `left` columns are words, the others numbers.
    explicit Table(std::vector<std::string> head, std::size_t left = 1);

    void add(std::vector<std::string> row);
    void print() const;

  private:
    [[nodiscard]] std::size_t width_of(std::size_t column) const;

    std::size_t left_;
    std::vector<std::vector<std::string>> rows_;
};

// A duration in the unit and with the digits that fit all tables: "12.3".
std::string in_ms(double seconds);
std::string in_us(double seconds);

// How many times `part` is `whole`: "1.25×".
std::string times(double part, double whole);

}  // namespace nosigbus::bench
