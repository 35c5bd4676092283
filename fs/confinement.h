// What the process that serves may still do. It works on what strangers put into the source directory, and answers
// whoever asks: it keeps what that takes and gives up the rest of what root may do.
#pragma once

#include <linux/filter.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace nosigbus {

class Confinement {
  public:
    // Makes the system-call filter, so that no worker has to. Throws std::bad_alloc.
    Confinement();

    // Confines the calling thread, the only one of its process, and all that it starts from now on: a mount namespace
    // without any file system of the host's, as root; the capabilities in the table; no_new_privs; the filter. What was
    // opened before stays as it is. `mount_namespace` is a descriptor of the namespace that the workers of a mount
    // share; where it is -1 this makes the namespace, and the descriptor. Returns what could not be done, in words, and
    // has done all the rest; empty: nothing is missing.
    [[nodiscard]] std::string confine(std::atomic<std::int32_t>& mount_namespace) const;

  private:
    std::vector<sock_filter> filter_;
    std::string why_no_filter_;
};

}  // namespace nosigbus
