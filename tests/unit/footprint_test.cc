// What a known inode costs in memory, and how long a million of them take to take over. Without descriptors: a node
// needs one, but its memory does not.
#include <doctest/doctest.h>
#include <malloc.h>
#include <sys/stat.h>

#include <chrono>
#include <vector>

#include "lib/node_table.h"
#include "lib/shared_state.h"

using namespace nosigbus;

namespace {

// What docs/design.md promises.
constexpr std::size_t bytes_per_inode = 256;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool memory_is_ours = false;  // a sanitizer's malloc is another, and slow
#else
constexpr bool memory_is_ours = true;
#endif

void know(NodeTable& nodes, std::uint64_t inode) {
    struct statx attributes {};
    attributes.stx_mode = S_IFREG;
    attributes.stx_ino = inode;
    UniqueFd none;
    nodes.look_up(none, attributes).keep();
}

// Allocated by malloc(3), with what it keeps for itself.
std::size_t allocated() {
    const struct mallinfo2 info = ::mallinfo2();
    return info.uordblks + info.hblkhd;
}

// With the slots, which stand in memory of their own.
std::size_t bytes_each(std::size_t count) {
    SharedState state;
    NodeTable nodes(state, 4096);
    const std::size_t before = allocated();
    for (std::size_t i = 1; i <= count; ++i) know(nodes, i);
    return sizeof(NodeSlot) + (allocated() - before) / count;
}

}  // namespace

TEST_CASE("a known inode takes no more memory than is promised, however many there are") {
    // Tables that have just grown, and tables that are about to.
    for (const std::size_t count : {100'000U, 131'073U, 250'000U}) {
        CAPTURE(count);
        const std::size_t each = bytes_each(count);
        if (memory_is_ours) CHECK(each <= bytes_per_inode);
        MESSAGE(count, " inodes: ", each, " bytes each");
    }
}

TEST_CASE("very many inodes are taken over in the time that a supervisor allows for it") {
    constexpr std::size_t count = memory_is_ours ? 1'000'000 : 100'000;
    SharedState state;
    // Not destroyed: a worker that has died gives nothing back.
    static auto* const before = new NodeTable(state, 4096);  // NOLINT(*-owning-memory)
    for (std::size_t i = 1; i <= count; ++i) know(*before, i);
    const auto start = std::chrono::steady_clock::now();
    state.look_at_slots();
    NodeTable nodes(state, 4096);
    std::vector<NodePtr> all;
    nodes.take_over(all);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    CHECK(all.size() == count);
    CHECK(nodes.get(all.back()->id()) == all.back());
    // Supervisor::patience: 100 slots in a millisecond, after 2.5 s.
    CHECK(taken.count() < 10);
    MESSAGE(count, " inodes are taken over in ", taken.count(), " s");
}
