// Loads and stores that may raise SIGBUS, and live.
#pragma once

#include <cstddef>
#include <string>

namespace nosigbus::test {

// Loads `length` bytes from `from`, one after the other. Shorter than `length` where a load raised SIGBUS.
std::string load(const std::byte* from, std::size_t length);

// Loads one byte of each page of [from, from + length), for speed. Returns how many pages it could load.
std::size_t touch_pages(const std::byte* from, std::size_t length);

// Stores `bytes`. Returns how many it could store before SIGBUS.
std::size_t store(std::byte* to, const std::string& bytes);

}  // namespace nosigbus::test
