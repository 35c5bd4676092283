#include "lib/page_compare.h"

#include <algorithm>
#include <array>
#include <system_error>

#include "lib/backing_file.h"
#include "lib/log.h"

namespace nosigbus {

bool is_read(const PaddedRead& read, std::size_t page) {
    return read.error == 0 || (page + 1) * page_size() <= read.real_bytes;
}

Crew::Crew(unsigned helpers) {
    threads_.reserve(helpers);
    try {
        for (unsigned i = 0; i < helpers; ++i) threads_.emplace_back([this, i] { help(i + 1); });
    } catch (const std::system_error& failure) {
        log::warning("fewer threads than wanted: {}", failure.what());
    }
}

Crew::~Crew() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    begun_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void Crew::run(std::size_t parts, const Job& job) {
    std::unique_lock lock(mutex_);
    job_ = &job;
    next_ = 0;
    parts_ = parts;
    begun_.notify_all();
    take_parts(0, lock);
    done_.wait(lock, [this] { return under_way_ == 0; });
    job_ = nullptr;
}

// With the lock held, but not during a part.
void Crew::take_parts(unsigned who, std::unique_lock<std::mutex>& lock) {
    while (next_ < parts_) {
        const std::size_t part = next_++;
        const Job& job = *job_;
        ++under_way_;
        lock.unlock();
        job(part, who);
        lock.lock();
        if (--under_way_ == 0) done_.notify_one();
    }
}

void Crew::help(unsigned who) {
    std::unique_lock lock(mutex_);
    for (;;) {
        begun_.wait(lock, [this] { return stopping_ || next_ < parts_; });
        if (stopping_) return;
        take_parts(who, lock);
    }
}

PageCompare::PageCompare(const PageDigester& digester)
    : digester_(digester),
      crew_(std::clamp(std::thread::hardware_concurrency(), 1U, most_threads) - 1),
      windows_(crew_.size() * window_pages * page_size()) {}

void PageCompare::compare(int fd, std::uint64_t first, std::span<const GivenPages::State> states,
                          std::span<bool> differs) {
    const std::size_t window = window_pages * page_size();
    const auto do_part = [&](std::size_t from, std::size_t count, unsigned who) {
        compare_part(fd, first + from, states.subspan(from, count), differs.subspan(from, count),
                     std::span(windows_).subspan(who * window, window));
    };
    if (states.size() < worth_sharing) return do_part(0, states.size(), 0);
    crew_.run((states.size() + part_pages - 1) / part_pages, [&](std::size_t part, unsigned who) {
        const std::size_t from = part * part_pages;
        do_part(from, std::min(part_pages, states.size() - from), who);
    });
}

void PageCompare::compare_part(int fd, std::uint64_t first, std::span<const GivenPages::State> states,
                               std::span<bool> differs, std::span<std::byte> window) const {
    std::array<PageDigest, window_pages> digests{};
    std::size_t i = 0;
    while (i < states.size()) {
        if (states[i] == GivenPages::absent || GivenPages::is_unknown(states[i])) {
            differs[i] = states[i] != GivenPages::absent;
            ++i;
            continue;
        }
        std::size_t count = 1;
        while (count < window_pages && i + count < states.size() && states[i + count] != GivenPages::absent) ++count;
        const auto bytes = window.first(count * page_size());
        const PaddedRead read = read_padded(fd, bytes, static_cast<off_t>((first + i) * page_size()));
        const auto now = digester_.digest(bytes, read.real_bytes, digests);
        for (std::size_t k = 0; k < count; ++k) differs[i + k] = !is_read(read, k) || states[i + k] != now[k];
        i += count;
    }
}

}  // namespace nosigbus
