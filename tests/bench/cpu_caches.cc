#include "tests/bench/cpu_caches.h"

#include "tests/bench/memory.h"
#include "tests/mount/files.h"

namespace nosigbus::bench {

// More than the caches of today's processors hold for a core or two.
CpuCaches::CpuCaches(Form form) : others_(choose(form, 128 * test::MiB, 4 * test::MiB), std::byte{1}) {}

void CpuCaches::forget() const {
    sum_of_words(others_);
}

}  // namespace nosigbus::bench
