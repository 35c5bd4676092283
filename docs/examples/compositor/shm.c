#include "shm.h"

#include <stdlib.h>
#include <unistd.h>
#include <wayland-server-protocol.h>

#include "client.h"
#include "shm_pool.h"

enum { BYTES_PER_PIXEL = 4 };

/* As graphics cards have their limits: a client can say that it has any number of pixels, for it costs it nothing, but
 * the compositor has to copy them. */
enum { MAX_SIDE = 8192 };

static void buffer_destroy(struct wl_client* client, struct wl_resource* resource) {
    (void)client;
    wl_resource_destroy(resource);
}

static const struct wl_buffer_interface buffer_requests = {.destroy = buffer_destroy};

static void free_buffer(struct wl_resource* resource) {
    struct shm_buffer* buffer = wl_resource_get_user_data(resource);
    shm_pool_unref(buffer->pool);
    free(buffer);
}

struct shm_buffer* shm_buffer_of(struct wl_resource* wl_buffer) {
    return wl_resource_get_user_data(wl_buffer);
}

/* All that a client says is an attacker's: 64 bits, for no sum or product of what it says may wrap around. */
static bool fits(const struct shm_buffer* buffer) {
    return buffer->offset >= 0 && buffer->width > 0 && buffer->width <= MAX_SIDE && buffer->height > 0 &&
           buffer->height <= MAX_SIDE && buffer->stride >= buffer->width * BYTES_PER_PIXEL &&
           (uint64_t)buffer->offset + (uint64_t)buffer->stride * (uint64_t)buffer->height <=
               shm_pool_size(buffer->pool);
}

static void pool_create_buffer(struct wl_client* wl_client, struct wl_resource* resource, uint32_t id, int32_t offset,
                               int32_t width, int32_t height, int32_t stride, uint32_t format) {
    struct shm_buffer wanted = {wl_resource_get_user_data(resource), offset, width, height, stride};
    if (format != WL_SHM_FORMAT_ARGB8888 && format != WL_SHM_FORMAT_XRGB8888) {
        client_refuse(resource, WL_SHM_ERROR_INVALID_FORMAT, "a buffer of another format");
        return;
    }
    if (!fits(&wanted)) {
        client_refuse(resource, WL_SHM_ERROR_INVALID_STRIDE, "a buffer that is too large, or not within its pool");
        return;
    }
    struct shm_buffer* buffer = malloc(sizeof *buffer);
    struct wl_resource* made = wl_resource_create(wl_client, &wl_buffer_interface, 1, id);
    if (buffer == NULL || made == NULL) {
        free(buffer);
        wl_client_post_no_memory(wl_client);
        return;
    }
    *buffer = wanted;
    shm_pool_ref(buffer->pool);
    wl_resource_set_implementation(made, &buffer_requests, buffer, free_buffer);
}

/* Of what the client says, and of the file: so that a lie is known before a frame comes. */
static void check_size(struct wl_client* wl_client, struct shm_pool* pool) {
    const off_t real = shm_pool_real_size(pool);
    if (real >= 0 && (uint64_t)real < shm_pool_size(pool))
        client_report_short(client_of(wl_client), shm_pool_size(pool), real);
}

static void pool_resize(struct wl_client* wl_client, struct wl_resource* resource, int32_t size) {
    struct shm_pool* pool = wl_resource_get_user_data(resource);
    if (size < 0 || (size_t)size < shm_pool_size(pool)) {
        client_refuse(resource, WL_SHM_ERROR_INVALID_FD, "a pool does not shrink");
        return;
    }
    if (shm_pool_grow(pool, (size_t)size))
        check_size(wl_client, pool);
    else
        client_refuse_pool(resource, WL_SHM_ERROR_INVALID_FD);
}

static void pool_destroy(struct wl_client* wl_client, struct wl_resource* resource) {
    (void)wl_client;
    wl_resource_destroy(resource); /* its buffers go on */
}

static const struct wl_shm_pool_interface pool_requests = {
    .create_buffer = pool_create_buffer, .destroy = pool_destroy, .resize = pool_resize};

static void free_pool(struct wl_resource* resource) {
    shm_pool_unref(wl_resource_get_user_data(resource));
}

static void shm_create_pool(struct wl_client* wl_client, struct wl_resource* resource, uint32_t id, int32_t fd,
                            int32_t size) {
    const struct compositor* compositor = wl_resource_get_user_data(resource);
    if (size <= 0) {
        close(fd);
        client_refuse(resource, WL_SHM_ERROR_INVALID_STRIDE, "a pool without bytes");
        return;
    }
    struct shm_pool* pool = shm_pool_create(compositor->views, fd, (size_t)size);
    if (pool == NULL) {
        client_refuse_pool(resource, WL_SHM_ERROR_INVALID_FD);
        return;
    }
    struct wl_resource* made = wl_resource_create(wl_client, &wl_shm_pool_interface, 1, id);
    if (made == NULL) {
        shm_pool_unref(pool);
        wl_client_post_no_memory(wl_client);
        return;
    }
    wl_resource_set_implementation(made, &pool_requests, pool, free_pool);
    check_size(wl_client, pool);
}

static const struct wl_shm_interface shm_requests = {.create_pool = shm_create_pool};

static void bind(struct wl_client* wl_client, void* data, uint32_t version, uint32_t id) {
    struct wl_resource* resource = wl_resource_create(wl_client, &wl_shm_interface, (int)version, id);
    if (resource == NULL) {
        wl_client_post_no_memory(wl_client);
        return;
    }
    wl_resource_set_implementation(resource, &shm_requests, data, NULL);
    wl_shm_send_format(resource, WL_SHM_FORMAT_ARGB8888);
    wl_shm_send_format(resource, WL_SHM_FORMAT_XRGB8888);
}

bool shm_create_global(struct compositor* compositor) {
    return wl_global_create(compositor->display, &wl_shm_interface, 1, compositor, bind) != NULL;
}
