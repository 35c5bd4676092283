// Compares pages that the kernel was given with the file.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "lib/backing_file.h"
#include "lib/given_pages.h"
#include "lib/page_digest.h"

namespace nosigbus {

// Whether what `read` gave for its page number `page` is what a load shows, and not zeros for want of anything better.
bool is_read(const PaddedRead& read, std::size_t page);

// Runs a job in parts on several threads. A thread that finds no processor free takes none, and is not waited for. Its
// own methods are for one thread.
class Crew {
  public:
    // job(part, who): parts are done once each, `who` is below size(), and no two at the same time have the same. Does
    // not throw.
    using Job = std::function<void(std::size_t part, unsigned who)>;

    // Starts `helpers` threads, or as many as can be had.
    explicit Crew(unsigned helpers);
    Crew(const Crew&) = delete;
    Crew& operator=(const Crew&) = delete;
    ~Crew();

    // The helpers and the caller.
    [[nodiscard]] unsigned size() const { return static_cast<unsigned>(threads_.size()) + 1; }

    // Returns when all parts are done.
    void run(std::size_t parts, const Job& job);

  private:
    void help(unsigned who);
    void take_parts(unsigned who, std::unique_lock<std::mutex>& lock);

    std::mutex mutex_;
    std::condition_variable begun_;
    std::condition_variable done_;
    const Job* job_ = nullptr;
    std::size_t next_ = 0;
    std::size_t parts_ = 0;
    std::size_t under_way_ = 0;
    bool stopping_ = false;
    std::vector<std::thread> threads_;
};

// For one thread.
class PageCompare {
  public:
    // Its helpers only read. More of them than this gain little: the memory is as busy.
    static constexpr unsigned most_threads = 4;
    // So many pages are worth sharing: they take half a millisecond.
    static constexpr std::size_t worth_sharing = 1024;

    explicit PageCompare(const PageDigester& digester);

    // Sets differs[i] to whether page first + i, of which the kernel has states[i], is not what the file `fd` has now:
    // not for an absent one, and always for one that is unknown or cannot be read.
    void compare(int fd, std::uint64_t first, std::span<const GivenPages::State> states, std::span<bool> differs);

  private:
    static constexpr std::size_t window_pages = 16;  // stays in the processor's cache
    static constexpr std::size_t part_pages = 128;   // some 60 us

    void compare_part(int fd, std::uint64_t first, std::span<const GivenPages::State> states, std::span<bool> differs,
                      std::span<std::byte> window) const;

    const PageDigester& digester_;
    Crew crew_;
    std::vector<std::byte> windows_;
};

}  // namespace nosigbus
