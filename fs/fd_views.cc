#include "fs/fd_views.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <span>
#include <string>
#include <vector>

#include "fs/attributes.h"
#include "fs/current_request.h"
#include "fs/file_system.h"
#include "fs/newer_requests.h"
#include "lib/syscalls.h"

namespace nosigbus::fd_views {
namespace {

constexpr std::string_view name_of_descriptors = "fd";
// Nothing about the two directories ever changes.
constexpr double long_time = 3600;

struct stat attributes_of(NodeId directory) {
    struct stat result {};
    result.st_ino = directory;  // far from numbers of the source
    result.st_mode = S_IFDIR | 0555;
    result.st_nlink = directory == top ? 3 : 2;
    result.st_blksize = static_cast<blksize_t>(::sysconf(_SC_PAGESIZE));
    return result;
}

// Names as the kernel writes them: "07" is none.
int number_in(std::string_view name) {
    if (name.size() > NAME_MAX) sys::fail(ENAMETOOLONG, "the number of a descriptor");
    int number = -1;
    const auto [end, error] = std::from_chars(name.begin(), name.end(), number);
    const bool is_number = error == std::errc() && end == name.end() && number >= 0;
    if (!is_number || (name.size() > 1 && name.front() == '0')) sys::fail(ENOENT, "not the number of a descriptor");
    return number;
}

// linux/magic.h has not all of them.
constexpr long zfs_magic = 0x2fc12fc1;
constexpr long bcachefs_magic = 0xca451a4e;
constexpr long lustre_magic = 0x0bd00bd0;
constexpr long gpfs_magic = 0x47504653;
constexpr long orangefs_magic = 0x20030528;
constexpr long vboxsf_magic = 0x786f4256;
constexpr long vmhgfs_magic = 0xbacbacbc;

// File systems that have a server: it may be a stranger's.
constexpr std::array served = {long{FUSE_SUPER_MAGIC}, long{NFS_SUPER_MAGIC},  long{SMB_SUPER_MAGIC},
                               long{SMB2_SUPER_MAGIC}, long{CIFS_SUPER_MAGIC}, long{V9FS_MAGIC},
                               long{CEPH_SUPER_MAGIC}, long{AFS_SUPER_MAGIC},  long{AFS_FS_MAGIC},
                               long{CODA_SUPER_MAGIC}, lustre_magic,           gpfs_magic,
                               orangefs_magic,         vboxsf_magic,           vmhgfs_magic};
// Those that stand on others.
constexpr std::array stacked = {long{OVERLAYFS_SUPER_MAGIC}, long{ECRYPTFS_SUPER_MAGIC}};
// That have no block device, but keep files all the same.
constexpr std::array without_device = {long{TMPFS_MAGIC}, long{RAMFS_MAGIC}, long{BTRFS_SUPER_MAGIC}, zfs_magic,
                                       bcachefs_magic};

// Whether it is memory: of memfd_create(2) or a file of tmpfs, or of hugetlbfs. Asks nobody.
bool is_memory(int descriptor) {
    return ::fcntl(descriptor, F_GET_SEALS) >= 0;
}

bool is_slow(const struct statx& file, int descriptor) {
    return file.stx_dev_major == 0 && !is_memory(descriptor);
}

// Whether we may open the file with these rights by way of O_PATH, as any root may.
bool may_open(int descriptor, const Rights& rights) {
    const int wanted = (rights.read ? R_OK : 0) | (rights.write ? W_OK : 0);
    return ::faccessat(AT_FDCWD, sys::proc_path(descriptor).c_str(), wanted, AT_EACCESS) == 0;
}

// Whether somebody who has the very open file holds a lease on it, for which a new open waits. A lease of another open
// file that such an open waits for there cannot be: fcntl(2), F_SETLEASE.
bool has_lease(int descriptor) {
    return ::fcntl(descriptor, F_GETLEASE) != F_UNLCK;
}

// To learn the type of a file system is to ask its server (statfs(2)): so what is not known to have none counts as
// slow.
NodeAccess access_of(int descriptor, Rights rights, const struct statx& attributes) {
    NodeAccess access{};
    access.is_fd_view = true;
    access.may_read = rights.read;
    access.may_write = rights.write;
    access.is_slow = is_slow(attributes, descriptor);
    const bool is_path = (sys::check(::fcntl(descriptor, F_GETFL), "F_GETFL") & O_PATH) != 0;
    // To open a file anew is to ask its server, too, which may think that we are not the one who has it open.
    access.is_shared = !is_path && (access.is_slow || has_lease(descriptor) || !may_open(descriptor, rights));
    return access;
}

// A descriptor of somebody's, closed where that may take any time: to close it is to ask its server, which may be us
// (FLUSH), and the kernel holds the directory during a lookup.
class Borrowed {
  public:
    Borrowed(FileSystem& fs, uid_t user, PeerDescriptor peer) : fs_(fs), user_(user), peer_(std::move(peer)) {}
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    ~Borrowed() {
        if (peer_.descriptor && may_be_slow(descriptor())) fs_.slow_work().close(std::move(peer_.descriptor), user_);
    }

    [[nodiscard]] int descriptor() const { return peer_.descriptor.get(); }
    [[nodiscard]] Rights rights() const { return peer_.rights; }
    [[nodiscard]] UniqueFd& owned() { return peer_.descriptor; }

  private:
    FileSystem& fs_;
    const uid_t user_;
    PeerDescriptor peer_;
};

// The entries of one of the two directories.
class Entries {
  public:
    Entries(fuse_req_t request, std::size_t size, off_t offset, bool plus)
        : request_(request), out_(std::min<std::size_t>(size, 4096)), offset_(offset), plus_(plus) {}

    void add(const char* entry, NodeId id) {
        if (++position_ <= offset_ || is_full_) return;
        const struct stat type = attributes_of(id);
        char* const place = out_.data() + used_;
        const std::size_t room = out_.size() - used_;
        // Without a node: who wants to know more looks it up.
        fuse_entry_param parameters{};
        parameters.attr = type;
        const std::size_t needed = plus_ ? fuse_add_direntry_plus(request_, place, room, entry, &parameters, position_)
                                         : fuse_add_direntry(request_, place, room, entry, &type, position_);
        is_full_ = needed > room;
        if (!is_full_) used_ += needed;
    }

    void give(Reply& reply) const { reply.bytes(std::as_bytes(std::span(out_).first(used_))); }

  private:
    fuse_req_t request_;
    std::vector<char> out_;
    const off_t offset_;
    const bool plus_;
    std::size_t used_ = 0;
    off_t position_ = 0;
    bool is_full_ = false;
};

}  // namespace

bool look_up_directory(const FileSystem& fs, Reply& reply, fuse_ino_t parent, std::string_view entry) {
    if (!fs.options().fd_views) return false;
    fuse_entry_param found{};
    if (parent == FUSE_ROOT_ID && entry == name) found.ino = top;
    if (parent == top && entry == name_of_descriptors) found.ino = descriptors;
    if (found.ino == 0 && parent != top) return false;
    if (found.ino == 0) sys::fail(ENOENT, "no such directory");
    found.attr = attributes_of(found.ino);
    found.attr_timeout = found.entry_timeout = long_time;
    reply.constant_entry(found);
    return true;
}

Found find(FileSystem& fs, fuse_req_t request, std::string_view entry) {
    const int number = number_in(entry);
    const uid_t user = fuse_req_ctx(request)->uid;
    if (fs.slow_work().has_too_many(user)) sys::fail(EBUSY, "descriptors that cannot be closed");
    Borrowed peer(fs, user, fs.descriptor_of(fuse_req_ctx(request)->pid, number));
    const auto known = sys::stat_fd(peer.descriptor(), STATX_TYPE, AT_STATX_DONT_SYNC);
    const dev_t device = makedev(known.stx_dev_major, known.stx_dev_minor);
    if (device == fs.own_device()) sys::fail(ELOOP, "a view of ours");
    const NodeAccess access = access_of(peer.descriptor(), peer.rights(), known);
    if (access.is_slow && fs.slow_work().has_too_many_on(device)) sys::fail(EBUSY, "descriptors that cannot be closed");
    UniqueFd reopened;
    if (!access.is_shared) reopened = sys::reopen(peer.descriptor(), O_PATH);
    UniqueFd& file = access.is_shared ? peer.owned() : reopened;
    auto attributes =
        sys::stat_fd(file.get(), attribute_mask, access.is_slow ? AT_STATX_DONT_SYNC : AT_STATX_SYNC_AS_STAT);
    if (access.is_slow) attributes.stx_size = 0;  // what is at hand may be anything; who opens it learns the truth
    Lookup lookup = fs.nodes().look_up(file, attributes, current_request().number, access);
    fs.forgetter().add(lookup.node()->id(), entry);
    return {std::move(lookup), as_shown(fs, attributes, access)};
}

bool may_be_slow(int descriptor) {
    struct statx file {};
    constexpr int flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
    return ::statx(descriptor, "", flags, STATX_TYPE, &file) == 0 && S_ISREG(file.stx_mode) &&
           is_slow(file, descriptor);
}

void check_file_system(const Node& node) {
    struct statfs file_system {};
    // Those of the kernel's own files answer.
    if (::fstatfs(node.descriptor(), &file_system) != 0) return;
    const auto is_one_of = [&](const auto& magics) {
        return std::ranges::find(magics, static_cast<long>(file_system.f_type)) != magics.end();
    };
    if (is_one_of(served) || is_one_of(stacked) || is_one_of(without_device)) return;
    const auto attributes = sys::stat_fd(node.descriptor(), STATX_TYPE, AT_STATX_DONT_SYNC);
    if (attributes.stx_dev_major == 0) sys::fail(EOPNOTSUPP, "no file system of ordinary files");
}

void answer_attributes(Reply& reply, NodeId directory) {
    const struct stat attributes = attributes_of(directory);
    if (current_request().opcode != statx_opcode) return reply.attributes(attributes, long_time);
    struct statx result {};
    result.stx_mask = STATX_BASIC_STATS;
    result.stx_ino = attributes.st_ino;
    result.stx_mode = static_cast<std::uint16_t>(attributes.st_mode);
    result.stx_nlink = static_cast<std::uint32_t>(attributes.st_nlink);
    result.stx_blksize = static_cast<std::uint32_t>(attributes.st_blksize);
    reply.statx(result);
}

void answer_opening(Reply& reply, const fuse_file_info& info) {
    static_cast<void>(reply.opened(info));  // nothing has been opened
}

void answer_entries(Reply& reply, NodeId directory, std::size_t size, off_t offset, bool plus) {
    Entries entries(reply.request(), size, offset, plus);
    entries.add(".", directory);
    entries.add("..", directory);
    if (directory == top) entries.add("fd", descriptors);
    entries.give(reply);
}

}  // namespace nosigbus::fd_views
