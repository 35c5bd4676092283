// Several threads for one job.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nosigbus {

// Runs a job in parts on several threads. A thread that finds no processor free takes none, and is not waited for. Its
// own methods are for one thread.
class Crew {
  public:
    // For work on memory. More of them gain little: the memory is as busy.
    static unsigned enough_helpers();
    // So many pages are worth sharing: they take half a millisecond.
    static constexpr std::size_t worth_sharing = 1024;

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

    // Returns when all parts are done. Waits for what others have begun as for the source's file system, see Parked.
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

}  // namespace nosigbus
