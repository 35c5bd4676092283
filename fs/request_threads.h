// The threads that take requests from the kernel. While requests wait for the source's file system (a WRITE, say, for a
// lock that its writer holds), one thread is always left to take READs: a fault never waits behind them, which could be
// for ever.
#pragma once

#include <fuse_lowlevel.h>
#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "lib/former_workers.h"
#include "lib/page_digest.h"
#include "lib/shared_state.h"
#include "lib/unique_fd.h"

namespace nosigbus {

// The largest READ that we ask the kernel for, in bytes.
inline constexpr std::size_t max_read = std::size_t{1} << 20;
// For the digests of its pages: no kernel has smaller ones.
using ReadDigests = std::array<PageDigest, max_read / 4096>;

// Has `request` answered, on this thread or later: by its handler, or without one where it is malformed. It is changed
// where libfuse would not understand it. What the kernel asks again waits for `former`.
void process_request(fuse_session* session, const SharedState& state, FormerWorkers& former, fuse_buf request);

class RequestThreads {
  public:
    // So many threads may be at work on one user's requests that may wait. Further ones of his stand in the backlog,
    // and four users have to conspire before another one's do. Root is a user like others: what waits does so for the
    // source, whoever asked, and a program of root's, in a container perhaps, deserves no more trust. (What the kernel
    // asks of its own accord, RELEASE above all, comes as root's; nobody waits for the answer.)
    static constexpr unsigned share = 32;
    // So many more for his requests to files whose file system may never answer, which he may have been handed by an
    // enemy: they hold up one another only.
    static constexpr unsigned slow_share = 8;

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
    // Whose requests wait for one another.
    struct Client {
        uid_t user;
        bool is_slow;  // the requests are for slow nodes, see NodeAccess

        bool operator==(const Client&) const = default;
    };
    struct Thread {
        std::thread thread{};
        enum class Start { waiting, done, failed };
        std::atomic<Start> start{Start::waiting};
        std::optional<Client> works_for{};  // while it is at work on a request that may wait
    };
    using Threads = std::list<Thread>;
    // One client's requests, copied: a buffer that can hold any is a megabyte.
    struct Waiting {
        Client client;
        std::deque<std::vector<std::byte>> requests;  // at least one
    };

    void add_thread();  // with the lock held. Throws std::system_error or std::bad_alloc
    void join_finished();
    void serve(Threads::iterator self);
    bool serve_requests(Thread& self);
    bool receive(Request& request);
    bool leave_a_reader(Thread& self, const fuse_buf& request);
    bool can_add_thread();
    [[nodiscard]] Client client_of(const fuse_buf& request) const;
    [[nodiscard]] bool has_his_share(const Client& client) const;
    void put_off(const Client& client, const fuse_buf& request);
    enum class Next { backlog, read, end };
    Next what_next(Thread& self, std::vector<std::byte>& request);

    fuse_session* session_;
    SharedState& state_;
    FormerWorkers& former_;
    UniqueFd ended_;  // eventfd
    std::mutex mutex_;
    unsigned reading_ = 0;  // threads that take requests now or will right after a READ
    std::chrono::steady_clock::time_point next_complaint_;
    Threads threads_;
    Threads finished_;
    // Requests that may wait, while every thread but the last reader does, or as many as their user may have.
    std::list<Waiting> backlog_;
};

}  // namespace nosigbus
