// What a program does about SIGBUS that maps the file itself.
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace nosigbus::bench {

// Handles SIGBUS as long as it lives, in the two usual ways. Only one at a time: the handler is the process's.
class SigbusHandler {
  public:
    SigbusHandler();
    SigbusHandler(const SigbusHandler&) = delete;
    SigbusHandler& operator=(const SigbusHandler&) = delete;
    ~SigbusHandler();

    // The sum of all words; nothing where a load raised SIGBUS, which ends it.
    static std::optional<std::uint64_t> sum_or_nothing(std::span<const std::byte> bytes);

    struct SumAndFaults {
        std::uint64_t sum;
        std::size_t faults;
    };
    // The sum of all words. Where a load raises SIGBUS a page of zeros is mapped, there and for good, and it goes on.
    static SumAndFaults sum_over_zeros(std::span<const std::byte> bytes);

  private:
    struct sigaction before_ {};
};

}  // namespace nosigbus::bench
