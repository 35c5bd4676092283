// What an input of fuzz_requests is: a byte that says how the file system is mounted, then one step behind the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>

namespace nosigbus::fuzz {

// Bits of the first byte.
enum Mounted : std::uint8_t { small_views = 1, real_sizes = 2, failing_loads = 4, cached_opens = 8 };

// Bits of Step::how.
enum How : std::uint8_t { ordinary_user = 1, lying_length = 2, extensions = 4, asked_again = 8 };

// Opcodes of steps that are no request: somebody changes file "a" of the source behind our back.
enum Change : std::uint16_t { truncation = 0xff00, store = 0xff01, removal = 0xff02 };

struct Step {
    std::uint16_t opcode;
    std::uint16_t length;  // of the body that follows
    std::uint8_t how;
    std::uint64_t node;
};

constexpr std::size_t step_size = 13;

// Takes the next step from the start of `input`, and its body, or as much of it as there is.
inline std::optional<Step> take_step(std::span<const std::uint8_t>& input, std::span<const std::uint8_t>& body) {
    if (input.size() < step_size) return std::nullopt;
    Step step{};
    std::memcpy(&step.opcode, &input[0], sizeof step.opcode);
    std::memcpy(&step.length, &input[2], sizeof step.length);
    std::memcpy(&step.how, &input[4], sizeof step.how);
    std::memcpy(&step.node, &input[5], sizeof step.node);
    input = input.subspan(step_size);
    body = input.first(std::min<std::size_t>(step.length, input.size()));
    input = input.subspan(body.size());
    return step;
}

inline std::string to_bytes(const Step& step) {
    std::string bytes(step_size, '\0');
    std::memcpy(&bytes[0], &step.opcode, sizeof step.opcode);
    std::memcpy(&bytes[2], &step.length, sizeof step.length);
    std::memcpy(&bytes[4], &step.how, sizeof step.how);
    std::memcpy(&bytes[5], &step.node, sizeof step.node);
    return bytes;
}

// The nodes and handles there are before the first step, in the order in which they are given out.
constexpr std::uint64_t root = 1;
constexpr std::uint64_t node_a = 2;          // 5 bytes
constexpr std::uint64_t node_b = 3;          // some pages
constexpr std::uint64_t node_directory = 4;  // "d", with a file "c"
constexpr std::uint64_t node_link = 5;       // "l"
constexpr std::uint64_t node_fifo = 6;       // "p"
constexpr std::uint64_t handle_a = 1;        // for reading and writing
constexpr std::uint64_t handle_b = 2;        // for reading
constexpr std::uint64_t handle_root = 3;

}  // namespace nosigbus::fuzz
