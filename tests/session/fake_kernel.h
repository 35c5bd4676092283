// The kernel's side of a FUSE connection, as far as a test wants to play it.
#pragma once

#include <linux/fuse.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "fs/file_system.h"
#include "fs/kernel_features.h"
#include "fs/request_threads.h"
#include "fs/session.h"
#include "lib/unique_fd.h"
#include "tests/unit/temporary.h"

namespace nosigbus::test {

// A body of a request: structures and bytes, one behind the other.
template <typename... Parts>
std::string body(const Parts&... parts) {
    std::string bytes;
    bytes.reserve((sizeof parts + ...));
    (bytes.append(reinterpret_cast<const char*>(&parts), sizeof parts), ...);
    return bytes;
}

// A name as requests carry it, with its NUL.
inline std::string name_of(std::string_view name) {
    return std::string(name) + '\0';
}

struct Answer {
    int error;  // errno, 0 where it went well
    std::string bytes;

    // The structure the bytes start with; zeros where there are less.
    template <typename Structure>
    [[nodiscard]] Structure as() const {
        Structure result{};
        std::memcpy(&result, bytes.data(), std::min(bytes.size(), sizeof result));
        return result;
    }
};

struct Notification {
    int code;
    std::string bytes;

    template <typename Structure>
    [[nodiscard]] Structure as() const {
        return Answer{0, bytes}.as<Structure>();
    }
};

// Whether it drops the byte at `offset` of `node`, and with it the page.
bool drops(const Notification& sent, std::uint64_t node, std::int64_t offset);
bool any_drops(const std::deque<Notification>& sent, std::uint64_t node, std::int64_t offset);

// What a kernel offers at INIT.
struct Offer {
    std::uint64_t flags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA |
                          FUSE_EXPLICIT_INVAL_DATA | FUSE_WRITEBACK_CACHE | FUSE_DO_READDIRPLUS | FUSE_POSIX_LOCKS |
                          FUSE_FLOCK_LOCKS | FUSE_EXPORT_SUPPORT | FUSE_HANDLE_KILLPRIV | FUSE_MAX_PAGES |
                          FUSE_INIT_EXT | kernel::direct_io_allow_mmap | kernel::has_resend;
};

// The kernel's end of the connection.
class Wire {
  public:
    Wire();

    // The end that a session reads from; to be asked for once.
    [[nodiscard]] int give_server_end() { return server_end_.release(); }

    // Sends a request and returns its unique number.
    std::uint64_t send(fuse_opcode opcode, std::uint64_t node, const std::string& body);
    // The same with a unique number of the caller's.
    void send_as(std::uint64_t unique, fuse_opcode opcode, std::uint64_t node, const std::string& body);
    // As it stands: not even the length need be right.
    void send_raw(const fuse_in_header& header, const std::string& body);

    // The head of a request with a unique number of its own and a body of `size` bytes.
    fuse_in_header make_header(fuse_opcode opcode, std::uint64_t node, std::size_t size);

    // The largest answer there is room for, in bytes after its head.
    [[nodiscard]] std::size_t largest_answer() const;

    // Who asks from here on. Before: the user who runs the test.
    void act_as(uid_t user) { user_ = user; }

    // The answer to a request; notifications that come before it are kept. Fails the test after ten seconds.
    Answer wait_for(std::uint64_t unique);

    Answer call(fuse_opcode opcode, std::uint64_t node, const std::string& body) {
        return wait_for(send(opcode, node, body));
    }

    Answer init(const Offer& offer);

    // Whether the answer to a request has come so far.
    [[nodiscard]] bool is_answered(std::uint64_t unique);

    // Notifications so far, oldest first, and forgets them.
    std::deque<Notification> take_notifications();
    // The same, without those that came after the last answer that was waited for.
    std::deque<Notification> take_earlier_notifications() { return std::exchange(notifications_, {}); }

    // What comes next, whatever it is: a notification, whose unique number is 0, or an answer. It is kept as well.
    // Fails the test after ten seconds.
    struct Message {
        std::uint64_t unique;
        int code;  // of the notification, or the errno less its sign
    };
    Message next_message();

    // Ends the connection: the session's next read says ENODEV.
    void hang_up();

  private:
    Message receive();
    void receive_all();

    UniqueFd kernel_end_;
    UniqueFd server_end_;
    uid_t user_ = ::getuid();
    std::uint64_t next_unique_ = 2;
    std::map<std::uint64_t, Answer> answers_;
    std::deque<Notification> notifications_;
};

// A served directory, and the connection to it.
class FakeKernel : public Wire {
  public:
    explicit FakeKernel(const Options& options = {}, const Offer& offer = {});
    FakeKernel(const FakeKernel&) = delete;
    FakeKernel& operator=(const FakeKernel&) = delete;
    ~FakeKernel();

    [[nodiscard]] const TemporaryDirectory& source() const { return source_; }
    [[nodiscard]] const Answer& init_answer() const { return init_answer_; }
    [[nodiscard]] FileSystem& fs() { return fs_; }

    // LOOKUP of a name in the root, which must be there.
    fuse_entry_out look_up(const std::string& name);
    // OPEN; returns the handle.
    std::uint64_t open(std::uint64_t node, int flags);
    // READ as a fault or readahead sends it.
    Answer read_page(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::uint32_t size);
    // The errno of FSYNC.
    int fsync(std::uint64_t node, std::uint64_t handle);

  private:
    TemporaryDirectory source_;
    SharedState state_;
    FileSystem fs_;
    Session session_;
    std::unique_ptr<RequestThreads> threads_;
    Answer init_answer_;
};

}  // namespace nosigbus::test
