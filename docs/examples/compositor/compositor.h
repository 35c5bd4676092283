/* What the parts of the compositor share. */
#ifndef COMPOSITOR_H
#define COMPOSITOR_H

#include <stdint.h>
#include <wayland-server-core.h>

struct compositor {
    struct wl_display* display;
    int views; /* from nosigbus_find; -1: pools are mapped as they are */
    struct wl_listener client_created;
    uint64_t frames;
    uint64_t pixels;
    uint64_t short_pools; /* found to be shorter than their client says, at a frame or before */
    uint64_t refused;     /* clients that were sent away */
};

#endif
