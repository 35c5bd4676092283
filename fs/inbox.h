// Where a thread's requests arrive, so that they outlive it. The kernel sends a forget once and wants no answer: one
// that a worker had read when it died would leave its node known for ever, and with it a descriptor. Before Linux 6.9
// that goes for all else: KeptRequests.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>

#include "fs/kept_requests.h"
#include "lib/shared_state.h"

namespace nosigbus {

// One thread's, while it lives.
class Inbox {
  public:
    // Throws std::system_error ENFILE.
    explicit Inbox(SharedState& state);
    Inbox(const Inbox&) = delete;
    Inbox& operator=(const Inbox&) = delete;
    ~Inbox();

    // That of this thread; null where it has none.
    static Inbox* of_this_thread();

    // read(2) of /dev/fuse into `buffer`, by way of memory that outlives the worker.
    ssize_t read(int fd, void* buffer, std::size_t length);

    // What has just been read is kept until it is answered, wherever this inbox is by then.
    void keep(KeptRequests& kept) {
        kept_ = &kept;
        kept.arrived(*slot_);
    }

    // The first `count` forgets of what was read are about to be done. Before, not after: one that is done twice would
    // be a node that goes while the kernel knows it.
    void begin_forget(std::size_t count) { slot_->done = static_cast<std::uint32_t>(count); }

    // Calls forget(node, lookups) for each that a worker had read and not done when it died. For when it is gone: it
    // may still be given some until then. Gives back the inboxes, but those of `kept`.
    static void take_over(SharedState& state, const KeptRequests& kept,
                          const std::function<void(SlotId, std::uint64_t)>& forget);

  private:
    void make_room();

    SlotTable<InboxSlot>& table_;
    InboxSlot* slot_;
    KeptRequests* kept_ = nullptr;
};

}  // namespace nosigbus
