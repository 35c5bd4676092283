#include "lib/view.h"

#include <fcntl.h>

#include <cerrno>
#include <ctime>
#include <system_error>
#include <utility>

#include "lib/descriptor_table.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

// How long a change may go on after it has dated the file.
constexpr std::time_t recent_seconds = 2;

bool same(const timespec& a, const timespec& b) {
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

}  // namespace

void View::opened(bool writable, EngineChoice wanted) {
    {
        const std::lock_guard lock(mutex_);
        if (opens_ == 0) {
            engine_ = wanted;
            const bool is_shadow = wanted.engine == Engine::shadow;
            if (is_shadow && std::chrono::steady_clock::now() < no_shadow_before_)
                engine_ = {Engine::cache, "a_writer_is_coming"};
            if (writable) engine_ = {Engine::cache, "opened_for_writing"};
        }
        if (writable && engine_.engine == Engine::shadow) sys::fail(ESTALE, "its pages are not to be written");
        if (writable) ++writers_;
        if (opens_++ > 0) return;
        pages_.clear();
    }
    struct stat now {};
    if (look(now)) note_seen(now);
}

void View::closed(bool writable) noexcept {
    Closing closing;
    const std::lock_guard lock(mutex_);
    if (writable) --writers_;
    if (--opens_ == 0) closing = close_locked();
}

View::Closing View::close_locked() noexcept {
    pages_.clear();
    engine_ = not_open;
    return {std::move(readable_), std::move(shadow_)};
}

void View::expect_writer(bool comes) {
    using Clock = std::chrono::steady_clock;
    const std::lock_guard lock(mutex_);
    no_shadow_before_ = comes ? Clock::now() + std::chrono::seconds(1) : Clock::time_point{};
}

EngineChoice View::engine() const {
    const std::lock_guard lock(mutex_);
    return engine_;
}

std::shared_ptr<Shadow> View::shadow() const {
    const std::lock_guard lock(mutex_);
    return shadow_;
}

void View::set_shadow(std::shared_ptr<Shadow> shadow) {
    const std::lock_guard lock(mutex_);
    shadow_ = std::move(shadow);
}

void View::do_without_shadow(const char* why) {
    const std::lock_guard lock(mutex_);
    engine_ = {Engine::cache, why};
}

bool View::is_open() const {
    const std::lock_guard lock(mutex_);
    return opens_ > 0;
}

bool View::begin_push() {
    const std::lock_guard lock(mutex_);
    if (writers_ > 0 || opens_ == 0) return false;
    pushing_ = true;
    return true;
}

void View::end_push() {
    std::vector<std::function<void()>> waiting;
    {
        const std::lock_guard lock(mutex_);
        pushing_ = false;
        waiting.swap(after_push_);
    }
    for (const auto& reply : waiting) reply();
}

void View::after_push(std::function<void()> reply) {
    {
        const std::lock_guard lock(mutex_);
        if (pushing_) {
            after_push_.push_back(std::move(reply));
            return;
        }
    }
    reply();
}

bool View::has_writers() const {
    const std::lock_guard lock(mutex_);
    return writers_ > 0;
}

std::shared_ptr<const UniqueFd> View::readable() {
    if (access_.is_slow) return nullptr;
    {
        const std::lock_guard lock(mutex_);
        if (readable_ || opens_ == 0) return readable_;
    }
    std::shared_ptr<const UniqueFd> opened;
    try {
        opened = std::make_shared<const UniqueFd>(to_stay(open_for_reading()));
    } catch (const std::system_error&) {
        return nullptr;  // an ordinary user's daemon need not be able to read it; or there is no descriptor left
    }
    const std::lock_guard lock(mutex_);
    if (opens_ > 0) readable_ = opened;
    return opened;
}

// So that what we read to compare does not date the file, where that is ours to say: open(2), O_NOATIME.
UniqueFd View::open_for_reading() const {
    if (access_.is_shared) {
        if (!access_.may_read) sys::fail(EACCES, "not open for reading");
        return sys::duplicate(path_);
    }
    try {
        return sys::reopen(path_, O_RDONLY | O_NOATIME);
    } catch (const std::system_error& failure) {
        if (failure.code().value() != EPERM) throw;
        return sys::reopen(path_, O_RDONLY);
    }
}

// What the file looks like now, or, where its file system may make us wait, as far as it is known here.
bool View::look(struct stat& attributes) const {
    return sys::look(path_, attributes, access_.is_slow ? AT_STATX_DONT_SYNC : 0);
}

void View::note_seen(const struct stat& attributes) {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
    const std::lock_guard lock(mutex_);
    seen_ = Seen{.modified = attributes.st_mtim,
                 .changed = attributes.st_ctim,
                 .size = attributes.st_size,
                 .blocks = attributes.st_blocks,
                 .is_recent = now.tv_sec - attributes.st_ctim.tv_sec < recent_seconds};
}

bool View::may_have_changed() const {
    struct stat now {};
    if (!look(now)) return true;
    const std::lock_guard lock(mutex_);
    return !seen_ || seen_->is_recent || !same(seen_->modified, now.st_mtim) || !same(seen_->changed, now.st_ctim) ||
           seen_->size != now.st_size || seen_->blocks != now.st_blocks;
}

}  // namespace nosigbus
