/* The barrier. */
#include <errno.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "lib/client/nosigbus.h"
#include "lib/client/protocol.h"

int nosigbus_sync(int view, off_t offset, off_t length) {
    if (offset < 0 || length < 0 || length > INT64_MAX - offset) {
        errno = EINVAL;
        return -1;
    }
    const struct nosigbus_range range = {.offset = (uint64_t)offset, .length = (uint64_t)length};
    if (ioctl(view, NOSIGBUS_IOC_SYNC, &range) == 0) return 0;
    /* A server that knows no ranges: all of it. */
    return errno == ENOTTY ? fsync(view) : -1;
}
