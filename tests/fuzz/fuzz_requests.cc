// libFuzzer: requests, sensible ones or not, to the real handlers over a small source directory. Each that wants an
// answer must be given exactly one that a kernel would take, and the load of a page the whole page.
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <thread>
#include <vector>

#include "fs/file_system.h"
#include "fs/inbox.h"
#include "fs/mount.h"
#include "fs/request_check.h"
#include "fs/request_threads.h"
#include "fs/session.h"
#include "lib/syscalls.h"
#include "tests/fuzz/script.h"
#include "tests/unit/temporary.h"

namespace nosigbus::fuzz {
namespace {

using Bytes = std::vector<std::byte>;

[[noreturn]] void give_up(const char* what, std::uint32_t opcode, long long number) {
    std::fprintf(stderr, "fuzz_requests: opcode %u: %s (%lld)\n", opcode, what, number);
    std::abort();
}

template <typename Structure>
Structure head_of(std::span<const std::byte> bytes) {
    Structure result{};
    if (!bytes.empty()) std::memcpy(&result, bytes.data(), std::min(bytes.size(), sizeof result));
    return result;
}

// A file system of its own, mounted nowhere and with room for little: what is allocated, copied or made immutable ends
// with this process.
const std::string& playground() {
    static const UniqueFd mounted = [] {
        const UniqueFd wanted(sys::check(::fsopen("tmpfs", FSOPEN_CLOEXEC), "fsopen (root is needed)"));
        const int fd = wanted.get();
        sys::check(::fsconfig(fd, FSCONFIG_SET_STRING, "size", "8M", 0), "fsconfig");
        sys::check(::fsconfig(fd, FSCONFIG_SET_STRING, "nr_inodes", "1000", 0), "fsconfig");
        sys::check(::fsconfig(fd, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), "fsconfig");
        return UniqueFd(sys::check(::fsmount(fd, FSMOUNT_CLOEXEC, 0), "fsmount"));
    }();
    static const std::string place = sys::proc_path(mounted.get());
    return place;
}

// All inputs share an instance: to close one takes the kernel milliseconds.
int shared_inotify() {
    static const UniqueFd inotify = ChangeWatcher::make_inotify();
    return inotify.get();
}

class Source {
  public:
    Source() : path_(playground() + "/" + std::to_string(++number_)) {
        std::filesystem::create_directories(path_ + "/d");
        make("/a", std::string("hello"));
        make("/b", std::string(10'000, 'b'));
        make("/d/c", std::string("c"));
        std::filesystem::create_symlink("a", path_ + "/l");
        sys::check(::mkfifo((path_ + "/p").c_str(), 0600), "mkfifo");
    }
    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;
    ~Source() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }

    [[nodiscard]] UniqueFd open() const { return sys::open_at(AT_FDCWD, path_.c_str(), O_PATH | O_DIRECTORY); }

    // Behind our back.
    void change(const Step& step, std::span<const std::uint8_t> body) const {
        const std::string name = path_ + "/a";
        if (step.opcode == removal) {
            ::unlink(name.c_str());
        } else if (step.opcode == truncation) {
            static_cast<void>(::truncate(name.c_str(), static_cast<off_t>(step.node)));
        } else if (step.opcode == store) {
            const UniqueFd file(::open(name.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644));
            static_cast<void>(::pwrite(file.get(), body.data(), body.size(), static_cast<off_t>(step.node)));
        }
    }

  private:
    void make(const char* name, const std::string& content) const { test::make_file(path_ + name, content); }

    static inline unsigned number_ = 0;
    const std::string path_;
};

// What the session sends, one message behind the other: a file has room for any of them.
class Sent {
  public:
    Sent() : file_(sys::check(::memfd_create("replies", MFD_CLOEXEC), "memfd_create")) {
        sys::check(::fcntl(file_.get(), F_SETFL, O_APPEND), "fcntl");
    }

    [[nodiscard]] int give_descriptor() const { return sys::duplicate(file_.get()).release(); }

    // Calls take(header, body) for each message that has come since.
    template <typename Take>
    void read(Take take) {
        Bytes news(static_cast<std::size_t>(sys::file_size(file_.get()) - at_));
        sys::read_at(file_.get(), news, at_);
        at_ += static_cast<off_t>(news.size());
        for (std::span<const std::byte> rest = news; !rest.empty();) {
            const auto header = head_of<fuse_out_header>(rest);
            if (header.len < sizeof header || header.len > rest.size()) give_up("a length that lies", 0, header.len);
            take(header, rest.subspan(sizeof header, header.len - sizeof header));
            rest = rest.subspan(header.len);
        }
    }

  private:
    UniqueFd file_;
    off_t at_ = 0;
};

// A request that was given to the session.
struct Asked {
    std::uint32_t opcode = 0;
    std::uint64_t node = 0;
    Bytes body{};
    bool is_well_formed = false;
    bool must_succeed = false;
    bool is_answered = false;
};

Options options_of(std::uint8_t mounted) {
    Options options;
    options.max_size = (mounted & small_views) != 0 ? off_t{64} << 10 : off_t{1} << 30;
    if ((mounted & real_sizes) != 0) options.stat = Options::Stat::real;
    if ((mounted & failing_loads) != 0) options.on_error = Options::OnError::fail;
    options.cached_opens = (mounted & cached_opens) != 0;
    return options;
}

class Served {
  public:
    explicit Served(std::uint8_t mounted)
        : options_(options_of(mounted)),
          fs_(with_inotify(state_), source_.open(), options_),
          session_(make_session(session_arguments("/source", options_, false), fs_)),
          inbox_(state_),
          request_(sys::check(::memfd_create("request", MFD_CLOEXEC), "memfd_create")) {
        fs_.use(session_.get());
        Channel::attach(session_.get(), fs_, sent_.give_descriptor());
        fs_.follow_changes();
        fuse_init_in init{};
        init.major = FUSE_KERNEL_VERSION;
        init.minor = FUSE_KERNEL_MINOR_VERSION;
        init.flags = ~std::uint32_t{0};
        init.flags2 = ~std::uint32_t{0};
        expect(FUSE_INIT, 0, init);
        for (const char* name : {"a", "b", "d", "l", "p"}) expect(FUSE_LOOKUP, root, std::array{name[0], '\0'});
        expect(FUSE_OPEN, node_a, fuse_open_in{.flags = O_RDWR, .open_flags = 0});
        expect(FUSE_OPEN, node_b, fuse_open_in{.flags = O_RDONLY, .open_flags = 0});
        expect(FUSE_OPENDIR, root, fuse_open_in{.flags = O_RDONLY, .open_flags = 0});
    }
    Served(const Served&) = delete;
    Served& operator=(const Served&) = delete;
    ~Served() {
        fs_.stop_following();
        read_answers();
    }

    void take(const Step& step, std::span<const std::uint8_t> body) {
        if (step.opcode >= truncation) return source_.change(step, body);
        fuse_in_header header = make_header(step.opcode, step.node, body.size());
        if ((step.how & ordinary_user) != 0) header.uid = header.gid = 1000;
        if ((step.how & lying_length) != 0) header.len += 8;
        if ((step.how & extensions) != 0) set_extension_words(header, 2);
        if ((step.how & asked_again) != 0) header.unique |= std::uint64_t{1} << 63;
        ask(header, std::as_bytes(body));
    }

    // That it still serves.
    void check_lives() {
        // libfuse would never free interrupts of what has not come. It gives one up with each request.
        const auto is_interrupt = [](const auto& each) { return each.second.opcode == FUSE_INTERRUPT; };
        for (auto left = std::ranges::count_if(asked_, is_interrupt); left > 0; --left)
            expect(FUSE_GETATTR, root, fuse_getattr_in{});
        expect(FUSE_GETATTR, root, fuse_getattr_in{});
        const fuse_read_in page{
            .fh = handle_a, .offset = 4096, .size = 8192, .read_flags = 0, .lock_owner = 0, .flags = 0, .padding = 0};
        ask(make_header(FUSE_READ, node_a, sizeof page), std::as_bytes(std::span(&page, 1)));
    }

  private:
    static SharedState& with_inotify(SharedState& state) {
        state.lifeline().inotify = shared_inotify();
        return state;
    }

    fuse_in_header make_header(std::uint32_t opcode, std::uint64_t node, std::size_t size) {
        fuse_in_header header{};
        header.len = static_cast<std::uint32_t>(sizeof header + size);
        header.opcode = opcode;
        header.unique = next_unique_ += 2;
        header.nodeid = node;
        header.pid = 0;  // what anybody has open is not for a fuzzer
        return header;
    }

    // A request that must succeed.
    template <typename Body>
    void expect(std::uint32_t opcode, std::uint64_t node, const Body& body) {
        ask(make_header(opcode, node, sizeof body), std::as_bytes(std::span(&body, 1)), true);
    }

    void ask(const fuse_in_header& header, std::span<const std::byte> body, bool must_succeed = false) {
        const Bytes request = read_by_channel(header, body);
        Asked& asked = asked_[header.unique];
        asked = {.opcode = header.opcode,
                 .node = header.nodeid,
                 .body = Bytes(body.begin(), body.end()),
                 .is_well_formed = is_well_formed(request, state_.accepted_flags()),
                 .must_succeed = must_succeed};
        fuse_buf buffer{};
        buffer.mem = const_cast<std::byte*>(request.data());
        buffer.size = request.size();
        process_request(session_.get(), state_, fs_.former_workers(), buffer);
        if (wants_answer(asked)) wait_for(asked);
    }

    // Exactly as large as it is, so that AddressSanitizer sees who looks behind it.
    Bytes read_by_channel(const fuse_in_header& header, std::span<const std::byte> body) {
        static Bytes buffer(max_read + 4096);
        const std::array<iovec, 2> parts = {
            iovec{.iov_base = const_cast<fuse_in_header*>(&header), .iov_len = sizeof header},
            iovec{.iov_base = const_cast<std::byte*>(body.data()), .iov_len = body.size()}};
        sys::check(::ftruncate(request_.get(), 0), "ftruncate");
        sys::check(::pwritev(request_.get(), parts.data(), parts.size(), 0), "pwritev");
        sys::check(::lseek(request_.get(), 0, SEEK_SET), "lseek");
        const ssize_t n = fs_.channel().read(request_.get(), buffer.data(), buffer.size());
        return {buffer.begin(), buffer.begin() + n};
    }

    static bool wants_answer(const Asked& asked) {
        return asked.opcode != FUSE_FORGET && asked.opcode != FUSE_BATCH_FORGET && asked.opcode != FUSE_INTERRUPT &&
               asked.opcode != FUSE_NOTIFY_REPLY;
    }

    void wait_for(const Asked& asked) {
        using Clock = std::chrono::steady_clock;
        const auto patience = Clock::now() + std::chrono::seconds(20);
        for (read_answers(); !asked.is_answered; read_answers()) {
            if (Clock::now() > patience) give_up("no answer", asked.opcode, 0);
            std::this_thread::sleep_for(std::chrono::microseconds(20));
        }
    }

    void read_answers() {
        sent_.read([this](const fuse_out_header& header, std::span<const std::byte> body) {
            if (header.unique == 0) return check_notification(header, body);
            const auto found = asked_.find(header.unique);
            if (found == asked_.end()) give_up("an answer to nobody", 0, static_cast<long long>(header.unique));
            Asked& asked = found->second;
            if (std::exchange(asked.is_answered, true)) give_up("answered twice", asked.opcode, header.error);
            check_answer(asked, header.error, body);
        });
    }

    static void check_notification(const fuse_out_header& header, std::span<const std::byte> body) {
        if (header.error == FUSE_NOTIFY_INVAL_INODE && body.size() == sizeof(fuse_notify_inval_inode_out)) return;
        const auto store = head_of<fuse_notify_store_out>(body);
        if (header.error == FUSE_NOTIFY_STORE && body.size() == sizeof store + store.size) return;
        give_up("a notification of another kind or size", 0, header.error);
    }

    void check_answer(const Asked& asked, int error, std::span<const std::byte> body) {
        const auto fail = [&asked](const char* what, auto number) {
            give_up(what, asked.opcode, static_cast<long long>(number));
        };
        // fuse_dev_do_write takes no others, and who asked would wait for ever.
        if (error > 0 || error <= -512) fail("an error that the kernel does not take", error);
        if (error != 0 && !body.empty()) fail("an error with more behind it", body.size());
        if (!asked.is_well_formed && error != -EINVAL) fail("malformed, and not EINVAL", error);
        if (asked.must_succeed && error != 0) fail("failed", error);
        if (!wants_answer(asked) && (asked.opcode != FUSE_INTERRUPT || error != -EAGAIN)) fail("unasked", error);
        const bool is_page = is_load(asked);
        if (is_page && error != 0 && options_.on_error == Options::OnError::zeros) fail("a load failed", error);
        if (error != 0) return;
        if (const auto [least, most] = lengths(asked); body.size() < least || body.size() > most)
            fail("a body of another size", body.size());
        check_size(asked, body);
    }

    // A READ that read(2) has not sent.
    static bool is_load(const Asked& asked) {
        return asked.opcode == FUSE_READ && asked.is_well_formed && head_of<fuse_read_in>(asked.body).lock_owner == 0;
    }

    // How long the body of a good answer may be.
    static std::pair<std::size_t, std::size_t> lengths(const Asked& asked) {
        const auto exactly = [](std::size_t length) { return std::pair(length, length); };
        const auto read = head_of<fuse_read_in>(asked.body);
        const auto xattr = head_of<fuse_getxattr_in>(asked.body);
        const std::size_t room = std::min<std::size_t>(read.size, max_read);
        switch (asked.opcode) {
            case FUSE_LOOKUP:
            case FUSE_MKNOD:
            case FUSE_MKDIR:
            case FUSE_SYMLINK:
            case FUSE_LINK:
                return exactly(sizeof(fuse_entry_out));
            case FUSE_GETATTR:
            case FUSE_SETATTR:
                return exactly(sizeof(fuse_attr_out));
            case FUSE_READLINK:
                return {1, PATH_MAX};
            case FUSE_OPEN:
            case FUSE_OPENDIR:
                return exactly(sizeof(fuse_open_out));
            case FUSE_CREATE:
            case FUSE_TMPFILE:
                return exactly(sizeof(fuse_entry_out) + sizeof(fuse_open_out));
            case FUSE_WRITE:
            case FUSE_COPY_FILE_RANGE:
                return exactly(sizeof(fuse_write_out));
            case FUSE_STATFS:
                return exactly(sizeof(fuse_statfs_out));
            case FUSE_LSEEK:
                return exactly(sizeof(fuse_lseek_out));
            case FUSE_INIT:
                return exactly(sizeof(fuse_init_out));
            case FUSE_READ:
                return is_load(asked) ? exactly(room) : std::pair(std::size_t{0}, room);
            case FUSE_READDIR:
            case FUSE_READDIRPLUS:
                return {0, room};
            case FUSE_GETXATTR:
            case FUSE_LISTXATTR:
                if (xattr.size == 0) return exactly(sizeof(fuse_getxattr_out));
                return {0, xattr.size};
            case FUSE_FORGET:
            case FUSE_UNLINK:
            case FUSE_RMDIR:
            case FUSE_RENAME:
            case FUSE_RENAME2:
            case FUSE_RELEASE:
            case FUSE_RELEASEDIR:
            case FUSE_FSYNC:
            case FUSE_FSYNCDIR:
            case FUSE_SETXATTR:
            case FUSE_REMOVEXATTR:
            case FUSE_FALLOCATE:
            case FUSE_DESTROY:
                return exactly(0);
            default:
                return {0, max_read};  // of a later handler
        }
    }

    // What the kernel may take i_size from never shrinks.
    void check_size(const Asked& asked, std::span<const std::byte> body) {
        if (options_.stat == Options::Stat::real) return;
        fuse_attr attributes{};
        std::uint64_t node = 0;
        if (asked.opcode == FUSE_LOOKUP) {
            const auto entry = head_of<fuse_entry_out>(body);
            attributes = entry.attr;
            node = entry.nodeid;
        } else if (asked.opcode == FUSE_GETATTR || asked.opcode == FUSE_SETATTR) {
            attributes = head_of<fuse_attr_out>(body).attr;
            node = asked.node;
        }
        if (!S_ISREG(attributes.mode)) return;
        if (static_cast<std::int64_t>(attributes.size) < options_.max_size)
            give_up("a size below any view's", asked.opcode, static_cast<long long>(attributes.size));
        std::uint64_t& before = view_sizes_[node];
        if (attributes.size < before) give_up("a view has shrunk", asked.opcode, static_cast<long long>(before));
        if (asked.opcode != FUSE_SETATTR) before = attributes.size;  // SETATTR tells more than that
    }

    Source source_;
    Options options_;
    SharedState state_;
    FileSystem fs_;
    Session session_;
    Inbox inbox_;
    Sent sent_;
    UniqueFd request_;
    std::uint64_t next_unique_ = 0;
    std::map<std::uint64_t, Asked> asked_;
    std::map<std::uint64_t, std::uint64_t> view_sizes_;
};

}  // namespace
}  // namespace nosigbus::fuzz

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
    ::umask(0);
    // AddressSanitizer clears the shadow of a thread's whole stack, and each input starts some threads.
    pthread_attr_t small{};
    ::pthread_attr_init(&small);
    ::pthread_attr_setstacksize(&small, 2 * nosigbus::max_read);  // one holds a READ's buffer
    ::pthread_setattr_default_np(&small);
    nosigbus::fuzz::playground();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return -1;
    nosigbus::fuzz::Served served(data[0]);
    std::span<const std::uint8_t> rest = std::span(data, size).subspan(1);
    std::span<const std::uint8_t> body;
    while (const auto step = nosigbus::fuzz::take_step(rest, body)) served.take(*step, body);
    served.check_lives();
    return 0;
}
