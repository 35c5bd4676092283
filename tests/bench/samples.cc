#include "tests/bench/samples.h"

#include <algorithm>
#include <stdexcept>

namespace nosigbus::bench {

namespace {

std::vector<Seconds> sorted(std::vector<Seconds> samples) {
    if (samples.empty()) throw std::logic_error("nothing was measured");
    std::sort(samples.begin(), samples.end());
    return samples;
}

}  // namespace

Seconds Samples::median() const {
    const auto samples = sorted(samples_);
    const std::size_t middle = samples.size() / 2;
    return samples.size() % 2 == 1 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2;
}

Seconds Samples::percentile(std::size_t percent) const {
    const auto samples = sorted(samples_);
    const std::size_t rank = (samples.size() * percent + 99) / 100;
    return samples[std::max<std::size_t>(rank, 1) - 1];
}

}  // namespace nosigbus::bench
