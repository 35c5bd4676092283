/* What a program may ask of a view by ioctl(2), and where views of descriptors are. For the server, which answers, and
 * for libnosigbus, through which programs ask: see nosigbus.h. C and C++. */
#ifndef NOSIGBUS_PROTOCOL_H
#define NOSIGBUS_PROTOCOL_H

#include <linux/ioctl.h>
#include <stdint.h> /* NOLINT(modernize-deprecated-headers): for C, too */

/* A directory of the mount: open(2) of the name 7 in it gives the caller a view of its own descriptor 7. */
#define NOSIGBUS_FD_DIRECTORY ".nosigbus/fd"

struct nosigbus_sizes {
    uint64_t real_size; /* of the backing file */
    uint64_t view_size; /* so far loads from a mapping do not fault; never shrinks while the view is open */
};

struct nosigbus_range {
    uint64_t offset;
    uint64_t length; /* 0: to the end of the view */
};

/* Of a view, however it was opened. */
#define NOSIGBUS_IOC_SIZES _IOR('N', 0x51, struct nosigbus_sizes)

/* The barrier for a part of a view, as fsync(2) is for all of it: returns when that part shows everything that happened
 * to the backing file before the call. EINVAL for a range that does not fit into 63 bits. */
#define NOSIGBUS_IOC_SYNC _IOW('N', 0x52, struct nosigbus_range)

#endif
