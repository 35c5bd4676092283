// The kernel out of memory should take another process than one that others wait for.
#pragma once

namespace nosigbus {

// The supervisor is small and cannot be replaced from without; the worker can.
enum class OomRank { supervisor, worker };

// Lowers this process's oom_score_adj, proc(5), as far as it may: an ordinary user may not.
void be_spared_by_oom_killer(OomRank rank) noexcept;

}  // namespace nosigbus
