// Takes everything out of the processor's caches, so that no contender finds there what the one before it has left.
#pragma once

#include <cstddef>
#include <vector>

#include "tests/bench/groups.h"

namespace nosigbus::bench {

class CpuCaches {
  public:
    explicit CpuCaches(Form form);

    // Other bytes take the place of whatever was there.
    void forget() const;

  private:
    std::vector<std::byte> others_;
};

}  // namespace nosigbus::bench
