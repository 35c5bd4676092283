#include "fs/request_threads.h"

#include <linux/fuse.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include "fs/current_request.h"
#include "fs/inbox.h"
#include "fs/libfuse.h"
#include "fs/newer_requests.h"
#include "fs/request_check.h"
#include "lib/credentials.h"
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

// Returns whether this thread has what it will need, where nothing else is left by then.
bool prepare_thread() noexcept {
    // To note what is to be destroyed with a thread takes memory, and the process ends where there is none
    // (__cxa_thread_atexit_impl): so there has to be some, of the arena that this thread uses (malloc(3)).
    constexpr std::size_t size = 4096;
    void* const some = std::malloc(size);  // NOLINT(*-no-malloc,*-owning-memory): new and delete may be left out
    if (some == nullptr) return false;
    *static_cast<volatile std::byte*>(some) = std::byte{0};
    std::free(some);  // NOLINT(*-no-malloc,*-owning-memory)
    try {
        SpareMemory::of_this_thread().keep();
        prepare_pulse();
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

// Again and again, where it must not fail and there is no memory, see Channel::write.
void call_handler(fuse_session* session, const fuse_buf& request) {
    fuse_session_process_buf(session, &request);
    while (std::exchange(current_request().no_memory, false)) {
        SpareMemory::of_this_thread().give_up();
        constexpr int pause_ms = 1;  // somebody else may have been faster
        ::poll(nullptr, 0, pause_ms);
        fuse_session_process_buf(session, &request);
    }
    SpareMemory::of_this_thread().keep();
}

}  // namespace

void process_request(fuse_session* session, const SharedState& state, FormerWorkers& former, fuse_buf request) {
    current_request() = request_in(request);
    const char* const name = name_of_operation(current_request().opcode);
    const AtWork at_work(name);
    if (current_request().asked_again && !is_answered_without_waiting(request)) former.wait();
    fault_point("request.", name);
    const std::span bytes(static_cast<const std::byte*>(request.mem), request.size);
    if (is_well_formed(bytes, state.accepted_flags())) {
        put_in_older_words(request, state.accepted_flags(), current_request());
        call_handler(session, request);
    } else {
        turn_down(bytes, fuse_session_fd(session));
    }
    fault_point("processed.", name);
    current_request() = {};
}

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
        join_finished();
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

// Their last act was to put themselves there, under the lock that we hold.
void RequestThreads::join_finished() {
    for (Thread& finished : finished_) finished.thread.join();
    finished_.clear();
}

void RequestThreads::add_thread() {
    join_finished();
    const auto self = threads_.emplace(threads_.end());
    try {
        self->thread = std::thread([this, self] { serve(self); });
        self->start.wait(Thread::Start::waiting);
        if (self->start == Thread::Start::failed) {
            self->thread.join();
            throw std::bad_alloc();
        }
    } catch (...) {
        threads_.erase(self);
        throw;
    }
    ++reading_;
}

// Returns whether there is still a kernel at the other end.
bool RequestThreads::serve_requests(Thread& self) {
    std::optional<Inbox> inbox;
    try {
        inbox.emplace(state_);
    } catch (const std::system_error&) {
        // None left: a forget may be lost, should this worker die.
    }
    Request request;
    for (;;) {
        if (!receive(request)) return false;
        if (is_answered_without_waiting(request.buffer)) {
            process_request(session_, state_, former_, request.buffer);
            continue;
        }
        if (!leave_a_reader(self, request.buffer)) continue;
        process_request(session_, state_, former_, request.buffer);
        std::vector<std::byte> late;
        Next next = what_next(self, late);
        while (next == Next::backlog) {
            fuse_buf buffer{};
            buffer.mem = late.data();
            buffer.size = late.size();
            process_request(session_, state_, former_, buffer);
            next = what_next(self, late);
        }
        if (next == Next::end) return true;
    }
}

void RequestThreads::serve(Threads::iterator self) {
    const bool is_prepared = prepare_thread();
    self->start = is_prepared ? Thread::Start::done : Thread::Start::failed;
    self->start.notify_one();
    if (!is_prepared) return;
    // With the umask comes a working directory of its own, which must not keep a file system busy.
    if (have_own_umask() && ::chdir("/") != 0) log::warning("chdir /: {}", std::strerror(errno));
    const bool connected = serve_requests(*self);
    const std::lock_guard lock(mutex_);
    if (!connected) --reading_;
    finished_.splice(finished_.end(), threads_, self);
    if (threads_.empty()) ::eventfd_write(ended_.get(), 1);
}

// Returns whether there is still a kernel at the other end.
bool RequestThreads::receive(Request& request) {
    for (;;) {
        request.buffer.mem = request.memory.get();
        const int result = libfuse::receive(session_, request.buffer);
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

RequestThreads::Client RequestThreads::client_of(const fuse_buf& request) const {
    fuse_in_header header{};
    std::memcpy(&header, request.mem, sizeof header);
    const NodeSlot* const slot = state_.nodes().find(header.nodeid);
    return {header.uid, slot != nullptr && slot->id == header.nodeid && slot->access.is_slow};
}

// With the lock held.
bool RequestThreads::has_his_share(const Client& client) const {
    const auto threads = std::ranges::count(threads_, std::optional(client), &Thread::works_for);
    return std::cmp_greater_equal(threads, client.is_slow ? slow_share : share);
}

// Adds a copy to the backlog. Throws std::bad_alloc. With the lock held.
void RequestThreads::put_off(const Client& client, const fuse_buf& request) {
    const auto* const start = static_cast<const std::byte*>(request.mem);
    std::vector<std::byte> copy(start, start + request.size);
    auto waiting = std::ranges::find(backlog_, client, &Waiting::client);
    if (waiting == backlog_.end()) waiting = backlog_.insert(waiting, {client, {}});
    try {
        waiting->requests.push_back(std::move(copy));
    } catch (const std::bad_alloc&) {
        if (waiting->requests.empty()) backlog_.erase(waiting);
        throw;
    }
}

// Called by a reading thread before it does what may wait. Returns false where the user has his share of threads, or
// where it is the last reader and there may be no more threads: then the request stands in the backlog, and the thread
// goes on reading.
bool RequestThreads::leave_a_reader(Thread& self, const fuse_buf& request) {
    const Client client = client_of(request);
    const std::lock_guard lock(mutex_);
    if (has_his_share(client) || (reading_ == 1 && !can_add_thread())) {
        // Somebody has to be at work who sees to it afterwards.
        const bool anybody = std::ranges::any_of(threads_, [](const Thread& each) { return !!each.works_for; });
        try {
            if (anybody) {
                put_off(client, request);
                return false;
            }
        } catch (const std::bad_alloc&) {
            // This request is done here and now, and the others wait.
        }
    }
    --reading_;
    self.works_for = client;
    return true;
}

// What a thread does that has finished what may wait: the next request from the backlog whose user has not his share of
// threads, all users in turn. Decided and counted at once, so that no thread goes to read, or ends, while there is one.
RequestThreads::Next RequestThreads::what_next(Thread& self, std::vector<std::byte>& request) {
    const std::lock_guard lock(mutex_);
    self.works_for.reset();
    const auto next =
        std::ranges::find_if(backlog_, [this](const Waiting& waiting) { return !has_his_share(waiting.client); });
    if (next != backlog_.end()) {
        self.works_for = next->client;
        request = std::move(next->requests.front());
        next->requests.pop_front();
        backlog_.splice(backlog_.end(), backlog_, next);
        if (next->requests.empty()) backlog_.erase(next);
        return Next::backlog;
    }
    if (reading_ >= idle_at_most) return Next::end;
    ++reading_;
    return Next::read;
}

}  // namespace nosigbus
