/* A view of a descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/client/nosigbus.h"
#include "lib/client/numbered.h"

/* Without asking a server, which may be one that never answers: its client handed us the descriptor. */
static int look(int fd, struct statx* file) {
    return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, file);
}

/* Another descriptor of a view that is one already: the server gives none of what is in its own mount (ELOOP). */
static int duplicate(int view, int flags) {
    const int own = fcntl(view, F_GETFL);
    if (own < 0) return -1;
    const int may = own & O_ACCMODE;
    if ((own & O_PATH) != 0 || (may != O_RDWR && may != (flags & O_ACCMODE))) {
        errno = EACCES;
        return -1;
    }
    return fcntl(view, F_DUPFD_CLOEXEC, 0);
}

int nosigbus_open(int views, int fd, int flags) {
    if ((flags & ~(O_ACCMODE | O_CLOEXEC | O_NONBLOCK)) != 0 || (flags & O_ACCMODE) == O_ACCMODE) {
        errno = EINVAL;
        return -1;
    }
    struct statx directory;
    struct statx file;
    if (look(views, &directory) != 0 || look(fd, &file) != 0) return -1;
    if (!S_ISREG(file.stx_mode)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    if (file.stx_dev_major == directory.stx_dev_major && file.stx_dev_minor == directory.stx_dev_minor)
        return duplicate(fd, flags);
    const int view = open_numbered(views, fd, flags);
    /* Another thread has closed it since. */
    if (view < 0 && errno == ENOENT) errno = EBADF;
    return view;
}
