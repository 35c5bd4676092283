/* The memory that a Wayland client shares: a file of which it has a descriptor, too, and may truncate at any time. This
 * is what a compositor needs of libnosigbus; it knows nothing of the protocol. */
#ifndef SHM_POOL_H
#define SHM_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct shm_pool;

/* Maps `size` bytes of the file `fd`, as many as the client says it has. `views` is what nosigbus_find returned; -1:
 * maps the file itself, which is deadly. The pool owns `fd`. Returns a pool with one reference, or NULL with errno, and
 * then `fd` is closed. */
struct shm_pool* shm_pool_create(int views, int fd, size_t size);

struct shm_pool* shm_pool_ref(struct shm_pool* pool);
void shm_pool_unref(struct shm_pool* pool);

/* Maps `size` bytes, more than before. False with errno, where that fails; then the pool is what it was. */
bool shm_pool_grow(struct shm_pool* pool, size_t size);

size_t shm_pool_size(const struct shm_pool* pool);     /* as the client says */
off_t shm_pool_real_size(const struct shm_pool* pool); /* of the file, now; -1 with errno */

/* Rows of pixels in a pool, `stride` bytes from the start of one to the start of the next. */
struct shm_rows {
    size_t offset;
    size_t stride;
    size_t length; /* bytes of a row */
    size_t count;  /* at least one */
};

/* Copies rows that lie within the size of the pool to `to`, without gaps. They are what the client has stored there
 * before this call; where its file ends they are zeros. False with errno where they cannot be had. */
bool shm_pool_copy(const struct shm_pool* pool, struct shm_rows rows, void* to);

#endif
