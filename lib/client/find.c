/* Where the views are. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "lib/client/close.h"
#include "lib/client/nosigbus.h"
#include "lib/client/numbered.h"
#include "lib/client/protocol.h"

/* The mount point of which nothing is said. */
static const char default_mount_point[] = "/run/nosigbus";

static const char* chosen(const char* mount_point) {
    if (mount_point != NULL) return mount_point;
    const char* const named = secure_getenv("NOSIGBUS_MOUNT");
    return named != NULL && *named != '\0' ? named : default_mount_point;
}

/* Whether names in the directory are descriptors of the caller: 0, or -1. A source may have a directory of this name
 * too, and its mount no views of descriptors; only ours says of the number of a pipe that it is of no regular file. */
static int check_gives_views(int directory) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return -1;
    const int file = open_numbered(directory, ends[0], O_RDONLY | O_NONBLOCK);
    const bool is_known_as_a_pipe = file < 0 && errno == EOPNOTSUPP;
    if (file >= 0) close(file);
    if (file >= 0 || errno == ENOENT) errno = ENOTSUP;
    close_and_keep_errno(ends[0]);
    close_and_keep_errno(ends[1]);
    return is_known_as_a_pipe ? 0 : -1;
}

int nosigbus_find(const char* mount_point) {
    const int root = open(chosen(mount_point), O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) return -1;
    const int views = openat(root, NOSIGBUS_FD_DIRECTORY, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (views < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)) errno = ENOTSUP;
    close_and_keep_errno(root);
    if (views < 0) return -1;
    /* Before anything is opened there, which might be a device's. */
    struct statfs file_system;
    int result = fstatfs(views, &file_system);
    if (result == 0 && file_system.f_type != FUSE_SUPER_MAGIC) {
        errno = ENOTSUP;
        result = -1;
    }
    if (result == 0) result = check_gives_views(views);
    if (result == 0) return views;
    close_and_keep_errno(views);
    return -1;
}
