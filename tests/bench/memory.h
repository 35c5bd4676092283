// The loads and stores whose time is measured. They are plain ones in sanitizer builds too, where the loops would else
// be most of the time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "tests/bench/clock.h"

namespace nosigbus::bench {

// The sum of all 64-bit words: the cheapest way to look at each byte.
std::uint64_t sum_of_words(std::span<const std::byte> bytes);

// Loads one byte of each page; of `pages`, in their order.
void load_each_page(std::span<const std::byte> bytes);
void load_pages(std::span<const std::byte> bytes, std::span<const std::size_t> pages);

// Whether the last byte of each page is `value`. Loads one of each page, also where it is not.
bool every_page_shows(std::span<const std::byte> bytes, std::byte value);

// Fills each `stride`-th page, from page `first` on, with words that nothing had before: `seed` makes them.
void store_pages(std::span<std::byte> bytes, std::size_t first, std::size_t stride, std::uint64_t seed);

// Loads `place` until it is `value`, and says when that was; nothing where it is not by `deadline`.
std::optional<Clock::time_point> spin_until(const std::byte* place, std::byte value, Clock::time_point deadline);

// How many pages of this mapping are in memory.
std::size_t resident_pages(std::span<std::byte> mapping);

}  // namespace nosigbus::bench
