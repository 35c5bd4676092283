#include "tests/bench/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace nosigbus::bench {

namespace {

// Characters of UTF-8, each of which is one column wide here.
std::size_t width(const std::string& text) {
    return static_cast<std::size_t>(std::count_if(
        text.begin(), text.end(), [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }));
}

std::string number(double value) {
    const int digits = value < 10 ? 2 : value < 100 ? 1 : 0;
    return fmt::format("{:.{}f}", value, digits);
}

}  // namespace

Table::Table(std::vector<std::string> head, std::size_t left) : left_(left) {
    rows_.push_back(std::move(head));
}

void Table::add(std::vector<std::string> row) {
    if (row.size() != rows_.front().size()) throw std::logic_error("a row of another length than the table's head");
    rows_.push_back(std::move(row));
}

std::size_t Table::width_of(std::size_t column) const {
    std::size_t widest = 3;
    for (const auto& row : rows_) widest = std::max(widest, width(row[column]));
    return widest;
}

void Table::print() const {
    std::string text;
    for (std::size_t row = 0; row < rows_.size(); ++row) {
        std::string rule = "|";
        text += "|";
        for (std::size_t column = 0; column < rows_[row].size(); ++column) {
            const std::string& cell = rows_[row][column];
            const std::string padding(width_of(column) - width(cell), ' ');
            const bool words = column < left_;
            text += words ? fmt::format(" {}{} |", cell, padding) : fmt::format(" {}{} |", padding, cell);
            rule += fmt::format("{:-<{}}{}|", "", width_of(column) + 1, words ? '-' : ':');
        }
        text += "\n";
        if (row == 0) text += rule + "\n";
    }
    fmt::print("\n{}", text);
}

std::string in_ms(double seconds) {
    return number(seconds * 1e3);
}

std::string in_us(double seconds) {
    return number(seconds * 1e6);
}

std::string times(double part, double whole) {
    return number(part / whole) + "×";
}

}  // namespace nosigbus::bench
