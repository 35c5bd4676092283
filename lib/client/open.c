/* A view of a descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/client/nosigbus.h"
#include "lib/client/numbered.h"

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
    struct stat directory;
    struct stat file;
    if (fstat(views, &directory) != 0 || fstat(fd, &file) != 0) return -1;
    if (!S_ISREG(file.st_mode)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    if (file.st_dev == directory.st_dev) return duplicate(fd, flags);
    const int view = open_numbered(views, fd, flags);
    /* Another thread has closed it since. */
    if (view < 0 && errno == ENOENT) errno = EBADF;
    return view;
}
