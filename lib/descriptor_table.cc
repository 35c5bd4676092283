#include "lib/descriptor_table.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>

#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// Of a table that is not tiny: no thread needs more than two at a time, and there are some hundred at most.
constexpr rlim_t reserve_at_most = 256;

// Asked each time, since prlimit(2) may change it.
rlim_t limit_now() noexcept {
    rlimit limit{};
    return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
}

rlim_t reserve_of(rlim_t limit) {
    return std::min(reserve_at_most, limit / 8);
}

}  // namespace

std::vector<int> open_descriptors() {
    std::vector<int> found;
    DIR* const directory = ::opendir("/proc/self/fd");
    if (directory == nullptr) sys::fail(errno, "/proc/self/fd");
    const int own = ::dirfd(directory);
    while (const dirent* const entry = ::readdir(directory)) {  // NOLINT(concurrency-mt-unsafe)
        if (entry->d_name[0] == '.') continue;
        const int descriptor = std::atoi(entry->d_name);  // NOLINT(cert-err34-c): the kernel's own digits
        if (descriptor != own) found.push_back(descriptor);
    }
    ::closedir(directory);
    return found;
}

void raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    // Who has CAP_SYS_RESOURCE may have as many as the system gives one process, and nobody more: do_prlimit.
    rlim_t most = limit.rlim_max;
    std::ifstream("/proc/sys/fs/nr_open") >> most;
    const rlimit highest = {.rlim_cur = most, .rlim_max = most};
    if (most > limit.rlim_max && ::setrlimit(RLIMIT_NOFILE, &highest) == 0) return;
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

bool is_reserved(int descriptor) noexcept {
    const rlim_t limit = limit_now();
    return descriptor >= 0 && static_cast<rlim_t>(descriptor) >= limit - reserve_of(limit);
}

bool are_running_short(int descriptor) noexcept {
    return descriptor >= 0 && static_cast<rlim_t>(descriptor) >= limit_now() / 2;
}

UniqueFd to_stay(UniqueFd descriptor) {
    if (is_reserved(descriptor.get())) sys::fail(ENFILE, "the last descriptors are reserved");
    return descriptor;
}

bool has_room_for_more(int any) noexcept {
    const UniqueFd next(::fcntl(any, F_DUPFD_CLOEXEC, 0));
    const rlim_t limit = limit_now();
    return next && static_cast<rlim_t>(next.get()) < limit - 2 * reserve_of(limit);
}

void check_room_for_more(int any) {
    if (!has_room_for_more(any)) sys::fail(ENFILE, "few descriptors are left");
}

}  // namespace nosigbus
