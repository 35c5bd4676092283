#include "tests/bench/comparison.h"

#include <fmt/format.h>

#include <utility>

#include "tests/bench/contenders.h"
#include "tests/bench/table.h"
#include "tests/mount/files.h"

namespace nosigbus::bench {

Comparison::Comparison(std::string what, std::vector<std::string> contenders, std::vector<Work> works)
    : what_(std::move(what)),
      contenders_(std::move(contenders)),
      works_(std::move(works)),
      samples_(works_.size(), std::vector<Samples>(contenders_.size())) {}

void Comparison::add(std::size_t work, std::size_t contender, Seconds sample) {
    samples_.at(work).at(contender).add(sample);
}

void Comparison::print() const {
    std::vector<std::string> head = {what_};
    head.insert(head.end(), contenders_.begin(), contenders_.end());
    Table table(std::move(head));
    for (std::size_t work = 0; work < works_.size(); ++work) {
        const double raw = samples_[work][Contenders::raw].median().count();
        std::vector<std::string> row = {works_[work].name};
        for (std::size_t contender = 0; contender < contenders_.size(); ++contender) {
            const double median = samples_[work][contender].median().count();
            std::string cell = works_[work].text(median);
            if (contender != Contenders::raw) cell += fmt::format(" ({})", times(median, raw));
            row.push_back(std::move(cell));
        }
        table.add(std::move(row));
    }
    table.print();
}

std::function<std::string(double seconds)> gib_per_second(std::size_t bytes) {
    return [bytes](double seconds) {
        return fmt::format("{:.2f}", static_cast<double>(bytes) / static_cast<double>(test::GiB) / seconds);
    };
}

std::function<std::string(double seconds)> us_per_operation(std::size_t count) {
    return [count](double seconds) { return in_us(seconds / static_cast<double>(count)); };
}

}  // namespace nosigbus::bench
