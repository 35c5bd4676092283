// What was measured again and again.
#pragma once

#include <cstddef>
#include <vector>

#include "tests/bench/clock.h"

namespace nosigbus::bench {

class Samples {
  public:
    void add(Seconds sample) { samples_.push_back(sample); }

    [[nodiscard]] bool empty() const { return samples_.empty(); }
    [[nodiscard]] std::size_t count() const { return samples_.size(); }

    // Both throw where there are none.
    [[nodiscard]] Seconds median() const;
    // The sample that `percent` of them do not exceed (nearest rank).
    [[nodiscard]] Seconds percentile(std::size_t percent) const;

  private:
    std::vector<Seconds> samples_;
};

}  // namespace nosigbus::bench
