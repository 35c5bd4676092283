#include "fs/oom.h"

#include <fcntl.h>
#include <unistd.h>

#include <string_view>

#include "lib/unique_fd.h"

namespace nosigbus {

void be_spared_by_oom_killer(OomRank rank) noexcept {
    const std::string_view score = rank == OomRank::supervisor ? "-1000" : "-900";
    const UniqueFd file(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
    if (file) [[maybe_unused]]
        const ssize_t written = ::write(file.get(), score.data(), score.size());
}

}  // namespace nosigbus
