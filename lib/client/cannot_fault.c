/* Whether a file needs a view at all. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "lib/client/close.h"
#include "lib/client/nosigbus.h"

/* Whether the kernel promises no more memory than it has (vm.overcommit_memory = 2), or does not say. Then the load of
 * a hole can fault: shmem_inode_acct_blocks() refuses the page with ENOSPC. */
static bool memory_is_promised_sparingly(void) {
    const int file = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
    if (file < 0) return true;
    char mode = '2';
    const bool read_it = read(file, &mode, 1) == 1;
    close(file);
    return !read_it || mode == '2';
}

/* Whether the file has all the memory it will ever need, out of a supply that no mount option limits: a memfd without
 * huge pages. A huge page that was punched can be had again only where one is free. */
static bool is_plain_memory(int fd) {
    struct statfs file_system;
    return fstatfs(fd, &file_system) == 0 && file_system.f_type == TMPFS_MAGIC;
}

int nosigbus_cannot_fault(int fd, off_t end) {
    if (end <= 0) {
        errno = EINVAL;
        return -1;
    }
    /* EINVAL: a file that cannot be sealed. Of the files of a tmpfs only memfds can be: shmem_get_inode() seals all
     * others against seals. */
    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0) return errno == EINVAL ? 0 : -1;
    if ((seals & F_SEAL_SHRINK) == 0) return 0;
    /* Only now: seals stay, so from here on it can only grow. */
    struct stat file;
    if (fstat(fd, &file) != 0) return -1;
    return S_ISREG(file.st_mode) && file.st_size >= end && is_plain_memory(fd) && !memory_is_promised_sparingly();
}
