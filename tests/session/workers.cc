#include "tests/session/workers.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "fs/current_request.h"
#include "fs/mount.h"
#include "fs/request_check.h"
#include "lib/fault_point.h"
#include "lib/former_workers.h"

namespace nosigbus::test {
namespace {

constexpr int notify_resend = 7;

bool has_died(pid_t worker) {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(worker), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == worker;
}

#ifdef NOSIGBUS_FAULT_POINTS
bool is_unanswered(const InboxSlot& slot) {
    fuse_in_header head{};
    std::memcpy(&head, slot.head.data(), sizeof head);
    return slot.id != 0 && head.len != 0 && head.opcode != FUSE_INIT && is_answered(head);
}
#endif

}  // namespace

Workers::Workers(const Options& options, const Offer& offer)
    : options_(options), keeps_requests_(options.keep_requests || (offer.flags & kernel::has_resend) == 0) {
    state_.lifeline().device = give_server_end();
    start_process(true);
    REQUIRE(init(offer).error == 0);
}

Workers::Workers(const std::string& init_body) : keeps_requests_(true) {  // it says nothing of asking again
    state_.lifeline().device = give_server_end();
    start_process(true);
    REQUIRE(call(FUSE_INIT, 0, init_body).error == 0);
}

Workers::~Workers() {
    hang_up();
    if (worker_ != 0) {
        int status = -1;
        const bool ended = soon([&] { return ::waitpid(worker_, &status, WNOHANG) == worker_; });
        if (!ended) {
            ::kill(worker_, SIGKILL);
            status_of(worker_);
        }
        CHECK_MESSAGE(status == 0, "it ends when the connection does");
    }
    ::close(state_.lifeline().device);
#ifdef NOSIGBUS_FAULT_POINTS
    static Fault none{};
    use_faults(none);
#endif
}

SharedState& Workers::state() {
    state_.look_at_slots();
    return state_;
}

// As Worker::serve. Nothing is destroyed, as when it dies.
void Workers::work(bool is_first) {
    Lifeline& line = state_.lifeline();
    state_.look_at_slots();
#ifdef NOSIGBUS_FAULT_POINTS
    use_faults(state_.fault());
#endif
    auto& fs = is_first ? left<FileSystem>(
                              state_, sys::open_at(AT_FDCWD, source_.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC),
                              options_)
                        : left<FileSystem>(state_, options_);
    static_cast<void>(fs.former_workers().are_gone());
    FormerWorkers::note_this_one(line);
    auto& session = left<Session>(make_session(session_arguments("/source", options_, false), fs));
    fs.use(session.get());
    Channel::attach(session.get(), fs, sys::check(::fcntl(line.device, F_DUPFD_CLOEXEC, 0), "fcntl"));
    if (!is_first) {
        fs.take_over();
        fs.channel().resume(session.get(), fs.unanswered(), true);
    }
    auto& threads = left<RequestThreads>(session.get(), fs.state(), fs.former_workers());
    fs.follow_changes();
    threads.start();
    line.serving = true;
    pollfd ended = {.fd = threads.ended_fd(), .events = POLLIN, .revents = 0};
    while (::poll(&ended, 1, -1) != 1) {
    }
    end_worker(0);
}

void Workers::start_process(bool is_first) {
    state_.lifeline().serving = false;
    worker_ = start_worker([this, is_first] { work(is_first); });
}

void Workers::kill() {
    ::kill(worker_, SIGKILL);
    wait_for_death();
}

void Workers::wait_for_death() {
    int status = 0;
    const bool died = soon([&] { return ::waitpid(worker_, &status, WNOHANG) == worker_; });
    if (!died) {
        ::kill(worker_, SIGKILL);
        status = status_of(worker_);
    }
    worker_ = 0;
    REQUIRE_MESSAGE(died, "the worker lives on");
    CHECK(was_killed(status));
}

void Workers::start() {
    take_notifications();
    start_process(false);
    if (!keeps_requests_) {
        // Whatever it sends, this comes first.
        const Message first = next_message();
        CHECK(first.unique == 0);
        CHECK(first.code == notify_resend);
    }
    // Where it is to die over what it asks itself, that may come first.
    CHECK(soon([this] { return state_.lifeline().serving.load() || has_died(worker_); }));
}

#ifdef NOSIGBUS_FAULT_POINTS
void Workers::let_die_at(const std::string& place, unsigned passes) {
    // Threads that begin take slots too, and would die of it while another is at any instruction.
    constexpr std::ptrdiff_t threads = 3;
    REQUIRE(soon([this] {
        const auto inboxes = state_.inboxes().taken();
        return std::ranges::count_if(inboxes, [](const InboxSlot& slot) { return slot.id != 0; }) >= threads;
    }));
    // Nor is it to die between an answer and the note that it was given: a kernel knows what it has the answer to, this
    // one's device takes all.
    REQUIRE(soon([this] {
        const auto inboxes = state_.inboxes().taken();
        return !keeps_requests_ || worker_ == 0 || std::ranges::none_of(inboxes, is_unanswered);
    }));
    use_faults(state_.fault());
    REQUIRE(ask_for_fault(place + " die " + std::to_string(passes)));
}
#endif

Sent Workers::ask(fuse_opcode opcode, std::uint64_t node, std::string body) {
    const std::uint64_t unique = send(opcode, node, body);
    return {.unique = unique, .opcode = opcode, .node = node, .body = std::move(body)};
}

void Workers::send_again(const Sent& sent) {
    if (keeps_requests_) return;
    send_as(sent.unique | asked_again_bit, sent.opcode, sent.node, sent.body);
}

Answer Workers::ask_again(const Sent& sent) {
    send_again(sent);
    return wait_for(keeps_requests_ ? sent.unique : sent.unique | asked_again_bit);
}

void Workers::ask_something_new() {
    CHECK(call(FUSE_GETATTR, FUSE_ROOT_ID, body(fuse_getattr_in{})).error == 0);
}

fuse_entry_out Workers::look_up(const std::string& name) {
    const Answer answer = call(FUSE_LOOKUP, FUSE_ROOT_ID, name_of(name));
    REQUIRE(answer.error == 0);
    return answer.as<fuse_entry_out>();
}

std::uint64_t Workers::open(std::uint64_t node, int flags) {
    fuse_open_in in{};
    in.flags = static_cast<std::uint32_t>(flags);
    const Answer answer = call(FUSE_OPEN, node, body(in));
    REQUIRE(answer.error == 0);
    return answer.as<fuse_open_out>().fh;
}

Answer Workers::read(std::uint64_t node, std::uint64_t handle, std::uint32_t size) {
    fuse_read_in in{};
    in.fh = handle;
    in.size = size;
    return call(FUSE_READ, node, body(in));
}

std::string write_body(std::uint64_t handle, const std::string& bytes, int flags) {
    fuse_write_in in{};
    in.fh = handle;
    in.size = static_cast<std::uint32_t>(bytes.size());
    in.flags = static_cast<std::uint32_t>(flags);
    // The kernel reckons an append from the view's end.
    if ((flags & O_APPEND) != 0) in.offset = std::uint64_t{1} << 40;
    return body(in) + bytes;
}

Answer Workers::write(std::uint64_t node, std::uint64_t handle, const std::string& bytes, int flags) {
    return call(FUSE_WRITE, node, write_body(handle, bytes, flags));
}

int Workers::get_attributes(std::uint64_t node) {
    return call(FUSE_GETATTR, node, body(fuse_getattr_in{})).error;
}

void Workers::forget(std::uint64_t node, std::uint64_t lookups) {
    const fuse_forget_in in{.nlookup = lookups};
    send(FUSE_FORGET, node, body(in));
}

}  // namespace nosigbus::test
