// What the running kernel can do, asked of the kernel and not of the daemon.
#pragma once

namespace nosigbus::test {

// Whether files whose reads bypass the page cache can be mapped (FUSE_DIRECT_IO_ALLOW_MMAP, Linux 6.6). Where they
// cannot, reads of a view go on in zeros to its end, and the daemon says so when it starts.
bool kernel_maps_direct_files();

// From here on `cat FILE` reads no further than stat(1) says, for programs where reads of a view go on.
void use_a_cat_that_stops();

// Whether another file can be mapped in a view's place (FUSE_PASSTHROUGH, Linux 6.9): a shadow. Where it cannot, the
// output says that `what` is left out.
bool kernel_passes_through(const char* what);

// Whether one can write elsewhere than at the end to a file that is open with O_APPEND (RWF_NOAPPEND, Linux 6.9).
bool kernel_writes_in_place();

// Whether munmap(2) returns when what was stored is in the file (Linux 6.16), so that nothing is lost where the mount
// ends right after.
bool munmap_waits_for_write_back();

// Whether a file of a view has a time of birth (FUSE_STATX, Linux 6.6).
bool kernel_tells_births();

// Whether a tmpfs has attributes user.*, and lets its files be opened with O_DIRECT (both Linux 6.6).
bool tmpfs_has_user_attributes();
bool tmpfs_opens_directly();

// The first of all; where they go on, the output says that `what` is left out.
bool reads_end(const char* what);

}  // namespace nosigbus::test
