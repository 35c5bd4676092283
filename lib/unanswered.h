// What a worker that died had begun for requests that it did not answer. Its successor has the kernel ask for them
// again (FUSE_NOTIFY_RESEND), and begins each anew: lookups that were counted for it, and files that were opened, are
// taken back first. What is not asked for again was answered, and holds.
#pragma once

#include <mutex>
#include <unordered_map>
#include <vector>

#include "lib/deeds.h"
#include "lib/node_table.h"
#include "lib/open_files.h"
#include "lib/shared_state.h"

namespace nosigbus {

class Unanswered {
  public:
    Unanswered(SharedState& state, NodeTable& nodes, OpenFiles& files, Deeds& deeds)
        : state_(state), nodes_(nodes), files_(files), deeds_(deeds) {}

    // Finds what there is. Once the node table and the open files have taken over. Throws std::bad_alloc.
    void take_over();

    // The kernel asks for `request` again: to be called before it is processed. A file that was created for it is left
    // for its handler, see OpenFiles::opened_for.
    void asked_again(RequestNumber request);

    // The kernel has asked for all of them.
    void all_asked();

  private:
    void settle(LookupSlot& slot, bool is_taken_back);

    SharedState& state_;
    NodeTable& nodes_;
    OpenFiles& files_;
    Deeds& deeds_;
    std::mutex mutex_;
    std::unordered_multimap<RequestNumber, LookupSlot*> lookups_;
    std::unordered_map<RequestNumber, SlotId> opened_;
};

}  // namespace nosigbus
