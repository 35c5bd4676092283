// Requests until they are answered, for a kernel that does not ask again for what a worker had read when it died
// (FUSE_NOTIFY_RESEND, Linux 6.9): there whoever asked would wait for ever. A request stays in the inbox that it
// arrived in, which outlives the worker. The next one finds out which of them the kernel still waits for, and hands
// them to itself, as that newer kernel would.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "lib/shared_state.h"

namespace nosigbus {

// Thread-safe.
class KeptRequests {
  public:
    // The largest WRITE that an inbox has room for, in bytes.
    static constexpr std::size_t max_write = std::size_t{128} << 10;

    explicit KeptRequests(SharedState& state) : table_(state.inboxes()) {}

    // A request has arrived in `slot`. Where there is no memory to note that, it is lost should this worker die.
    void arrived(InboxSlot& slot) noexcept;

    // The kernel has been given an answer.
    void answered(RequestNumber request) noexcept;

    // Whether what has arrived there is not answered yet.
    [[nodiscard]] bool is_kept(const InboxSlot& slot) const;

    // Whoever had the slot leaves it to its request: it is given back with the answer.
    void leave(InboxSlot& slot) noexcept;

    // The slot is to be used for another request. The one that is in it is lost, should this worker die.
    void lose(const InboxSlot& slot) noexcept;

    // Finds what former workers did not answer. Where they are not all gone, what they still have in hand is left to
    // the next worker. `device` is /dev/fuse. Throws std::bad_alloc.
    void take_over(int device, bool are_all_gone);

    // Copies the next of these to `buffer`, marked as asked again. Returns its length; 0: there is none.
    std::size_t ask_next(int device, std::span<std::byte> buffer);

  private:
    enum class Owner { thread, request, former_worker };
    struct Kept {
        InboxSlot* slot;
        Owner owner;
    };

    SlotTable<InboxSlot>& table_;
    mutable std::mutex mutex_;
    std::unordered_map<RequestNumber, Kept> kept_;
    std::vector<RequestNumber> to_ask_;  // the oldest last
};

}  // namespace nosigbus
