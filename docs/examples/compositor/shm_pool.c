#include "shm_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <nosigbus.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct shm_pool {
    unsigned references;
    int views;
    int fd;
    size_t size;
    const char* data;
    nosigbus_mapping* mapping; /* NULL with a deadly one */
};

/* A client that may only name a file (O_PATH, see open(2)) is not to have it read by a compositor that may do more. */
static bool is_open(int fd) {
    const int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_PATH) != 0) errno = EBADF;
    return flags >= 0 && (flags & O_PATH) == 0;
}

/* Puts a mapping of `size` bytes in the place of the one there is. */
static bool map(struct shm_pool* pool, size_t size) {
    nosigbus_mapping* mapping = NULL;
    const char* data;
    if (pool->views >= 0) {
        /* Where the file is sealed against shrinking this is a mapping of the file itself. */
        mapping = nosigbus_map(pool->views, pool->fd, PROT_READ, 0, size);
        if (mapping == NULL) return false;
        data = nosigbus_data(mapping);
    } else {
        data = mmap(NULL, size, PROT_READ, MAP_SHARED, pool->fd, 0);
        if (data == MAP_FAILED) return false;
    }
    if (pool->mapping == NULL && pool->data != NULL) munmap((void*)pool->data, pool->size);
    nosigbus_unmap(pool->mapping);
    pool->mapping = mapping;
    pool->data = data;
    pool->size = size;
    return true;
}

struct shm_pool* shm_pool_create(int views, int fd, size_t size) {
    struct shm_pool* pool = is_open(fd) ? calloc(1, sizeof *pool) : NULL;
    if (pool != NULL) {
        pool->references = 1;
        pool->views = views;
        pool->fd = fd;
        if (map(pool, size)) return pool;
    }
    const int error = errno;
    free(pool);
    close(fd);
    errno = error;
    return NULL;
}

struct shm_pool* shm_pool_ref(struct shm_pool* pool) {
    ++pool->references;
    return pool;
}

void shm_pool_unref(struct shm_pool* pool) {
    if (--pool->references > 0) return;
    if (pool->mapping == NULL) munmap((void*)pool->data, pool->size);
    nosigbus_unmap(pool->mapping);
    close(pool->fd);
    free(pool);
}

bool shm_pool_grow(struct shm_pool* pool, size_t size) {
    return size <= pool->size || map(pool, size);
}

size_t shm_pool_size(const struct shm_pool* pool) {
    return pool->size;
}

off_t shm_pool_real_size(const struct shm_pool* pool) {
    /* The client may have sent a view: then fstat(2) tells how far it can be mapped. */
    if (pool->mapping != NULL && nosigbus_view(pool->mapping) >= 0)
        return nosigbus_real_size(nosigbus_view(pool->mapping));
    struct stat status;
    return fstat(pool->fd, &status) == 0 ? status.st_size : -1;
}

bool shm_pool_copy(const struct shm_pool* pool, struct shm_rows rows, void* to) {
    /* The client has stored its pixels through a mapping of its own, which no event tells of: they show after the
     * barrier. Of that range alone: its price goes with the length. */
    const size_t extent = rows.stride * (rows.count - 1) + rows.length;
    if (pool->mapping != NULL && nosigbus_sync_mapping(pool->mapping, rows.offset, extent) != 0) return false;
    const char* from = pool->data + rows.offset;
    for (size_t i = 0; i < rows.count; ++i) memcpy((char*)to + i * rows.length, from + i * rows.stride, rows.length);
    return true;
}
