#include "fs/operations.h"

#include <algorithm>

#include "fs/file_system.h"
#include "fs/handlers.h"
#include "fs/libfuse.h"
#include "fs/request_threads.h"
#include "lib/credentials.h"

namespace nosigbus {
namespace {

// All we want. What libfuse would add on its own is left out, for these reasons.
//
// ATOMIC_O_TRUNC: an open with O_TRUNC would set i_size to 0 (fuse_truncate_update_attr), and every mapped reader would
// fault.
//
// AUTO_INVAL_DATA: a new mtime would drop the whole file. What has changed is ours to say (EXPLICIT_INVAL_DATA).
//
// WRITEBACK_CACHE: the kernel would keep its own idea of size and times.
//
// HANDLE_KILLPRIV: the kernel, not we, knows whose truncation or change of owner must clear set-user-ID.
//
// EXPORT_SUPPORT: nodes are reached by id, not by a handle that outlives them.
constexpr libfuse::Features wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
                                     FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_EXPLICIT_INVAL_DATA |
                                     FUSE_CAP_POSIX_ACL | FUSE_CAP_IOCTL_DIR;

void init(void* user_data, fuse_conn_info* connection) {
    auto& fs = *static_cast<FileSystem*>(user_data);
    libfuse::Features features = wanted;
    // The source's file system applies the caller's umask, which does not count where the directory has a default ACL.
    if (have_own_umask()) features |= FUSE_CAP_DONT_MASK;
    if (fs.channel().maps_direct_files()) features |= libfuse::direct_io_allow_mmap;
    const libfuse::Features offered = libfuse::offered(*connection);
    libfuse::choose(*connection, features & offered);
    connection->max_read = max_read;
    connection->max_write = std::min<unsigned>(connection->max_write, libfuse::largest_write);
    // Readahead runs in the background; the kernel's own limit of 12 would hold up many readers.
    connection->max_background = 64;
    if (fs.channel().keeps_requests())
        connection->max_write = std::min<unsigned>(connection->max_write, KeptRequests::max_write);
    const bool usable = (offered & FUSE_CAP_EXPLICIT_INVAL_DATA) != 0;
    fs.init() = usable ? FileSystem::Init::done : FileSystem::Init::refused;
}

}  // namespace

const fuse_lowlevel_ops& operations() {
    // What is missing is answered ENOSYS once and then done, or left, by the kernel: flock and fcntl locks stay with
    // it, because waiting for one would hold a request thread.
    static const fuse_lowlevel_ops table = [] {
        fuse_lowlevel_ops ops{};
        ops.init = init;
        ops.lookup = handlers::lookup;
        ops.forget = handlers::forget;
        ops.forget_multi = handlers::forget_multi;
        ops.getattr = handlers::getattr;
        ops.setattr = handlers::setattr;
        ops.readlink = handlers::readlink;
        ops.mknod = handlers::mknod;
        ops.mkdir = handlers::mkdir;
        ops.unlink = handlers::unlink;
        ops.rmdir = handlers::rmdir;
        ops.symlink = handlers::symlink;
        ops.rename = handlers::rename;
        ops.link = handlers::link;
        ops.create = handlers::create;
        ops.open = handlers::open;
        ops.read = handlers::read;
        ops.write = handlers::write;
        ops.release = handlers::release;
        ops.fsync = handlers::fsync;
        ops.fallocate = handlers::fallocate;
        ops.lseek = handlers::lseek;
        ops.ioctl = handlers::ioctl;
        ops.copy_file_range = handlers::copy_file_range;
        ops.opendir = handlers::opendir;
        ops.readdir = handlers::readdir;
        ops.readdirplus = handlers::readdirplus;
        ops.releasedir = handlers::release;
        ops.fsyncdir = handlers::fsyncdir;
        ops.statfs = handlers::statfs;
        ops.getxattr = handlers::getxattr;
        ops.listxattr = handlers::listxattr;
        ops.setxattr = handlers::setxattr;
        ops.removexattr = handlers::removexattr;
        return ops;
    }();
    return table;
}

}  // namespace nosigbus
