// A served directory whose workers can die: each serves in a process of its own that shares our descriptors, and the
// test plays the kernel and the supervisor.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>

#include "lib/shared_state.h"
#include "tests/session/fake_kernel.h"
#include "tests/unit/temporary.h"
#include "tests/unit/workers.h"

namespace nosigbus::test {

// A request as it was sent, to be sent again.
struct Sent {
    std::uint64_t unique;
    fuse_opcode opcode;
    std::uint64_t node;
    std::string body;
};

class Workers : public Wire {
  public:
    // The first worker serves. Where `offer` has no HAS_RESEND, workers ask again themselves.
    explicit Workers(const Options& options = {}, const Offer& offer = {});
    // With an INIT request of one's own.
    explicit Workers(const std::string& init_body);
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;
    ~Workers();

    [[nodiscard]] std::string file(const std::string& name) const { return source_.file(name); }
    [[nodiscard]] const TemporaryDirectory& source() const { return source_; }
    // What the workers left, for who looks at it from outside.
    SharedState& state();

    // Ends the worker, with whatever it is at.
    void kill();
    // Waits for the worker to die by itself.
    void wait_for_death();
    // Starts the next. It asks for what has not been answered as its first act; that is checked, where the kernel can
    // be asked.
    void start();
    void replace() {
        kill();
        start();
    }

#ifdef NOSIGBUS_FAULT_POINTS
    // The worker, or a later one, will die at that place, when it has come by so often.
    void let_die_at(const std::string& place, unsigned passes = 0);
#endif

    Sent ask(fuse_opcode opcode, std::uint64_t node, std::string body);
    // Asks again what was not answered, and returns the answer. Where requests are kept the worker does that itself.
    Answer ask_again(const Sent& sent);
    void send_again(const Sent& sent);
    // Sends a request that is new, and with it tells the worker that nothing more is asked again.
    void ask_something_new();

    // LOOKUP of a name in the root, which must be there.
    fuse_entry_out look_up(const std::string& name);
    std::uint64_t open(std::uint64_t node, int flags);
    Answer read(std::uint64_t node, std::uint64_t handle, std::uint32_t size);
    Answer write(std::uint64_t node, std::uint64_t handle, const std::string& bytes, int flags);
    // The errno of GETATTR: ESTALE for an id that means nothing any more.
    int get_attributes(std::uint64_t node);
    void forget(std::uint64_t node, std::uint64_t lookups);

  private:
    [[noreturn]] void work(bool is_first);
    void start_process(bool is_first);

    NoStrays no_strays_;
    TemporaryDirectory source_;
    Options options_;
    bool keeps_requests_;
    SharedState state_;
    pid_t worker_ = 0;
};

// The body of WRITE.
std::string write_body(std::uint64_t handle, const std::string& bytes, int flags);

// Asks again and again until the answer is yes.
template <typename Question>
bool soon(Question question) {
    for (int i = 0; i < 10'000; ++i) {
        if (question()) return true;
        ::usleep(1000);
    }
    return false;
}

}  // namespace nosigbus::test
