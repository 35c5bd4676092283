// Work on files whose file system may never answer: a program can be handed a descriptor of a FUSE file system that its
// sender serves, or does not. Threads of their own do it, a few for all of it and fewer for each file system, and who
// waits for a page is answered in their place when it takes too long.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "fs/reply.h"
#include "lib/node_table.h"
#include "lib/open_files.h"
#include "lib/unique_fd.h"

namespace nosigbus {

class SlowWork {
  public:
    static constexpr std::chrono::milliseconds patience{2000};

    using Give = std::function<void(Reply&)>;

    // `caught_up` is called on one of the threads when work that was answered late has been done after all.
    explicit SlowWork(std::function<void(const NodePtr&)> caught_up) : caught_up_(std::move(caught_up)) {}
    SlowWork(const SlowWork&) = delete;
    SlowWork& operator=(const SlowWork&) = delete;
    ~SlowWork();

    // `work` returns what gives the reply; `late` gives it when that takes longer than `patience`, and at once while
    // other work on that file system does. Throws std::bad_alloc, or std::system_error where there is not one thread;
    // `reply` is the caller's then.
    void run(const NodePtr& node, Reply& reply, std::function<Give()> work, Give late);

    // `work` as run() takes it, where an error is the caller's to hear.
    static std::function<Give()> telling_errors(std::function<Give()> work);

    // What destroys it may wait.
    void close(UniqueFd descriptor) noexcept;
    void close(OpenFilePtr file) noexcept;

    // Answers all that waits, late, and ends the threads. Returns false where one is held up: then nothing that it
    // works with may be destroyed.
    [[nodiscard]] bool stop();

  private:
    using Clock = std::chrono::steady_clock;

    struct Job {
        std::uint64_t device;
        NodePtr node;  // null where nobody waits
        Reply reply;
        std::function<Give()> work;
        Give late;
        Clock::time_point deadline;
        bool was_late = false;
    };
    using JobPtr = std::shared_ptr<Job>;

    static constexpr unsigned threads_at_most = 32;
    static constexpr unsigned threads_for_device = 4;

    void add(const JobPtr& job);
    void dispose(std::uint64_t device, std::function<void()> work);
    std::deque<JobPtr>::iterator next_job();
    void serve();
    void do_next(std::unique_lock<std::mutex>& lock);
    void watch();
    void answer_late(Job& job);

    const std::function<void(const NodePtr&)> caught_up_;
    std::mutex mutex_;
    std::condition_variable added_;
    std::condition_variable watched_;
    std::condition_variable ended_;
    std::deque<JobPtr> queue_;
    std::list<JobPtr> waited_for_;                         // in the order of their deadlines
    std::unordered_map<std::uint64_t, unsigned> running_;  // by device: how many threads are at work on it
    std::unordered_map<std::uint64_t, unsigned> stuck_;    // likewise: how much was answered late and is not done
    std::list<std::thread> threads_;
    std::thread watcher_;
    unsigned idle_ = 0;
    unsigned alive_ = 0;
    bool stopping_ = false;
};

}  // namespace nosigbus
