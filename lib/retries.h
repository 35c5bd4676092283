// Tries things again and again that cannot be done yet, so that no request thread waits for them: an open of a file
// that somebody holds a lease on (fcntl(2), F_SETLEASE), for up to /proc/sys/fs/lease-break-time.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

namespace nosigbus {

class Retries {
  public:
    static constexpr std::chrono::milliseconds interval{10};

    // Says whether it is done, and is not called again then. Never throws.
    using Attempt = std::function<bool()>;

    Retries() = default;
    Retries(const Retries&) = delete;
    Retries& operator=(const Retries&) = delete;
    ~Retries() { stop(); }

    // `attempt` is called on a thread of this object until it is done. Throws std::bad_alloc, or std::system_error
    // where there is no thread.
    void add(Attempt attempt);

    // What is not done is destroyed.
    void stop();

  private:
    void run();

    std::mutex mutex_;
    std::condition_variable woken_;
    std::list<Attempt> attempts_;
    bool stopping_ = false;
    std::thread thread_;  // from the first attempt on
};

}  // namespace nosigbus
