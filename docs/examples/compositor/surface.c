#include "surface.h"

#include <stdlib.h>
#include <time.h>
#include <wayland-server-protocol.h>

#include "client.h"
#include "proof.h"
#include "shm.h"
#include "shm_pool.h"

struct surface {
    struct compositor* compositor;
    /* What is shown. */
    uint32_t* pixels;
    int32_t width;
    int32_t height;
    /* What the next commit brings. */
    bool attached;
    struct wl_resource* buffer; /* or NULL: then nothing is to be shown */
    struct wl_listener buffer_destroyed;
    int64_t damage_top; /* rows, the whole width of them */
    int64_t damage_bottom;
    struct wl_list frame_callbacks;
};

static void forget_buffer(struct surface* surface) {
    if (surface->buffer != NULL) wl_list_remove(&surface->buffer_destroyed.link);
    surface->buffer = NULL;
    surface->attached = false;
}

static void handle_buffer_destroyed(struct wl_listener* listener, void* data) {
    (void)data;
    struct surface* surface = wl_container_of(listener, surface, buffer_destroyed);
    forget_buffer(surface);
}

static void destroy(struct wl_client* wl_client, struct wl_resource* resource) {
    (void)wl_client;
    wl_resource_destroy(resource);
}

static void attach(struct wl_client* wl_client, struct wl_resource* resource, struct wl_resource* buffer, int32_t x,
                   int32_t y) {
    (void)wl_client;
    (void)x;
    (void)y;
    struct surface* surface = wl_resource_get_user_data(resource);
    forget_buffer(surface);
    surface->attached = true;
    surface->buffer = buffer;
    if (buffer != NULL) wl_resource_add_destroy_listener(buffer, &surface->buffer_destroyed);
}

static void damage(struct wl_client* wl_client, struct wl_resource* resource, int32_t x, int32_t y, int32_t width,
                   int32_t height) {
    (void)wl_client;
    (void)x;
    (void)width;
    struct surface* surface = wl_resource_get_user_data(resource);
    const int64_t bottom = (int64_t)y + height;
    if (bottom <= y) return;
    const bool none = surface->damage_top == surface->damage_bottom;
    if (none || y < surface->damage_top) surface->damage_top = y;
    if (none || bottom > surface->damage_bottom) surface->damage_bottom = bottom;
}

static void unlink_callback(struct wl_resource* resource) {
    wl_list_remove(wl_resource_get_link(resource));
}

static void frame(struct wl_client* wl_client, struct wl_resource* resource, uint32_t id) {
    struct surface* surface = wl_resource_get_user_data(resource);
    struct wl_resource* callback = wl_resource_create(wl_client, &wl_callback_interface, 1, id);
    if (callback == NULL) {
        wl_client_post_no_memory(wl_client);
        return;
    }
    wl_resource_set_implementation(callback, NULL, NULL, unlink_callback);
    wl_list_insert(surface->frame_callbacks.prev, wl_resource_get_link(callback));
}

/* For those who have input, or something to show below. */
static void ignore_region(struct wl_client* wl_client, struct wl_resource* resource, struct wl_resource* region) {
    (void)wl_client;
    (void)resource;
    (void)region;
}

/* Nothing is shown in a headless compositor. What a screen would do is to load every pixel; so does this. */
static void show(struct surface* surface, struct client* client) {
    const size_t count = (size_t)surface->width * (size_t)surface->height;
    ++surface->compositor->frames;
    surface->compositor->pixels += count;
    ++client->frames;
    if (!proof_is_there(surface->pixels, count)) return;
    if (proof_holds(surface->pixels, count, client->number + 1))
        ++client->proven;
    else
        ++client->wrong;
    client->number = surface->pixels[1];
}

/* The surface gets the size of the buffer. All of it is damaged where that is another than before. */
static bool take_size(struct surface* surface, const struct shm_buffer* buffer) {
    if (buffer->width == surface->width && buffer->height == surface->height) return true;
    uint32_t* pixels = calloc((size_t)buffer->width * (size_t)buffer->height, sizeof *pixels);
    if (pixels == NULL) return false;
    free(surface->pixels);
    surface->pixels = pixels;
    surface->width = buffer->width;
    surface->height = buffer->height;
    surface->damage_top = 0;
    surface->damage_bottom = buffer->height;
    return true;
}

/* Copies what is damaged. */
static bool take_pixels(struct surface* surface, const struct shm_buffer* buffer) {
    const int64_t top = surface->damage_top > 0 ? surface->damage_top : 0;
    const int64_t bottom = surface->damage_bottom < buffer->height ? surface->damage_bottom : buffer->height;
    if (bottom <= top) return true;
    const size_t stride = (size_t)buffer->stride;
    const struct shm_rows rows = {.offset = (size_t)buffer->offset + (size_t)top * stride,
                                  .stride = stride,
                                  .length = (size_t)buffer->width * sizeof *surface->pixels,
                                  .count = (size_t)(bottom - top)};
    return shm_pool_copy(buffer->pool, rows, surface->pixels + top * buffer->width);
}

static void take_frame(struct surface* surface, struct wl_client* wl_client) {
    const struct shm_buffer* buffer = shm_buffer_of(surface->buffer);
    struct client* client = client_of(wl_client);
    if (!take_size(surface, buffer)) {
        wl_client_post_no_memory(wl_client);
        return;
    }
    if (!take_pixels(surface, buffer)) {
        client_refuse_pool(surface->buffer, WL_SHM_ERROR_INVALID_FD);
        return;
    }
    show(surface, client);
    /* Not before: the frame counts, whatever the client has done since. */
    const size_t end = (size_t)buffer->offset + (size_t)buffer->stride * (size_t)buffer->height;
    const off_t real = shm_pool_real_size(buffer->pool);
    if (real >= 0 && (size_t)real < end) client_report_short(client, end, real);
    wl_buffer_send_release(surface->buffer);
}

static void commit(struct wl_client* wl_client, struct wl_resource* resource) {
    struct surface* surface = wl_resource_get_user_data(resource);
    if (surface->buffer != NULL) {
        take_frame(surface, wl_client);
    } else if (surface->attached) {
        free(surface->pixels);
        surface->pixels = NULL;
        surface->width = surface->height = 0;
    }
    forget_buffer(surface);
    surface->damage_top = surface->damage_bottom = 0;

    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct wl_resource* callback;
    struct wl_resource* next;
    wl_resource_for_each_safe(callback, next, &surface->frame_callbacks) {
        wl_callback_send_done(callback, (uint32_t)(now.tv_sec * 1000 + now.tv_nsec / 1000000));
        wl_resource_destroy(callback);
    }
}

static const struct wl_surface_interface surface_requests = {.destroy = destroy,
                                                             .attach = attach,
                                                             .damage = damage,
                                                             .frame = frame,
                                                             .set_opaque_region = ignore_region,
                                                             .set_input_region = ignore_region,
                                                             .commit = commit};

static void free_surface(struct wl_resource* resource) {
    struct surface* surface = wl_resource_get_user_data(resource);
    forget_buffer(surface);
    struct wl_resource* callback;
    struct wl_resource* next;
    wl_resource_for_each_safe(callback, next, &surface->frame_callbacks) wl_resource_destroy(callback);
    free(surface->pixels);
    free(surface);
}

static void create_surface(struct wl_client* wl_client, struct wl_resource* resource, uint32_t id) {
    struct surface* surface = calloc(1, sizeof *surface);
    struct wl_resource* made =
        wl_resource_create(wl_client, &wl_surface_interface, wl_resource_get_version(resource), id);
    if (surface == NULL || made == NULL) {
        free(surface);
        wl_client_post_no_memory(wl_client);
        return;
    }
    surface->compositor = wl_resource_get_user_data(resource);
    surface->buffer_destroyed.notify = handle_buffer_destroyed;
    wl_list_init(&surface->frame_callbacks);
    wl_resource_set_implementation(made, &surface_requests, surface, free_surface);
}

static void ignore_rectangle(struct wl_client* wl_client, struct wl_resource* resource, int32_t x, int32_t y,
                             int32_t width, int32_t height) {
    (void)wl_client;
    (void)resource;
    (void)x;
    (void)y;
    (void)width;
    (void)height;
}

static const struct wl_region_interface region_requests = {
    .destroy = destroy, .add = ignore_rectangle, .subtract = ignore_rectangle};

static void create_region(struct wl_client* wl_client, struct wl_resource* resource, uint32_t id) {
    struct wl_resource* made =
        wl_resource_create(wl_client, &wl_region_interface, wl_resource_get_version(resource), id);
    if (made == NULL)
        wl_client_post_no_memory(wl_client);
    else
        wl_resource_set_implementation(made, &region_requests, NULL, NULL);
}

static const struct wl_compositor_interface compositor_requests = {.create_surface = create_surface,
                                                                   .create_region = create_region};

static void bind(struct wl_client* wl_client, void* data, uint32_t version, uint32_t id) {
    struct wl_resource* resource = wl_resource_create(wl_client, &wl_compositor_interface, (int)version, id);
    if (resource == NULL)
        wl_client_post_no_memory(wl_client);
    else
        wl_resource_set_implementation(resource, &compositor_requests, data, NULL);
}

bool surface_create_global(struct compositor* compositor) {
    /* The first version: a buffer's pixels are the surface's, without scale and transformation. */
    return wl_global_create(compositor->display, &wl_compositor_interface, 1, compositor, bind) != NULL;
}
