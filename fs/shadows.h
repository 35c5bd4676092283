// The shadow engine: which views have a shadow, and what all of them may take. See lib/shadow.h for what one is, and
// the refresher for how it is kept true.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_set>

#include "fs/channel.h"
#include "lib/node_table.h"
#include "lib/options.h"
#include "lib/shadow.h"
#include "lib/shared_state.h"

namespace nosigbus {

// Thread-safe.
class Shadows {
  public:
    Shadows(const Channel& channel, const Lifeline& line, const Options& options)
        : channel_(channel), line_(line), options_(options) {}
    Shadows(const Shadows&) = delete;
    Shadows& operator=(const Shadows&) = delete;

    // Whose pages a view is to show if it is opened first with `flags`, and its file has `real_size` bytes.
    [[nodiscard]] Engine wanted(const Node& node, int flags, off_t real_size) const;

    // Makes the shadow that the view is to have and does not have yet: of holes, the refresher makes it like the file.
    // Where it cannot be had the view does without.
    void make(Node& node);

    // What a former worker has made. Once its files are open here.
    void take_over(Node& node);

    // Of all together, in bytes.
    [[nodiscard]] std::uint64_t memory() const;

  private:
    void add(Node& node, UniqueFd memory, std::int32_t backing);
    void forget(Node& node, int descriptor, std::int32_t backing) noexcept;

    const Channel& channel_;
    const Lifeline& line_;
    const Options& options_;
    mutable std::mutex mutex_;
    std::unordered_set<int> descriptors_;
    bool is_refused_ = false;  // the kernel will not have it
};

}  // namespace nosigbus
