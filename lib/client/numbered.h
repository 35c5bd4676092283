/* The name in a directory of views that stands for a descriptor of the caller. */
#ifndef NOSIGBUS_NUMBERED_H
#define NOSIGBUS_NUMBERED_H

#include <fcntl.h>
#include <stdio.h>

static inline int open_numbered(int views, int fd, int flags) {
    char name[3 * sizeof(fd) + 1];
    (void)snprintf(name, sizeof(name), "%d", fd);
    return openat(views, name, flags | O_CLOEXEC);
}

#endif
