// One large file of the source that all contenders read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "lib/unique_fd.h"
#include "tests/bench/contenders.h"
#include "tests/bench/groups.h"

namespace nosigbus::bench {

class BigFile {
  public:
    static constexpr const char* name = "big";

    BigFile(const Contenders& contenders, Form form);

    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] std::string size_text() const;
    [[nodiscard]] std::uint64_t sum() const { return sum_; }

    // Some of its pages, each at most once, in an order that no read-ahead could guess. Always the same ones.
    [[nodiscard]] const std::vector<std::size_t>& random_pages() const { return random_pages_; }

    // Opens it for reading as `contender` shows it, with none of it in the page cache: nosigbus drops what is there,
    // for the other mounts that is asked for here. The raw file is in memory always.
    [[nodiscard]] UniqueFd open_cold(std::size_t contender) const;

  private:
    const Contenders& contenders_;
    std::size_t size_;
    std::uint64_t sum_ = 0;
    std::vector<std::size_t> random_pages_;
};

}  // namespace nosigbus::bench
