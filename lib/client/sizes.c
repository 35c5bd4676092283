/* How large a view and its file are. */
#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include "lib/client/nosigbus.h"
#include "lib/client/protocol.h"

/* From an attribute, in decimal: a server that does not know the ioctl has it. Of any other file system it is the word
 * of whoever wrote the file. */
static off_t size_in_words(int view, const char* name) {
    struct statfs file_system;
    if (fstatfs(view, &file_system) != 0) return -1;
    char text[3 * sizeof(off_t) + 1];
    const ssize_t length = file_system.f_type == FUSE_SUPER_MAGIC ? fgetxattr(view, name, text, sizeof(text) - 1) : -1;
    char* end = text;
    off_t size = 0;
    if (length > 0) {
        text[length] = '\0';
        errno = 0;
        size = strtoll(text, &end, 10);
        if (errno == 0 && end == text + length && size >= 0) return size;
    }
    errno = ENOTSUP;
    return -1;
}

off_t nosigbus_real_size(int view) {
    struct nosigbus_sizes sizes;
    if (ioctl(view, NOSIGBUS_IOC_SIZES, &sizes) == 0) return (off_t)sizes.real_size;
    return errno == ENOTTY ? size_in_words(view, "user.nosigbus.real_size") : -1;
}

off_t nosigbus_view_size(int view) {
    struct nosigbus_sizes sizes;
    if (ioctl(view, NOSIGBUS_IOC_SIZES, &sizes) == 0) return (off_t)sizes.view_size;
    return errno == ENOTTY ? size_in_words(view, "user.nosigbus.view_size") : -1;
}
