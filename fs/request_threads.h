// The threads that take requests from the kernel. While requests wait for the source's file system (a WRITE, say, for a
// lock that its writer holds), one thread is always left to take READs: a fault never waits behind them, which could be
// for ever.
#pragma once

#include <fuse_lowlevel.h>

#include <chrono>
#include <cstddef>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "lib/former_workers.h"
#include "lib/shared_state.h"
#include "lib/unique_fd.h"

namespace nosigbus {

// The largest READ that we ask the kernel for, in bytes.
inline constexpr std::size_t max_read = std::size_t{1} << 20;

class RequestThreads {
  public:
    // All are the caller's and outlive the threads. What the kernel asks again waits for `former`: a thread of theirs
    // may still be doing the same. Throws std::system_error.
    RequestThreads(fuse_session* session, SharedState& state, FormerWorkers& former);
    RequestThreads(const RequestThreads&) = delete;
    RequestThreads& operator=(const RequestThreads&) = delete;
    // Waits until the kernel has ended the connection and with it every thread.
    ~RequestThreads();

    // Throws std::system_error when not even one thread can be had.
    void start();

    // Becomes readable when the connection has ended and with it the last thread.
    [[nodiscard]] int ended_fd() const { return ended_.get(); }

  private:
    static constexpr unsigned initial = 3;
    static constexpr unsigned idle_at_most = 4;
    static constexpr unsigned at_most = 128;

    struct FreeMemory {
        void operator()(void* memory) const;
    };
    struct Request {
        std::unique_ptr<void, FreeMemory> memory;
        fuse_buf buffer{};
    };

    void add_thread();  // with the lock held
    void serve(std::list<std::thread>::iterator self);
    bool serve_requests();
    bool receive(Request& request);
    void process(Request& request);
    bool leave_a_reader(Request& request);
    bool can_add_thread();
    enum class Next { backlog, read, end };
    Next what_next(Request& request);

    fuse_session* session_;
    SharedState& state_;
    FormerWorkers& former_;
    UniqueFd ended_;  // eventfd
    std::mutex mutex_;
    unsigned reading_ = 0;  // threads that take requests now or will right after a READ
    std::chrono::steady_clock::time_point next_complaint_;
    std::list<std::thread> threads_;
    std::list<std::thread> finished_;
    std::deque<Request> backlog_;  // requests that may wait, while every thread but the last reader does
};

}  // namespace nosigbus
