// One request's reply: given exactly once, whatever its handler does.
#pragma once

#include <fuse_lowlevel.h>
#include <linux/stat.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <exception>
#include <new>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "fs/current_request.h"
#include "lib/deeds.h"
#include "lib/log.h"
#include "lib/node_table.h"

namespace nosigbus {

// struct fuse_statx_out of Linux 6.6: its struct fuse_statx is laid out as struct statx.
struct StatxOut {
    std::uint64_t attr_valid;
    std::uint32_t attr_valid_nsec;
    std::uint32_t flags;
    std::array<std::uint64_t, 2> spare;
    struct statx stat;
};
static_assert(sizeof(StatxOut) == 288);

class Reply {
  public:
    explicit Reply(fuse_req_t request) : request_(request) {}
    Reply(Reply&& other) noexcept : request_(std::exchange(other.request_, nullptr)), deed_(std::move(other.deed_)) {}
    Reply& operator=(Reply&& other) noexcept {
        std::swap(request_, other.request_);
        std::swap(deed_, other.deed_);
        return *this;
    }
    Reply(const Reply&) = delete;
    Reply& operator=(const Reply&) = delete;
    // Where nobody has given it: what throws after the reply was handed on is an allocation.
    ~Reply() { error(std::uncaught_exceptions() > 0 ? ENOMEM : EIO); }

    [[nodiscard]] fuse_req_t request() const { return request_; }
    [[nodiscard]] bool is_given() const { return request_ == nullptr; }
    // Whether the caller was sent a signal, and waits no more.
    [[nodiscard]] bool is_unwanted() const { return fuse_req_interrupted(request_) != 0; }

    // Keeps the note of what has been done until the reply has been given.
    Deed& keep(Deed deed) {
        deed_ = std::move(deed);
        return deed_;
    }

    // Does nothing after another reply.
    void error(int error_number) {
        // The table that is full is ours, not the caller's.
        if (error_number == EMFILE) error_number = ENFILE;
        if (request_ != nullptr) fuse_reply_err(take(), error_number);
    }
    void ok() { error(0); }

    void attributes(const struct stat& attributes, double timeout) { fuse_reply_attr(take(), &attributes, timeout); }
    // The answer to STATX, which libfuse 3.14 does not know. It expires at once.
    void statx(const struct statx& attributes) {
        const StatxOut out{.attr_valid = 0, .attr_valid_nsec = 0, .flags = 0, .spare = {}, .stat = attributes};
        bytes(std::as_bytes(std::span(&out, 1)));
    }
    void link_target(const std::string& target) { fuse_reply_readlink(take(), target.c_str()); }
    // Returns whether the kernel took it, and with it the open file: not when the caller was interrupted meanwhile.
    [[nodiscard]] bool opened(const fuse_file_info& info) { return fuse_reply_open(take(), &info) == 0; }
    void written(std::size_t count) { fuse_reply_write(take(), count); }
    // Returns whether the kernel took them.
    bool bytes(std::span<const std::byte> bytes) {
        return fuse_reply_buf(take(), reinterpret_cast<const char*>(bytes.data()), bytes.size()) == 0;
    }
    void statistics(const struct statvfs& statistics) { fuse_reply_statfs(take(), &statistics); }
    void xattr_size(std::size_t size) { fuse_reply_xattr(take(), size); }
    void ioctl(std::span<const std::byte> result) { fuse_reply_ioctl(take(), 0, result.data(), result.size()); }
    void position(off_t offset) { fuse_reply_lseek(take(), offset); }

    // The kernel keeps the lookup only if it takes the reply: not when the caller was interrupted meanwhile.
    void entry(Lookup& lookup, const fuse_entry_param& entry) {
        if (fuse_reply_entry(take(), &entry) == 0) lookup.keep();
    }
    // What nothing is counted for.
    void constant_entry(const fuse_entry_param& entry) { fuse_reply_entry(take(), &entry); }
    // Returns whether the kernel took it, and with it the open file.
    [[nodiscard]] bool created(Lookup& lookup, const fuse_entry_param& entry, const fuse_file_info& info) {
        if (fuse_reply_create(take(), &entry, &info) != 0) return false;
        lookup.keep();
        return true;
    }

  private:
    fuse_req_t take() { return std::exchange(request_, nullptr); }

    fuse_req_t request_;
    Deed deed_;
};

// Runs body(reply), which may move the reply away to give it later, and turns what it throws into an errno: the one
// place that does.
template <typename Body>
void answer(Reply& reply, Body body) noexcept {
    try {
        body(reply);
    } catch (const std::system_error& failure) {
        reply.error(failure.code().value());
    } catch (const std::bad_alloc&) {
        reply.error(ENOMEM);
    } catch (const std::exception& failure) {
        log::error("a request failed: {}", failure.what());
        reply.error(EIO);
    }
}

// Runs a handler's body.
template <typename Body>
void answer(fuse_req_t request, Body body) noexcept {
    current_request().has_begun = true;
    Reply reply(request);
    answer(reply, std::move(body));
}

}  // namespace nosigbus
