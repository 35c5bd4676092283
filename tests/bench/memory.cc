#include "tests/bench/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "tests/mount/files.h"
#include "tests/mount/plain_access.h"

namespace nosigbus::bench {

namespace {

// Whatever the compiler knows of a function, it must take it that memory changes here.
inline void forget_memory() {
    asm volatile("" ::: "memory");
}

inline unsigned char load(const std::byte* place) {
    return *reinterpret_cast<const volatile unsigned char*>(place);
}

}  // namespace

NOSIGBUS_PLAIN_ACCESS std::uint64_t sum_of_words(std::span<const std::byte> bytes) {
    forget_memory();
    const auto* const words = reinterpret_cast<const std::uint64_t*>(bytes.data());
    const std::size_t count = bytes.size() / sizeof *words;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += words[i];
    return sum;
}

NOSIGBUS_PLAIN_ACCESS void load_each_page(std::span<const std::byte> bytes) {
    const std::byte* const from = bytes.data();
    const std::size_t size = bytes.size();
    const std::size_t step = test::page;
    for (std::size_t at = 0; at < size; at += step) load(from + at);
}

NOSIGBUS_PLAIN_ACCESS void load_pages(std::span<const std::byte> bytes, std::span<const std::size_t> pages) {
    const std::byte* const from = bytes.data();
    const std::size_t* const numbers = pages.data();
    const std::size_t count = pages.size();
    const std::size_t step = test::page;
    for (std::size_t i = 0; i < count; ++i) load(from + numbers[i] * step);
}

NOSIGBUS_PLAIN_ACCESS bool every_page_shows(std::span<const std::byte> bytes, std::byte value) {
    const std::byte* const from = bytes.data();
    const std::size_t size = bytes.size();
    const std::size_t step = test::page;
    bool all = true;
    for (std::size_t at = step - 1; at < size; at += step) all &= load(from + at) == static_cast<unsigned char>(value);
    return all;
}

NOSIGBUS_PLAIN_ACCESS void store_pages(std::span<std::byte> bytes, std::size_t first, std::size_t stride,
                                       std::uint64_t seed) {
    const std::size_t words = test::page / sizeof(std::uint64_t);
    for (std::size_t page = first; page < bytes.size() / test::page; page += stride) {
        auto* const word = reinterpret_cast<std::uint64_t*>(bytes.data() + page * test::page);
        // The multiplier is odd, so no two arguments give the same word.
        for (std::size_t i = 0; i < words; ++i) word[i] = (seed << 40U | (page * words + i)) * 0x9E3779B97F4A7C15U;
    }
    forget_memory();
}

NOSIGBUS_PLAIN_ACCESS std::optional<Clock::time_point> spin_until(const std::byte* place, std::byte value,
                                                                  Clock::time_point deadline) {
    constexpr unsigned between_looks_at_the_clock = 1U << 16U;
    for (unsigned turn = 1;; ++turn) {
        if (load(place) == static_cast<unsigned char>(value)) return Clock::now();
        if (turn % between_looks_at_the_clock == 0 && Clock::now() > deadline) return std::nullopt;
    }
}

std::size_t resident_pages(std::span<std::byte> mapping) {
    std::vector<unsigned char> resident(mapping.size() / test::page);
    test::must(::mincore(mapping.data(), mapping.size(), resident.data()), "mincore");
    return static_cast<std::size_t>(
        std::count_if(resident.begin(), resident.end(), [](unsigned char page) { return (page & 1U) != 0; }));
}

}  // namespace nosigbus::bench
