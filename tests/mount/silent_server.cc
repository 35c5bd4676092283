#include "tests/mount/silent_server.h"

#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/mount/files.h"
#include "tests/mount/mount_table.h"

namespace nosigbus::test {
namespace {

// The file `number` has the id after these.
constexpr std::uint64_t first_id = 2;

fuse_attr attributes_of(std::uint64_t id) {
    fuse_attr attributes{};
    attributes.ino = id;
    attributes.mode = id == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0666;
    attributes.nlink = 1;
    attributes.size = id == FUSE_ROOT_ID ? 0 : SilentServer::file_size;
    attributes.blksize = 4096;
    return attributes;
}

void reply(int device, const fuse_in_header& request, int error, const void* data = nullptr, std::size_t size = 0) {
    fuse_out_header header{};
    header.len = static_cast<std::uint32_t>(sizeof header + size);
    header.error = error;
    header.unique = request.unique;
    iovec parts[] = {{&header, sizeof header}, {const_cast<void*>(data), size}};
    // Fails where nobody waits any more.
    [[maybe_unused]] const ssize_t written = ::writev(device, parts, size > 0 ? 2 : 1);
}

}  // namespace

SilentServer::SilentServer(std::string mountpoint)
    : mountpoint_(std::move(mountpoint)), device_(open_file("/dev/fuse", O_RDWR)) {
    must(::mkdir(mountpoint_.c_str(), 0755), "mkdir");
    const std::string options = fmt::format("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device_.get());
    must(::mount("silent", mountpoint_.c_str(), "fuse.silent", MS_NOSUID | MS_NODEV, options.c_str()), "mount");
    const auto mounted = mounted_at(mountpoint_);
    if (!mounted) throw std::runtime_error("not mounted: " + mountpoint_);
    connection_ = mounted->minor;
    thread_ = std::jthread([this] { serve(); });
}

SilentServer::~SilentServer() {
    abort();
    ::umount2(mountpoint_.c_str(), MNT_DETACH);
}

std::string SilentServer::file(unsigned number) const {
    return fmt::format("{}/{}", mountpoint_, number);
}

void SilentServer::abort() {
    if (!thread_.joinable()) return;
    abort_connection(connection_);
    thread_.join();  // it hears ENODEV
}

void SilentServer::ignore(std::uint32_t opcode) {
    const std::lock_guard lock(mutex_);
    ignored_ = opcode;
}

void SilentServer::go_on() {
    const std::lock_guard lock(mutex_);
    ignored_ = 0;
    for (const auto& message : std::exchange(unanswered_, {})) answer(message);
}

void SilentServer::serve() {
    std::vector<std::byte> buffer(FUSE_MIN_READ_BUFFER + file_size);
    for (;;) {
        const ssize_t length = ::read(device_.get(), buffer.data(), buffer.size());
        if (length < 0 && (errno == EINTR || errno == ENOENT)) continue;
        if (length < static_cast<ssize_t>(sizeof(fuse_in_header))) return;
        const std::vector<std::byte> message(buffer.begin(), buffer.begin() + length);
        fuse_in_header request{};
        std::memcpy(&request, message.data(), sizeof request);
        const std::lock_guard lock(mutex_);
        if (request.opcode == ignored_) {
            unanswered_.push_back(message);
            ++ignored_requests_;
        } else {
            answer(message);
        }
    }
}

void SilentServer::answer(const std::vector<std::byte>& message) {
    fuse_in_header request{};
    std::memcpy(&request, message.data(), sizeof request);
    const std::byte* const argument = message.data() + sizeof request;
    switch (request.opcode) {
        case FUSE_INIT: {
            fuse_init_out out{};
            out.major = FUSE_KERNEL_VERSION;
            out.minor = FUSE_KERNEL_MINOR_VERSION;
            out.max_write = 128 * KiB;
            return reply(device_.get(), request, 0, &out, sizeof out);
        }
        case FUSE_LOOKUP: {
            fuse_entry_out out{};
            out.nodeid = first_id + std::strtoul(reinterpret_cast<const char*>(argument), nullptr, 10);
            out.attr = attributes_of(out.nodeid);
            return reply(device_.get(), request, 0, &out, sizeof out);
        }
        case FUSE_GETATTR: {
            fuse_attr_out out{};
            out.attr = attributes_of(request.nodeid);
            return reply(device_.get(), request, 0, &out, sizeof out);
        }
        case FUSE_OPEN: {
            fuse_open_out out{};
            out.open_flags = FOPEN_DIRECT_IO;  // so that each read asks
            return reply(device_.get(), request, 0, &out, sizeof out);
        }
        case FUSE_READ: {
            fuse_read_in in{};
            std::memcpy(&in, argument, sizeof in);
            const std::size_t offset = std::min<std::size_t>(in.offset, file_size);
            const std::string bytes = pattern(offset, std::min<std::size_t>(in.size, file_size - offset));
            return reply(device_.get(), request, 0, bytes.data(), bytes.size());
        }
        case FUSE_STATFS: {
            fuse_statfs_out out{};
            out.st.bsize = out.st.frsize = 4096;
            out.st.namelen = 255;
            return reply(device_.get(), request, 0, &out, sizeof out);
        }
        case FUSE_FLUSH:
        case FUSE_RELEASE:
        case FUSE_FSYNC:
            return reply(device_.get(), request, 0);
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            return;
        default:
            return reply(device_.get(), request, -ENOSYS);
    }
}

}  // namespace nosigbus::test
