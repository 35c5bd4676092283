#include "lib/deeds.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <ctime>
#include <tuple>

#include "lib/fault_point.h"
#include "lib/syscalls.h"

namespace nosigbus {

Identity identity_at(int directory, const char* name) noexcept {
    struct statx found {};
    constexpr int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH;
    if (::statx(directory, name, flags, STATX_INO | STATX_BTIME, &found) != 0) return {};
    // Where the file system does not say when an inode was made, its number has to do.
    const bool is_dated = (found.stx_mask & STATX_BTIME) != 0;
    return {.device = makedev(found.stx_dev_major, found.stx_dev_minor),
            .inode = found.stx_ino,
            .born_seconds = is_dated ? found.stx_btime.tv_sec : 0,
            .born_nanoseconds = is_dated ? found.stx_btime.tv_nsec : 0};
}

void date(Before& before) noexcept {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
    before.seconds = now.tv_sec;
    before.nanoseconds = now.tv_nsec;
}

bool is_new_since(const Before& before, const Identity& now) {
    if (!now.is_there()) return false;
    if (now.born_seconds == 0 && now.born_nanoseconds == 0) return true;  // nobody knows
    const auto nanoseconds = static_cast<std::int64_t>(now.born_nanoseconds);
    return std::tie(now.born_seconds, nanoseconds) >= std::tie(before.seconds, before.nanoseconds);
}

std::int64_t Deed::result() const {
    if (slot_->error != 0) sys::fail(slot_->error, "as before");
    return slot_->result;
}

void Deed::done(std::int64_t result) noexcept {
    fault_point("deed.executed");
    slot_->result = result;
    slot_->error = 0;
    slot_->is_done = true;
    fault_point("deed.done");
}

void Deed::failed(int error) noexcept {
    slot_->error = error;
    slot_->is_done = true;
}

void Deeds::take_over() {
    const std::lock_guard lock(mutex_);
    for (DeedSlot& slot : table_.taken()) {
        if (slot.id != 0) former_.emplace(slot.request, &slot);
    }
}

Deed Deeds::begin(RequestNumber request, const Before& before) {
    DeedSlot& slot = table_.take();
    slot.request = request;
    slot.before = before;
    slot.is_done = false;
    table_.publish(slot);
    fault_point("deed.begun");
    return {table_, slot};
}

bool Deeds::asked_again(RequestNumber request) {
    const std::lock_guard lock(mutex_);
    asked_again_.insert(former_.extract(request));
    return asked_again_.contains(request);
}

Deed Deeds::find(RequestNumber request) {
    const std::lock_guard lock(mutex_);
    const auto found = asked_again_.find(request);
    if (found == asked_again_.end()) return {};
    DeedSlot& slot = *found->second;
    asked_again_.erase(found);
    return {table_, slot};
}

void Deeds::all_asked() {
    const std::lock_guard lock(mutex_);
    for (const auto& [request, slot] : former_) table_.give_back(*slot);
    former_.clear();
}

}  // namespace nosigbus
