// The same work done by each contender: a row for each kind of work, a column for each contender, and ratios to raw.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "tests/bench/samples.h"

namespace nosigbus::bench {

class Comparison {
  public:
    struct Work {
        std::string name;
        std::function<std::string(double seconds)> text;  // what a time comes to, in the unit of the row
    };

    Comparison(std::string what, std::vector<std::string> contenders, std::vector<Work> works);

    void add(std::size_t work, std::size_t contender, Seconds sample);
    void print() const;

  private:
    std::string what_;
    std::vector<std::string> contenders_;
    std::vector<Work> works_;
    std::vector<std::vector<Samples>> samples_;  // [work][contender]
};

// Texts for work on `bytes`, and for `count` operations.
std::function<std::string(double seconds)> gib_per_second(std::size_t bytes);
std::function<std::string(double seconds)> us_per_operation(std::size_t count);

}  // namespace nosigbus::bench
