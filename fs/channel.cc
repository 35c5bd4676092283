#include "fs/channel.h"

#include <linux/fuse.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "fs/current_request.h"
#include "fs/file_system.h"
#include "fs/inbox.h"
#include "fs/kernel_features.h"
#include "fs/libfuse.h"
#include "fs/request_check.h"
#include "fs/request_threads.h"
#include "lib/fault_point.h"
#include "lib/log.h"
#include "lib/page_digest.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

constexpr int notify_resend = 7;  // linux/fuse.h of Linux 6.9; Debian 12 has that of 6.1

ssize_t read_hook(int fd, void* buffer, std::size_t length, void* user_data) {
    return static_cast<FileSystem*>(user_data)->channel().read(fd, buffer, length);
}

ssize_t writev_hook(int fd, iovec* parts, int count, void* user_data) {
    return static_cast<FileSystem*>(user_data)->channel().write(fd, {parts, static_cast<std::size_t>(count)});
}

ssize_t total_of(std::span<const iovec> parts) {
    std::size_t total = 0;
    for (const iovec& part : parts) total += part.iov_len;
    return static_cast<ssize_t>(total);
}

// A thread that is killed while the kernel copies a request to memory that is not there is not given that memory any
// more (__get_user_pages), and the request fails with EIO (fuse_dev_do_read), instead of being asked again. So it is
// there before: a thread's buffer stays the same.
void make_present(void* buffer, std::size_t length) {
    thread_local const void* present = nullptr;
    if (buffer == present) return;
    auto* const bytes = static_cast<volatile std::byte*>(buffer);
    for (std::size_t at = 0; at < length; at += page_size()) bytes[at] = std::byte{0};
    if (length > 0) bytes[length - 1] = std::byte{0};
    present = buffer;
}

ssize_t read_device(int fd, void* buffer, std::size_t length) {
    make_present(buffer, length);
    Inbox* const inbox = Inbox::of_this_thread();
    const ssize_t n = inbox != nullptr ? inbox->read(fd, buffer, length) : ::read(fd, buffer, length);
    if (n != 0) return n;
    errno = ENODEV;  // the other end of a test's socket is closed: what the device calls ENODEV
    return -1;
}

// Whether this is libfuse's own answer to a request that must not fail: it had no memory to call the handler.
bool is_for_want_of_memory(const fuse_out_header& header) {
    const CurrentRequest& request = current_request();
    if (header.error != -ENOMEM || request.has_begun || request.number == 0) return false;
    switch (request.opcode) {
        case FUSE_READ:   // a page, for a load that would fault
        case FUSE_WRITE:  // a page, whose store would be lost
        case FUSE_FSYNC:  // the barrier
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_RELEASE:
        case FUSE_RELEASEDIR:  // these are not sent again, and what they were to free would stay
            return true;
        default:
            return false;
    }
}

// The word behind flags2, which headers before Linux 6.9 have no name for.
void set_max_stack_depth(fuse_init_out& init, std::uint32_t depth) {
    constexpr std::size_t at = offsetof(fuse_init_out, flags2) + sizeof init.flags2;
    static_assert(at + sizeof depth <= sizeof init);
    std::memcpy(std::as_writable_bytes(std::span(&init, 1)).subspan(at).data(), &depth, sizeof depth);
}

std::uint64_t flags_of(const fuse_init_out& init) {
    return init.flags | std::uint64_t{init.flags2} << 32;
}

}  // namespace

void Channel::attach(fuse_session* session, FileSystem& fs, int fd) {
    fuse_custom_io io{};
    io.writev = writev_hook;
    io.read = read_hook;
    libfuse::attach(session, fd, io, &fs);
}

void Channel::resume(fuse_session* session, Unanswered& unanswered, bool are_former_gone) {
    is_resuming_ = true;
    std::vector<std::byte> request(state_.init().begin(), state_.init().end());
    offer_what_was_accepted(request);
    note_init(request);
    fuse_buf buffer{};
    buffer.mem = request.data();
    buffer.size = request.size();
    fuse_session_process_buf(session, &buffer);
    if (keeps_requests_) {
        kept_.take_over(fuse_session_fd(session), are_former_gone);
    } else {
        ask_again(fuse_session_fd(session));
    }
    unanswered_ = &unanswered;
}

// A newer nosigbus could make use of more than the kernel was promised then.
void Channel::offer_what_was_accepted(std::span<std::byte> request) const {
    const auto body = request.subspan(sizeof(fuse_in_header));
    fuse_init_in init{};
    const std::size_t length = std::min(body.size(), sizeof init);  // before Linux 5.17 it was shorter
    std::memcpy(&init, body.data(), length);
    const std::uint64_t accepted = state_.accepted_flags();
    init.flags &= static_cast<std::uint32_t>(accepted);
    init.flags2 &= static_cast<std::uint32_t>(accepted >> 32);
    std::memcpy(body.data(), &init, length);
}

// FUSE_NOTIFY_RESEND, which libfuse does not know.
void Channel::ask_again(int fd) {
    const fuse_out_header resend = {.len = sizeof resend, .error = notify_resend, .unique = 0};
    if (::write(fd, &resend, sizeof resend) == sizeof resend || errno == ENODEV) return;
    log::error("FUSE_NOTIFY_RESEND: {}: callers whose requests died with the last worker wait for ever",
               std::strerror(errno));
}

ssize_t Channel::read(int fd, void* buffer, std::size_t length) {
    if (unanswered_ != nullptr) {
        const std::lock_guard lock(asking_again_);
        if (Unanswered* const unanswered = unanswered_) {
            if (!keeps_requests_) return read_asked_again(fd, buffer, length, *unanswered);
            const std::size_t n = read_kept(fd, {static_cast<std::byte*>(buffer), length}, *unanswered);
            if (n > 0) return static_cast<ssize_t>(n);
        }
    }
    const ssize_t n = read_device(fd, buffer, length);
    fuse_in_header header{};
    if (n >= static_cast<ssize_t>(sizeof header)) {
        std::memcpy(&header, buffer, sizeof header);
        const std::span request(static_cast<const std::byte*>(buffer), static_cast<std::size_t>(n));
        // One that libfuse refuses, malformed or the second, is none.
        if (header.opcode == FUSE_INIT && init_unique_ == 0 && is_well_formed(request)) {
            state_.keep_init(request);
            note_init(request);
        }
        Inbox* const inbox = Inbox::of_this_thread();
        if (keeps_requests_ && inbox != nullptr) inbox->keep(kept_);
    }
    return n;
}

// The kernel puts what it asks again before all else (fuse_resend), save forgets and interrupts. With the lock held.
ssize_t Channel::read_asked_again(int fd, void* buffer, std::size_t length, Unanswered& unanswered) {
    const ssize_t n = read_device(fd, buffer, length);
    if (n <= 0) return n;
    fuse_buf request{};
    request.mem = buffer;
    request.size = static_cast<std::size_t>(n);
    const CurrentRequest read = request_in(request);
    if (read.asked_again) {
        unanswered.asked_again(read.number);
    } else if (read.opcode != FUSE_FORGET && read.opcode != FUSE_BATCH_FORGET && read.opcode != FUSE_INTERRUPT) {
        unanswered.all_asked();
        unanswered_ = nullptr;
    }
    return n;
}

// The next of those that no former worker answered. Returns its length; 0: there is none. With the lock held.
std::size_t Channel::read_kept(int fd, std::span<std::byte> buffer, Unanswered& unanswered) {
    const std::size_t n = kept_.ask_next(fd, buffer);
    if (n > 0) {
        fuse_buf request{};
        request.mem = buffer.data();
        request.size = n;
        unanswered.asked_again(request_in(request).number);
    } else {
        unanswered.all_asked();
        unanswered_ = nullptr;
    }
    return n;
}

std::string Channel::missing_features() const {
    const auto request = state_.init();
    fuse_init_in init{};
    const auto body = request.subspan(std::min(request.size(), sizeof(fuse_in_header)));
    std::memcpy(&init, body.data(), std::min(body.size(), sizeof init));
    return nosigbus::missing_features(init);
}

void Channel::note_init(std::span<const std::byte> request) {
    fuse_in_header header{};
    fuse_init_in init{};
    std::memcpy(&header, request.data(), sizeof header);
    const auto body = request.subspan(sizeof header);
    std::memcpy(&init, body.data(), std::min(body.size(), sizeof init));
    const std::uint64_t offered = offered_flags(init);
    maps_direct_files_ = !options_.cached_opens && (offered & kernel::direct_io_allow_mmap) != 0;
    keeps_requests_ = options_.keep_requests || (offered & kernel::has_resend) == 0;
    // Only with files that are opened for direct I/O: read(2) would go through as well. Where nobody wants it, the
    // mount can lie one overlayfs deeper (s_stack_depth).
    const bool is_wanted = options_.engine != Options::Engine::cache && options_.on_error == Options::OnError::zeros;
    passes_through_ = is_wanted && maps_direct_files_ && (offered & kernel::passthrough) != 0;
    accepted_besides_ = (offered & (FUSE_SETXATTR_EXT | kernel::has_resend)) |
                        (maps_direct_files_ ? kernel::direct_io_allow_mmap : 0) |
                        (passes_through_ ? kernel::passthrough : 0);
    init_unique_ = header.unique;
}

ssize_t Channel::write(int fd, std::span<const iovec> parts) {
    fuse_out_header header{};
    std::memcpy(&header, parts[0].iov_base, sizeof header);
    if (header.unique != 0) fault_point("answer.", name_of_operation(current_request().opcode));
    if (is_for_want_of_memory(header)) {
        current_request().no_memory = true;  // it is tried again
        return total_of(parts);
    }
    const bool answers_init = header.unique != 0 && header.unique == init_unique_ && header.error == 0 &&
                              parts.size() == 2 && parts[1].iov_len == sizeof(fuse_init_out);
    if (answers_init) return write_init(fd, parts);
    if (!keeps_requests_ || header.unique == 0) return ::writev(fd, parts.data(), static_cast<int>(parts.size()));
    // Who asked again was not the kernel.
    header.unique &= ~asked_again_bit;
    std::memcpy(parts[0].iov_base, &header, sizeof header);
    const ssize_t n = ::writev(fd, parts.data(), static_cast<int>(parts.size()));
    const int error = errno;
    kept_.answered(header.unique);
    errno = error;
    return n;
}

ssize_t Channel::write_init(int fd, std::span<const iovec> parts) {
    if (is_resuming_) return total_of(parts);
    fuse_init_out init{};
    std::memcpy(&init, parts[1].iov_base, sizeof init);
    const std::uint64_t besides = accepted_besides_;
    init.flags |= static_cast<std::uint32_t>(besides);
    init.flags2 |= static_cast<std::uint32_t>(besides >> 32);
    if (init.flags2 != 0) init.flags |= FUSE_INIT_EXT;
    if (passes_through_) set_max_stack_depth(init, 1);  // what stands behind is in memory, on no other file system
    // libfuse has reckoned that from the largest WRITE, and the kernel limits READs by it too.
    if ((init.flags & FUSE_MAX_PAGES) != 0) init.max_pages = static_cast<std::uint16_t>(max_read / page_size());
    state_.accepted_flags() = flags_of(init);
    const std::array<iovec, 2> changed = {parts[0], iovec{.iov_base = &init, .iov_len = sizeof init}};
    return ::writev(fd, changed.data(), static_cast<int>(changed.size()));
}

}  // namespace nosigbus
