/* The global wl_shm. libwayland has one, which wl_display_init_shm makes: it maps the pools as they are, and takes
 * SIGBUS for the whole process to live through what clients do to them. This one needs no signal. */
#ifndef SHM_H
#define SHM_H

#include <stdbool.h>
#include <stdint.h>

#include "compositor.h"

struct shm_pool;

/* A wl_buffer. That it lies within its pool, as the client has said it to be, is made sure when it is created. */
struct shm_buffer {
    struct shm_pool* pool;
    int32_t offset;
    int32_t width;
    int32_t height;
    int32_t stride;
};

/* False where there is no memory. */
bool shm_create_global(struct compositor* compositor);

struct shm_buffer* shm_buffer_of(struct wl_resource* wl_buffer);

#endif
