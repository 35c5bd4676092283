/* libnosigbus: views of descriptors, for programs that map files they do not own. A load from a view never faults: not
 * where the file has been truncated, punched or deleted since. Needs a nosigbus mount, see nosigbus(8).
 *
 * Every function may be called by any thread; there are no globals and no signal handlers. What fails returns -1, or
 * NULL, and sets errno. libnosigbus(3) has the whole story.
 */
#ifndef NOSIGBUS_H
#define NOSIGBUS_H

#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/* Sizes are of 64 bits here, and in the library: compile with -D_FILE_OFFSET_BITS=64 where this fails. pkg-config and
 * the package for CMake say so on 32-bit machines. */
typedef char nosigbus_off_t_has_64_bits[sizeof(off_t) == 8 ? 1 : -1];

/* The directory in which a mount gives views of descriptors, as a descriptor of our own (O_PATH, close-on-exec) that
 * the caller closes. The mount is the one at `mount_point`; where that is NULL, at $NOSIGBUS_MOUNT (ignored in
 * set-user-ID programs, see secure_getenv(3)); where that is unset or empty, at /run/nosigbus. Errors: those of
 * open(2); ENOTSUP: not a nosigbus mount, or one with fd_views=no. */
int nosigbus_find(const char* mount_point);

/* A view of the caller's own descriptor `fd`, which must be of a regular file. `views` is what nosigbus_find returned.
 * `flags` as for open(2): O_RDONLY, O_RDWR or O_WRONLY, no more than `fd` allows, and O_CLOEXEC, which is always on, or
 * O_NONBLOCK, without effect. `fd` may be closed afterwards. Where `fd` is a view already, the result is another
 * descriptor of it. Errors: those of open(2); EBADF: there is no descriptor `fd`; EACCES: it does not allow that
 * access; EOPNOTSUPP: it is no regular file, or one that cannot have a view (hugetlbfs, memfd_secret(2)). */
int nosigbus_open(int views, int fd, int flags);

/* The barrier: when it returns, `length` bytes of the view at `offset` (length 0: to its end) show everything that
 * happened to the file before the call, stores through other mappings included. */
int nosigbus_sync(int view, off_t offset, off_t length);

/* The size of the file behind the view, whatever fstat(2) says of the view itself. */
off_t nosigbus_real_size(int view);

/* How far loads from a mapping of the view cannot fault. Never shrinks while the view is open or mapped. */
off_t nosigbus_view_size(int view);

/* 1: no load from a plain mapping of `fd` that ends at `end` can ever fault, because the file is sealed against
 * shrinking (F_SEAL_SHRINK, fcntl(2)) and long enough. 0: it can. */
int nosigbus_cannot_fault(int fd, off_t end);

/* A mapping whose loads do not fault. */
typedef struct nosigbus_mapping nosigbus_mapping;

/* Maps `length` bytes of the caller's descriptor `fd` at `offset` (a multiple of the page size), MAP_SHARED: a plain
 * mapping where that cannot fault, else one of a view. `protection`: PROT_READ, or PROT_READ | PROT_WRITE if `fd`
 * allows it. `fd` may be closed afterwards. Errors: those of nosigbus_open and mmap(2); EOVERFLOW: the range does not
 * end within the view, whose size see nosigbus_view_size. */
nosigbus_mapping* nosigbus_map(int views, int fd, int protection, off_t offset, size_t length);

/* Where it is in memory, until nosigbus_unmap. */
void* nosigbus_data(const nosigbus_mapping* mapping);
size_t nosigbus_length(const nosigbus_mapping* mapping);

/* The view, owned by the mapping; -1 where the mapping is plain. */
int nosigbus_view(const nosigbus_mapping* mapping);

/* nosigbus_sync for `length` bytes of the mapping from `start` on (length 0: to its end). A plain mapping needs none:
 * then it does nothing. */
int nosigbus_sync_mapping(const nosigbus_mapping* mapping, size_t start, size_t length);

/* Unmaps and closes it. NULL is allowed. */
void nosigbus_unmap(nosigbus_mapping* mapping);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
