#include "lib/given_pages.h"

#include <algorithm>
#include <exception>
#include <new>

namespace nosigbus {

PageRange pages_of(off_t offset, std::uint64_t size) {
    const auto begin = static_cast<std::uint64_t>(offset) / page_size();
    const auto end = (static_cast<std::uint64_t>(offset) + size + page_size() - 1) / page_size();
    return {begin, end - begin};
}

// Calls change(state, index within the range) for each page. Pages of chunks that do not exist are made, or left out.
template <typename Change>
void GivenPages::change(PageRange range, bool make, Change change) {
    std::uint64_t page = range.first;
    while (page < range.end()) {
        const std::uint64_t number = page / chunk_pages;
        const std::uint64_t end = std::min(range.end(), (number + 1) * chunk_pages);
        auto chunk = chunks_.find(number);
        if (chunk == chunks_.end() && make) chunk = add_chunk(number);
        if (chunk != chunks_.end()) {
            for (std::uint64_t i = page; i < end; ++i) change((*chunk->second)[i % chunk_pages], i - range.first);
        }
        page = end;
    }
}

GivenPages::Chunks::iterator GivenPages::add_chunk(std::uint64_t number) {
    const bool is_charged = chunks_.size() >= free_chunks;
    if (is_charged && !budget_.take(chunk_cost)) throw std::bad_alloc();
    try {
        return chunks_.emplace(number, std::make_unique<Chunk>()).first;
    } catch (...) {
        if (is_charged) budget_.give_back(chunk_cost);
        throw;
    }
}

GivenPages::Chunks::iterator GivenPages::erase_chunk(Chunks::iterator chunk) noexcept {
    if (chunks_.size() > free_chunks) budget_.give_back(chunk_cost);
    return chunks_.erase(chunk);
}

void GivenPages::clear_chunks() noexcept {
    if (chunks_.size() > free_chunks) budget_.give_back((chunks_.size() - free_chunks) * chunk_cost);
    chunks_.clear();
}

void GivenPages::lose_count_locked() noexcept {
    lost_count_ = true;
    clear_chunks();
}

void GivenPages::lose_count() noexcept {
    const std::lock_guard lock(mutex_);
    lose_count_locked();
}

GivenPages::State GivenPages::giving(PageRange range) noexcept {
    const std::lock_guard lock(mutex_);
    last_token_ += 2;
    if (lost_count_) return last_token_;
    try {
        change(range, true, [this](State& state, std::uint64_t /*index*/) { state = last_token_; });
    } catch (const std::exception&) {
        lose_count_locked();
    }
    return last_token_;
}

void GivenPages::given(State token, std::uint64_t first, std::span<const PageDigest> digests) noexcept {
    const std::lock_guard lock(mutex_);
    change({first, digests.size()}, false, [&](State& state, std::uint64_t index) {
        if (state == token) state = digests[index];
    });
}

void GivenPages::copy(PageRange range, std::span<State> states) const {
    std::fill(states.begin(), states.end(), absent);
    const std::lock_guard lock(mutex_);
    for (auto chunk = chunks_.lower_bound(range.first / chunk_pages);
         chunk != chunks_.end() && chunk->first * chunk_pages < range.end(); ++chunk) {
        const std::uint64_t start = std::max(range.first, chunk->first * chunk_pages);
        const std::uint64_t end = std::min(range.end(), (chunk->first + 1) * chunk_pages);
        for (std::uint64_t page = start; page < end; ++page)
            states[page - range.first] = (*chunk->second)[page % chunk_pages];
    }
}

std::optional<PageRange> GivenPages::next(std::uint64_t from, std::uint64_t most) const {
    const std::lock_guard lock(mutex_);
    for (auto chunk = chunks_.lower_bound(from / chunk_pages); chunk != chunks_.end(); ++chunk) {
        const std::uint64_t base = chunk->first * chunk_pages;
        for (std::uint64_t page = std::max(from, base); page < base + chunk_pages; ++page) {
            if ((*chunk->second)[page % chunk_pages] == absent) continue;
            // As far as chunks follow each other, without what is absent at the end. This page is not.
            auto last = chunk;
            std::uint64_t end = base + chunk_pages;
            for (auto later = std::next(chunk);
                 later != chunks_.end() && later->first * chunk_pages == end && end < page + most; ++later) {
                last = later;
                end += chunk_pages;
            }
            while ((*last->second)[(end - 1) % chunk_pages] == absent) {
                --end;
                if (end % chunk_pages == 0) --last;
            }
            return PageRange{page, std::min(end - page, most)};
        }
    }
    return std::nullopt;
}

bool GivenPages::lost_count() const {
    const std::lock_guard lock(mutex_);
    return lost_count_;
}

void GivenPages::forget(PageRange range) {
    const std::lock_guard lock(mutex_);
    auto chunk = chunks_.lower_bound(range.first / chunk_pages);
    while (chunk != chunks_.end() && chunk->first * chunk_pages < range.end()) {
        const std::uint64_t base = chunk->first * chunk_pages;
        Chunk& states = *chunk->second;
        const auto begin = static_cast<std::ptrdiff_t>(std::max(range.first, base) - base);
        const auto end = static_cast<std::ptrdiff_t>(std::min(range.end(), base + chunk_pages) - base);
        std::fill(states.begin() + begin, states.begin() + end, absent);
        const bool is_empty = std::all_of(states.begin(), states.end(), [](State state) { return state == absent; });
        chunk = is_empty ? erase_chunk(chunk) : std::next(chunk);
    }
}

void GivenPages::clear() {
    const std::lock_guard lock(mutex_);
    lost_count_ = false;
    clear_chunks();
}

GivenPages::State GivenPages::claim(PageRange range, std::span<State> states) {
    const std::lock_guard lock(mutex_);
    last_token_ += 2;
    std::uint64_t seen = 0;
    change(range, false, [&](State& state, std::uint64_t index) {
        for (; seen < index; ++seen) states[seen] = absent;  // no chunk there any more
        seen = index + 1;
        if (state == absent || is_unknown(state) || state != states[index]) {
            states[index] = absent;
        } else {
            state = last_token_;
        }
    });
    for (; seen < range.count; ++seen) states[seen] = absent;
    return last_token_;
}

bool GivenPages::settle(State token, std::uint64_t first, std::span<const State> claimed,
                        std::span<const PageDigest> digests) {
    const std::lock_guard lock(mutex_);
    bool untouched = true;
    last_token_ += 2;
    const PageRange range{first, digests.size()};
    std::uint64_t settled = 0;
    change(range, false, [&](State& state, std::uint64_t index) {
        if (claimed[index] == absent) return;
        if (state == token) {
            state = digests[index];
            ++settled;
        } else {
            state = last_token_;
            untouched = false;
        }
    });
    const auto wanted = static_cast<std::uint64_t>(
        std::count_if(claimed.begin(), claimed.end(), [](State state) { return state != absent; }));
    return untouched && settled == wanted && !lost_count_;
}

}  // namespace nosigbus
