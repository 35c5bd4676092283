#include "fs/request_threads.h"

#include <linux/fuse.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <system_error>
#include <utility>

#include "fs/current_request.h"
#include "fs/inbox.h"
#include "lib/fault_point.h"
#include "lib/log.h"
#include "lib/pulse.h"
#include "lib/spare_memory.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// A READ for a page does nothing but pread, and what the kernel wants no answer for does less.
bool is_answered_without_waiting(const fuse_buf& buffer) {
    fuse_in_header header{};
    if (buffer.size < sizeof header) return true;  // libfuse turns it down
    std::memcpy(&header, buffer.mem, sizeof header);
    switch (header.opcode) {
        case FUSE_READ: {
            fuse_read_in read{};
            if (buffer.size < sizeof header + sizeof read) return true;
            std::memcpy(&read, static_cast<const char*>(buffer.mem) + sizeof header, sizeof read);
            return (read.read_flags & FUSE_READ_LOCKOWNER) == 0;
        }
        case FUSE_WRITE: {  // a page written back, see store_within
            fuse_write_in write{};
            if (buffer.size < sizeof header + sizeof write) return true;
            std::memcpy(&write, static_cast<const char*>(buffer.mem) + sizeof header, sizeof write);
            return (write.write_flags & FUSE_WRITE_CACHE) != 0;
        }
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
        case FUSE_INIT:
            return true;
        default:
            return false;
    }
}

}  // namespace

void RequestThreads::FreeMemory::operator()(void* memory) const {
    std::free(memory);  // NOLINT(*-no-malloc,*-owning-memory): libfuse made it with malloc
}

RequestThreads::RequestThreads(fuse_session* session, SharedState& state, FormerWorkers& former)
    : session_(session),
      state_(state),
      former_(former),
      ended_(sys::check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {}

RequestThreads::~RequestThreads() {
    std::unique_lock lock(mutex_);
    while (!threads_.empty() || !finished_.empty()) {
        if (finished_.empty()) {
            lock.unlock();
            pollfd ended = {.fd = ended_.get(), .events = POLLIN, .revents = 0};
            ::poll(&ended, 1, -1);
            lock.lock();
        }
        for (std::thread& thread : finished_) thread.join();
        finished_.clear();
    }
}

void RequestThreads::start() {
    const std::lock_guard lock(mutex_);
    add_thread();
    try {
        while (reading_ < initial) add_thread();
    } catch (const std::system_error& failure) {
        log::warning("fewer threads than wanted: {}", failure.what());
    }
}

void RequestThreads::add_thread() {
    // Their last act was to put themselves there, under the lock that we hold.
    for (std::thread& thread : finished_) thread.join();
    finished_.clear();
    const auto self = threads_.emplace(threads_.end());
    try {
        *self = std::thread([this, self] { serve(self); });
    } catch (...) {
        threads_.erase(self);
        throw;
    }
    ++reading_;
}

// Returns whether there is still a kernel at the other end.
bool RequestThreads::serve_requests() {
    std::optional<Inbox> inbox;
    try {
        inbox.emplace(state_);
    } catch (const std::system_error&) {
        // None left: a forget may be lost, should this worker die.
    }
    Request request;
    SpareMemory::of_this_thread().keep();
    prepare_pulse();
    for (;;) {
        if (!receive(request)) return false;
        if (is_answered_without_waiting(request.buffer)) {
            process(request);
            continue;
        }
        if (!leave_a_reader(request)) continue;
        Next next = Next::backlog;
        while (next == Next::backlog) {
            process(request);
            next = what_next(request);
        }
        if (next == Next::end) return true;
    }
}

void RequestThreads::serve(std::list<std::thread>::iterator self) {
    const bool connected = serve_requests();
    const std::lock_guard lock(mutex_);
    if (!connected) --reading_;
    finished_.splice(finished_.end(), threads_, self);
    if (threads_.empty()) ::eventfd_write(ended_.get(), 1);
}

// Returns whether there is still a kernel at the other end.
bool RequestThreads::receive(Request& request) {
    for (;;) {
        request.buffer.mem = request.memory.get();
        const int result = fuse_session_receive_buf(session_, &request.buffer);
        if (request.buffer.mem != request.memory.get()) request.memory.reset(request.buffer.mem);
        if (result > 0) return true;
        if (result == 0 || fuse_session_exited(session_) != 0) return false;
        if (result == -EINTR || result == -EAGAIN) continue;
        if (result != -ENOMEM) {
            log::error("cannot read requests: {}", std::strerror(-result));
            fuse_session_exit(session_);
            return false;
        }
        // No buffer now; the request waits in the kernel until there is one.
        constexpr int pause_ms = 10;
        ::poll(nullptr, 0, pause_ms);
    }
}

void RequestThreads::process(Request& request) {
    current_request() = request_in(request.buffer);
    const char* const name = name_of_operation(current_request().opcode);
    const AtWork at_work(name);
    if (current_request().asked_again && !is_answered_without_waiting(request.buffer)) former_.wait();
    fault_point("request.", name);
    fuse_session_process_buf(session_, &request.buffer);
    while (std::exchange(current_request().no_memory, false)) {
        SpareMemory::of_this_thread().give_up();
        constexpr int pause_ms = 1;  // somebody else may have been faster
        ::poll(nullptr, 0, pause_ms);
        fuse_session_process_buf(session_, &request.buffer);
    }
    SpareMemory::of_this_thread().keep();
    fault_point("processed.", name);
    current_request() = {};
}

// Adds a thread, if there may and can be one more. With the lock held.
bool RequestThreads::can_add_thread() {
    if (threads_.size() >= at_most) return false;
    try {
        add_thread();
        return true;
    } catch (const std::exception& failure) {
        const auto now = std::chrono::steady_clock::now();
        if (now >= next_complaint_) {
            log::error("no further thread for requests: {}", failure.what());
            next_complaint_ = now + std::chrono::seconds(1);
        }
        return false;
    }
}

// Called by a reading thread before it does what may wait. Returns false where it is the last reader and there may be
// no more threads: then the request stands in the backlog, and the thread goes on reading.
bool RequestThreads::leave_a_reader(Request& request) {
    const std::lock_guard lock(mutex_);
    if (reading_ == 1 && !can_add_thread()) {
        try {
            if (threads_.size() > 1) {
                backlog_.push_back(std::move(request));
                request = {};
                return false;
            }
        } catch (const std::bad_alloc&) {
            // This request is done here and now, and the others wait.
        }
    }
    --reading_;
    return true;
}

// What a thread does that has finished what may wait: decided and counted at once, so that no request is left in the
// backlog while a thread goes to read.
RequestThreads::Next RequestThreads::what_next(Request& request) {
    const std::lock_guard lock(mutex_);
    if (!backlog_.empty()) {
        request = std::move(backlog_.front());
        backlog_.pop_front();
        return Next::backlog;
    }
    if (reading_ >= idle_at_most) return Next::end;
    ++reading_;
    return Next::read;
}

}  // namespace nosigbus
