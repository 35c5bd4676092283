// Work on files whose file system may never answer: a program can be handed a descriptor of a FUSE file system that its
// sender serves, or does not. Threads of their own do it, a few for all of it and fewer for each file system, and who
// waits for a page is answered in their place when it takes too long.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
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

    // What destroys it may wait. Where there is no memory for that, a descriptor stays open.
    void close(UniqueFd descriptor) noexcept;
    void close(OpenFilePtr file) noexcept;
    // The same for what `user` has brought.
    void close(UniqueFd descriptor, uid_t user) noexcept;

    // Each descriptor that cannot be closed is one less for all others. Whether so many of this user's cannot that no
    // more is to be taken of him.
    [[nodiscard]] bool has_too_many(uid_t user);
    // Whether no more is to be taken that is on this file system.
    [[nodiscard]] bool has_too_many_on(std::uint64_t device);

    // Answers all that waits, late, and ends the threads. Returns false where one is held up: then nothing that it
    // works with may be destroyed.
    [[nodiscard]] bool stop();

  private:
    using Clock = std::chrono::steady_clock;

    struct Job {
        std::uint64_t device;
        std::optional<uid_t> user;  // on whose account it is
        NodePtr node;               // null where nobody waits
        Reply reply;
        std::function<Give()> work;
        Give late;
        Clock::time_point deadline;
        bool has_begun = false;
        bool was_late = false;
        bool is_held_up = false;  // it had begun by then
    };
    using JobPtr = std::shared_ptr<Job>;

    // Not counting those that are held up.
    static constexpr unsigned threads_at_work_at_most = 16;
    static constexpr unsigned threads_at_most = 256;
    static constexpr unsigned threads_for_device = 4;

    void add(const JobPtr& job);
    static constexpr unsigned closing_for_user = 64;
    static constexpr unsigned closing_on_device = 64;
    static constexpr unsigned closing_at_most = 1024;

    void dispose(std::uint64_t device, std::optional<uid_t> user, std::function<void()> work);
    void close_for(UniqueFd descriptor, std::optional<uid_t> user) noexcept;
    void count_closing(const Job& job, int change);
    [[nodiscard]] bool may_add_thread() const;
    void help() noexcept;
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
    std::unordered_map<std::uint64_t, unsigned> closing_;  // likewise: how much is to be closed
    std::unordered_map<uid_t, unsigned> closing_for_;      // by user
    unsigned all_closing_ = 0;
    std::list<std::thread> threads_;
    unsigned held_up_ = 0;  // of them
    std::thread watcher_;
    unsigned idle_ = 0;
    unsigned alive_ = 0;
    bool stopping_ = false;
};

}  // namespace nosigbus
