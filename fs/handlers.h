// The handlers of FUSE requests, by the file they stand in. Each answers exactly once and never throws; all but read
// may wait for the source's file system, none waits for the refresher.
#pragma once

#include <fuse_lowlevel.h>

#include <cstddef>
#include <cstdint>

namespace nosigbus::handlers {

// names.cc
void lookup(fuse_req_t request, fuse_ino_t parent_id, const char* name);
void forget(fuse_req_t request, fuse_ino_t id, std::uint64_t lookups);
void forget_multi(fuse_req_t request, std::size_t count, fuse_forget_data* forgets);
void mknod(fuse_req_t request, fuse_ino_t parent_id, const char* name, mode_t mode, dev_t device);
void mkdir(fuse_req_t request, fuse_ino_t parent_id, const char* name, mode_t mode);
void symlink(fuse_req_t request, const char* target, fuse_ino_t parent_id, const char* name);
void link(fuse_req_t request, fuse_ino_t id, fuse_ino_t new_parent_id, const char* new_name);
void readlink(fuse_req_t request, fuse_ino_t id);
void unlink(fuse_req_t request, fuse_ino_t parent_id, const char* name);
void rmdir(fuse_req_t request, fuse_ino_t parent_id, const char* name);
void rename(fuse_req_t request, fuse_ino_t parent_id, const char* name, fuse_ino_t new_parent_id, const char* new_name,
            unsigned flags);

// attributes.cc
void getattr(fuse_req_t request, fuse_ino_t id, fuse_file_info* info);
void setattr(fuse_req_t request, fuse_ino_t id, struct stat* wanted, int which, fuse_file_info* info);
void statfs(fuse_req_t request, fuse_ino_t id);

// directories.cc
void opendir(fuse_req_t request, fuse_ino_t id, fuse_file_info* info);
void readdir(fuse_req_t request, fuse_ino_t id, std::size_t size, off_t offset, fuse_file_info* info);
void readdirplus(fuse_req_t request, fuse_ino_t id, std::size_t size, off_t offset, fuse_file_info* info);
void fsyncdir(fuse_req_t request, fuse_ino_t id, int data_only, fuse_file_info* info);

// opening.cc
void create(fuse_req_t request, fuse_ino_t parent_id, const char* name, mode_t mode, fuse_file_info* info);
void open(fuse_req_t request, fuse_ino_t id, fuse_file_info* info);
void release(fuse_req_t request, fuse_ino_t id, fuse_file_info* info);

// file_io.cc
void read(fuse_req_t request, fuse_ino_t id, std::size_t size, off_t offset, fuse_file_info* info);
void write(fuse_req_t request, fuse_ino_t id, const char* data, std::size_t size, off_t offset, fuse_file_info* info);
void fsync(fuse_req_t request, fuse_ino_t id, int data_only, fuse_file_info* info);
void fallocate(fuse_req_t request, fuse_ino_t id, int mode, off_t offset, off_t length, fuse_file_info* info);
void lseek(fuse_req_t request, fuse_ino_t id, off_t offset, int whence, fuse_file_info* info);
void copy_file_range(fuse_req_t request, fuse_ino_t from, off_t from_offset, fuse_file_info* from_info, fuse_ino_t to,
                     off_t to_offset, fuse_file_info* to_info, std::size_t length, int flags);

// ioctls.cc
void ioctl(fuse_req_t request, fuse_ino_t id, unsigned command, void* argument, fuse_file_info* info, unsigned flags,
           const void* in, std::size_t in_size, std::size_t out_size);

// xattrs.cc
void getxattr(fuse_req_t request, fuse_ino_t id, const char* name, std::size_t size);
void listxattr(fuse_req_t request, fuse_ino_t id, std::size_t size);
void setxattr(fuse_req_t request, fuse_ino_t id, const char* name, const char* value, std::size_t size, int flags);
void removexattr(fuse_req_t request, fuse_ino_t id, const char* name);

}  // namespace nosigbus::handlers
