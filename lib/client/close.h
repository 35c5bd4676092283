/* close(2) on the way out of what has failed. */
#ifndef NOSIGBUS_CLOSE_H
#define NOSIGBUS_CLOSE_H

#include <errno.h>
#include <unistd.h>

static inline void close_and_keep_errno(int fd) {
    const int error = errno;
    close(fd);
    errno = error;
}

#endif
