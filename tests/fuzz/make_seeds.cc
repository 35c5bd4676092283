// Writes the inputs that fuzz_requests starts from: make_seeds DIRECTORY. Each is a sequence of requests as the kernel
// sends them, over the source that fuzz_requests has.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <string>

#include "tests/fuzz/script.h"
#include "tests/session/examples.h"
#include "tests/session/fake_kernel.h"

#pragma GCC diagnostic ignored "-Wmissing-field-initializers"  // what is not named is 0

using namespace nosigbus::fuzz;
using nosigbus::test::body;
using nosigbus::test::name_of;

namespace {

constexpr std::uint64_t largest = std::numeric_limits<std::int64_t>::max();

std::string step(std::uint32_t opcode, std::uint64_t node, const std::string& body, std::uint8_t how = 0) {
    return to_bytes({.opcode = static_cast<std::uint16_t>(opcode),
                     .length = static_cast<std::uint16_t>(body.size()),
                     .how = how,
                     .node = node}) +
           body;
}

std::string lookup(std::uint64_t parent, const char* name) {
    return step(FUSE_LOOKUP, parent, name_of(name));
}
std::string getattr(std::uint64_t node) {
    return step(FUSE_GETATTR, node, body(fuse_getattr_in{}));
}
std::string open(std::uint64_t node, std::uint32_t flags) {
    return step(FUSE_OPEN, node, body(fuse_open_in{.flags = flags}));
}
std::string load(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::uint32_t size) {
    return step(FUSE_READ, node, body(fuse_read_in{.fh = handle, .offset = offset, .size = size}));
}
std::string read(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::uint32_t size) {
    return step(FUSE_READ, node,
                body(fuse_read_in{
                    .fh = handle, .offset = offset, .size = size, .read_flags = FUSE_READ_LOCKOWNER, .lock_owner = 7}));
}
std::string write(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, const std::string& bytes,
                  std::uint32_t write_flags = 0, std::uint32_t flags = O_RDWR, std::uint8_t how = 0) {
    return step(FUSE_WRITE, node,
                body(fuse_write_in{.fh = handle,
                                   .offset = offset,
                                   .size = static_cast<std::uint32_t>(bytes.size()),
                                   .write_flags = write_flags,
                                   .flags = flags}) +
                    bytes,
                how);
}
std::string truncate(std::uint64_t node, std::uint64_t size, std::uint64_t handle = 0) {
    const std::uint32_t by_handle = handle != 0 ? FATTR_FH : 0;
    return step(FUSE_SETATTR, node,
                body(fuse_setattr_in{.valid = FATTR_SIZE | by_handle, .padding = 0, .fh = handle, .size = size}));
}
std::string fsync(std::uint64_t node, std::uint64_t handle) {
    return step(FUSE_FSYNC, node, body(fuse_fsync_in{.fh = handle}));
}
std::string release(std::uint64_t node, std::uint64_t handle) {
    return step(FUSE_RELEASE, node, body(fuse_release_in{.fh = handle}));
}
std::string forget(std::uint64_t node, std::uint64_t lookups) {
    return step(FUSE_FORGET, node, body(fuse_forget_in{.nlookup = lookups}));
}
std::string create(std::uint64_t parent, const char* name, std::uint8_t how = 0) {
    return step(
        FUSE_CREATE, parent,
        body(fuse_create_in{.flags = O_RDWR | O_CREAT | O_EXCL, .mode = S_IFREG | 0644, .umask = 022}) + name_of(name),
        how);
}
std::string rename(std::uint64_t from, const char* name, std::uint64_t to, const char* new_name, std::uint32_t flags) {
    return step(FUSE_RENAME2, from,
                body(fuse_rename2_in{.newdir = to, .flags = flags}) + name_of(name) + name_of(new_name));
}
std::string read_directory(fuse_opcode opcode, std::uint64_t offset, std::uint32_t size) {
    return step(opcode, root, body(fuse_read_in{.fh = handle_root, .offset = offset, .size = size}));
}
std::string set_xattr(const char* name, const std::string& value, std::uint32_t flags) {
    const auto size = static_cast<std::uint32_t>(value.size());
    return step(FUSE_SETXATTR, node_a, body(size, flags) + name_of(name) + value);
}
std::string get_xattr(const char* name, std::uint32_t size) {
    return step(FUSE_GETXATTR, node_a, body(fuse_getxattr_in{.size = size}) + name_of(name));
}
std::string fallocate(std::uint32_t mode, std::uint64_t offset, std::uint64_t length) {
    return step(FUSE_FALLOCATE, node_a,
                body(fuse_fallocate_in{.fh = handle_a, .offset = offset, .length = length, .mode = mode}));
}
std::string seek(std::uint64_t offset, std::uint32_t whence) {
    return step(FUSE_LSEEK, node_a, body(fuse_lseek_in{.fh = handle_a, .offset = offset, .whence = whence}));
}
std::string copy(std::uint64_t from, std::uint64_t to, std::uint64_t to_offset, std::uint64_t length) {
    return step(FUSE_COPY_FILE_RANGE, node_b,
                body(fuse_copy_file_range_in{
                    .fh_in = from, .nodeid_out = node_a, .fh_out = to, .off_out = to_offset, .len = length}));
}
std::string interrupt(std::uint64_t unique) {
    return step(FUSE_INTERRUPT, 0, body(fuse_interrupt_in{.unique = unique}));
}

// The next handle and node that are given out.
constexpr std::uint64_t next_handle = 4;
constexpr std::uint64_t next_node = 7;

std::map<std::string, std::string> by_story() {
    const std::string page(4096, 'p');
    const std::string mounted(1, '\0');
    const std::string small(1, static_cast<char>(small_views));
    return {
        {"loads", mounted + load(node_a, handle_a, 0, 8192) + load(node_b, handle_b, 4096, 131072) +
                      load(node_b, 77, largest - 4095, 4096) + load(99, handle_root, 0, 0)},
        {"failing-loads", std::string(1, static_cast<char>(failing_loads)) + load(node_b, 77, 0, 4096) +
                              load(node_b, handle_b, 1 << 20, 4096)},
        {"reads", mounted + read(node_a, handle_a, 0, 100) + read(node_b, handle_b, 9999, 4096) +
                      read(node_a, handle_a, largest, 4096)},
        {"writes", mounted + write(node_a, handle_a, 5, " world") + write(node_a, handle_a, 0, "!", 0, O_APPEND) +
                       read(node_a, handle_a, 0, 100) + write(node_b, handle_b, 0, "no")},
        {"write-back", mounted + load(node_a, handle_a, 0, 8192) + write(node_a, handle_a, 0, page, FUSE_WRITE_CACHE) +
                           write(node_a, handle_a, 1 << 20, "past", FUSE_WRITE_CACHE) + fsync(node_a, handle_a)},
        {"growth", small + write(node_a, handle_a, 100000, "far") + getattr(node_a) +
                       write(node_a, handle_a, 0, "end", 0, O_APPEND) + truncate(node_a, 300000, handle_a) +
                       getattr(node_a) + open(node_a, O_RDONLY) + lookup(root, "a")},
        {"truncations", mounted + load(node_a, handle_a, 0, 4096) + truncate(node_a, 0) +
                            truncate(node_b, 1, handle_b) + truncate(node_a, 4096, handle_a) + getattr(node_a)},
        {"huge", mounted + truncate(node_a, largest) + getattr(node_a) + fsync(node_a, handle_a) +
                     write(node_a, handle_a, 0, "x", 0, O_APPEND) + seek(0, SEEK_HOLE)},
        {"attributes",
         mounted +
             step(FUSE_SETATTR, node_a,
                  body(fuse_setattr_in{.valid = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_ATIME | FATTR_MTIME_NOW,
                                       .atime = 1,
                                       .mode = S_IFREG | 06755,
                                       .uid = 1000,
                                       .gid = 1000})) +
             write(node_a, handle_a, 0, "x", 0, O_RDWR, ordinary_user) + getattr(node_a)},
        {"names", mounted + create(root, "new") + release(next_node, next_handle) + rename(root, "new", root, "b", 0) +
                      step(FUSE_UNLINK, root, name_of("b")) + step(FUSE_UNLINK, root, name_of("b")) +
                      rename(root, "a", node_directory, "c", RENAME_EXCHANGE)},
        {"as-user", mounted + create(root, "mine", ordinary_user) + create(node_directory, "mine", ordinary_user) +
                        step(FUSE_MKDIR, root, body(fuse_mkdir_in{.mode = 0700}) + name_of("dir"), ordinary_user) +
                        step(FUSE_UNLINK, root, name_of("a"), ordinary_user)},
        {"links", mounted + step(FUSE_LINK, root, body(fuse_link_in{.oldnodeid = node_a}) + name_of("hard")) +
                      lookup(root, "hard") + step(FUSE_READLINK, node_link, "") +
                      step(FUSE_SYMLINK, root, name_of("s") + name_of("../outside")) + lookup(root, "s") +
                      step(FUSE_READLINK, next_node, "") + open(node_link, O_RDONLY) + open(node_fifo, O_RDONLY)},
        {"making",
         mounted + step(FUSE_MKNOD, root, body(fuse_mknod_in{.mode = S_IFIFO | 0600, .rdev = 0}) + name_of("fifo")) +
             step(FUSE_MKNOD, root, body(fuse_mknod_in{.mode = S_IFCHR | 0600, .rdev = 0x103}) + name_of("null")) +
             lookup(root, "null") + step(FUSE_RMDIR, root, name_of("d")) +
             step(FUSE_MKDIR, root, body(fuse_mkdir_in{.mode = 0755}) + name_of("e")) +
             step(FUSE_RMDIR, root, name_of("e"))},
        {"directory", mounted + read_directory(FUSE_READDIR, 0, 4096) + read_directory(FUSE_READDIRPLUS, 0, 4096) +
                          read_directory(FUSE_READDIRPLUS, 3, 200) + read_directory(FUSE_READDIR, largest, 4096) +
                          lookup(node_directory, "c") + forget(next_node, 2) +
                          step(FUSE_RELEASEDIR, root, body(fuse_release_in{.fh = handle_root}))},
        {"forgetting",
         mounted + lookup(root, "a") + forget(node_a, 2) + getattr(node_a) + load(node_a, handle_a, 0, 4096) +
             release(node_a, handle_a) + lookup(root, "a") +
             step(FUSE_BATCH_FORGET, 0,
                  body(fuse_batch_forget_in{.count = 2}, fuse_forget_one{node_b, 1}, fuse_forget_one{root, 1}))},
        {"closed", mounted + release(node_a, handle_a) + read(node_a, handle_a, 0, 10) + load(node_a, handle_a, 0, 10) +
                       fsync(node_a, handle_a) + release(node_a, handle_a) + open(node_a, O_WRONLY)},
        {"xattrs", mounted + set_xattr("user.one", "1", XATTR_CREATE) + set_xattr("user.one", "2", XATTR_CREATE) +
                       get_xattr("user.one", 0) + get_xattr("user.one", 1) +
                       step(FUSE_LISTXATTR, node_a, body(fuse_getxattr_in{.size = 100})) +
                       step(FUSE_REMOVEXATTR, node_a, name_of("user.one")) + get_xattr("user.one", 10)},
        {"own-xattrs", mounted + get_xattr("user.nosigbus.real_size", 0) + get_xattr("user.nosigbus.view_size", 100) +
                           get_xattr("user.nosigbus.counters", 4096) + set_xattr("user.nosigbus.real_size", "1", 0) +
                           get_xattr("user.nosigbus.none", 100)},
        {"holes", mounted + write(node_a, handle_a, 8192, page) +
                      fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) + seek(0, SEEK_DATA) +
                      seek(8192, SEEK_HOLE) + fallocate(0, 0, 65536) + fallocate(0, 0, largest) + getattr(node_a)},
        {"copies", mounted + copy(handle_b, handle_a, 0, 100000) + copy(handle_b, handle_a, largest, 1) +
                       copy(handle_a, handle_b, 0, 10) + read(node_a, handle_a, 0, 4096)},
        {"changes", mounted + load(node_a, handle_a, 0, 8192) + step(store, 2, "behind") + fsync(node_a, handle_a) +
                        step(truncation, 1, "") + load(node_a, handle_a, 0, 4096) + step(removal, 0, "") +
                        step(store, 0, "again") + lookup(root, "a") + getattr(node_a)},
        {"small-changes", small + load(node_b, handle_b, 0, 8192) + step(truncation, 1 << 20, "") + getattr(node_a) +
                              lookup(root, "a") + open(node_a, O_RDWR) + step(truncation, largest, "") +
                              getattr(node_a)},
        {"real-sizes", std::string(1, static_cast<char>(real_sizes)) + getattr(node_a) + step(truncation, 100, "") +
                           getattr(node_a) + lookup(root, "a") + truncate(node_a, 7) + getattr(node_a)},
        {"cached", std::string(1, static_cast<char>(cached_opens)) + open(node_a, O_RDWR) +
                       write(node_a, handle_a, 4000, page) + write(node_a, handle_a, 0, "x", 0, O_APPEND) +
                       load(node_a, handle_a, 0, 8192) + fsync(node_a, handle_a)},
        {"interrupts", mounted + interrupt(0) + interrupt(22) + getattr(root) + getattr(root) + interrupt(~0ULL)},
        {"lies", mounted + step(FUSE_LOOKUP, root, name_of("a"), lying_length) +
                     step(FUSE_MKDIR, root, body(fuse_mkdir_in{}) + name_of("x") + std::string(16, '\1'), extensions) +
                     step(FUSE_UNLINK, root, name_of("a"), asked_again) + step(FUSE_LOOKUP, root, "a")},
        {"others",
         mounted + step(FUSE_FLUSH, node_a, body(fuse_flush_in{.fh = handle_a})) +
             step(FUSE_IOCTL, node_a, body(fuse_ioctl_in{.fh = handle_a, .cmd = FS_IOC_GETFLAGS, .out_size = 4})) +
             step(FUSE_STATFS, root, "") + step(FUSE_DESTROY, 0, "") + step(FUSE_NOTIFY_REPLY, root, "") +
             step(FUSE_INIT, 0, body(fuse_init_in{.major = 7, .minor = 31})) + step(4096, 0, "")},
    };
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: make_seeds DIRECTORY\n");
        return 1;
    }
    auto seeds = by_story();
    std::string& examples = seeds["examples"] = std::string(1, '\0');
    for (const auto& each : nosigbus::test::examples({.directory = node_directory,
                            .file = node_b,
                            .link = node_link,
                            .opened_directory = handle_root,
                            .opened_file = handle_a}))
        examples += step(each.opcode, each.node, each.body);
    for (const auto& [name, bytes] : seeds) std::ofstream(std::string(argv[1]) + '/' + name, std::ios::binary) << bytes;
}
