#include "tests/bench/big_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <numeric>
#include <random>
#include <system_error>

#include "tests/bench/memory.h"
#include "tests/mount/files.h"
#include "tests/mount/mapping.h"

namespace nosigbus::bench {

using namespace test;

namespace {

std::vector<std::size_t> some_pages(std::size_t of, std::size_t count) {
    std::vector<std::size_t> pages(of);
    std::iota(pages.begin(), pages.end(), 0U);
    std::mt19937_64 always_the_same(1);  // NOLINT(cert-msc51-cpp)
    std::shuffle(pages.begin(), pages.end(), always_the_same);
    pages.resize(count);
    return pages;
}

}  // namespace

BigFile::BigFile(const Contenders& contenders, Form form)
    : contenders_(contenders),
      size_(choose(form, 512 * MiB, 16 * MiB)),
      random_pages_(some_pages(size_ / page, choose<std::size_t>(form, 20000, 500))) {
    const UniqueFd file = make_file(contenders.path(Contenders::raw, name));
    resize(file.get(), size_);
    const Mapping mapping(file.get(), size_, PROT_READ | PROT_WRITE);
    store_pages({mapping.data(), size_}, 0, 1, 1);
    sum_ = sum_of_words({mapping.data(), size_});
}

std::string BigFile::size_text() const {
    return fmt::format("{} MiB", size_ / MiB);
}

UniqueFd BigFile::open_cold(std::size_t contender) const {
    UniqueFd file = contenders_.open_to_read(contender, name);
    const int error = ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    if (error != 0) throw std::system_error(error, std::generic_category(), "posix_fadvise");
    return file;
}

}  // namespace nosigbus::bench
