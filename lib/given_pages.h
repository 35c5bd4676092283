// Which pages of a view the kernel was given, and what was in them: so that a refresh needs to touch only what differs.
//
// It may hold more than the kernel has: pages go without our being told, under memory pressure or with an open. It
// never holds less. And a digest stands for a page only where the kernel's page certainly has these bytes. Hence a READ
// first says which pages it is about to fill, then reads the file, then says what it found; what happened to a page
// meanwhile, it does not undo.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "lib/page_digest.h"

namespace nosigbus {

// Pages of a view, by number.
struct PageRange {
    std::uint64_t first;
    std::uint64_t count;

    [[nodiscard]] std::uint64_t end() const { return first + count; }
    bool operator==(const PageRange&) const = default;
};

// The pages that have one of `size` bytes at `offset`.
PageRange pages_of(off_t offset, std::uint64_t size);

// How much memory all GivenPages together may take. Thread-safe.
class GivenPagesBudget {
  public:
    explicit GivenPagesBudget(std::size_t bytes) : left_(static_cast<std::ptrdiff_t>(bytes)) {}

    // Returns whether there was so much left.
    bool take(std::size_t bytes) {
        if (left_.fetch_sub(static_cast<std::ptrdiff_t>(bytes)) >= static_cast<std::ptrdiff_t>(bytes)) return true;
        give_back(bytes);
        return false;
    }
    void give_back(std::size_t bytes) { left_ += static_cast<std::ptrdiff_t>(bytes); }

  private:
    std::atomic<std::ptrdiff_t> left_;
};

// Thread-safe; its lock is held for no system call.
class GivenPages {
  public:
    // What is known of a page: 0, the kernel does not have it; even, the digest of what it has; odd, it may have it and
    // nobody knows with what. Odd values are used once, as tokens.
    using State = std::uint64_t;
    static constexpr State absent = 0;
    static bool is_unknown(State state) { return (state & 1) != 0; }

    explicit GivenPages(GivenPagesBudget& budget) : budget_(budget) {}
    GivenPages(const GivenPages&) = delete;
    GivenPages& operator=(const GivenPages&) = delete;
    ~GivenPages() { clear(); }

    // The kernel is about to be given `range`, or has given us what is in these pages: to be called before the file is
    // read or written. Returns a token for given().
    // Where there is no memory left, all pages count as given and unknown (lost_count).
    State giving(PageRange range) noexcept;

    // What was read or written, a digest for each page: to be called before the kernel is answered.
    void given(State token, std::uint64_t first, std::span<const PageDigest> digests) noexcept;

    // The kernel may have any bytes in these pages.
    void make_unknown(PageRange range) noexcept { giving(range); }

    // The states of `range`, one for each page.
    void copy(PageRange range, std::span<State> states) const;

    // The first run of pages from `from` on that the kernel may have, at most `most` pages of it. Its first and, unless
    // `most` cuts it, its last are not absent; some between may be, but for no long stretch.
    [[nodiscard]] std::optional<PageRange> next(std::uint64_t from, std::uint64_t most) const;

    // Whether it is not known any more which pages were given.
    [[nodiscard]] bool lost_count() const;

    // From here on all pages count as given and unknown: another worker gave them.
    void lose_count() noexcept;

    // The kernel is about to forget `range`: to be called before it is told to.
    void forget(PageRange range);
    // The same for all pages; counts anew.
    void clear();

    // For a push. Marks the pages of `range` whose state is still the one in `states`, a digest; returns the token.
    // Sets the states of the others in `states` to absent.
    State claim(PageRange range, std::span<State> states);
    // The kernel now has the bytes of these digests in the pages that are still marked with `token`. Returns false
    // where a READ has come between, and what the kernel has is not known: those pages are then.
    bool settle(State token, std::uint64_t first, std::span<const State> claimed, std::span<const PageDigest> digests);

  private:
    static constexpr std::uint64_t chunk_pages = 64;
    using Chunk = std::array<State, chunk_pages>;
    using Chunks = std::map<std::uint64_t, std::unique_ptr<Chunk>>;
    static constexpr std::size_t chunk_cost = sizeof(Chunk) + 80;  // with its place in the map
    // So many each view has outside the budget: one that is large does not take it all from those that are small.
    static constexpr std::size_t free_chunks = 16;

    template <typename Change>
    void change(PageRange range, bool make, Change change);  // with the lock held
    Chunks::iterator add_chunk(std::uint64_t number);
    Chunks::iterator erase_chunk(Chunks::iterator chunk) noexcept;
    void lose_count_locked() noexcept;
    void clear_chunks() noexcept;

    GivenPagesBudget& budget_;
    mutable std::mutex mutex_;
    State last_token_ = 1;
    bool lost_count_ = false;
    Chunks chunks_;
};

}  // namespace nosigbus
