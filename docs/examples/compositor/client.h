/* What the compositor knows of each client: how many frames, and how honest it has been. */
#ifndef CLIENT_H
#define CLIENT_H

#include <stddef.h>
#include <sys/types.h>

#include "compositor.h"

struct client {
    struct compositor* compositor;
    struct wl_listener destroyed;
    pid_t pid;
    uint64_t frames;
    uint64_t proven; /* frames that came as they were drawn, see proof.h */
    uint64_t wrong;  /* and that did not */
    uint64_t short_pools;
    uint32_t number;  /* of the last frame that was proven */
    char refusal[80]; /* why it was sent away; or nothing */
};

/* From here on every connection has its struct client, and a line on stdout when it ends. */
void clients_watch(struct compositor* compositor);

struct client* client_of(struct wl_client* wl_client);

/* A pool is shorter than the client says. It is kept: what is missing shows as zeros, which harms nobody else, and a
 * user would rather see black than lose a program. Said once for each client, counted always. */
void client_report_short(struct client* client, size_t said, off_t real);

/* A protocol error: the client is sent away. */
void client_refuse(struct wl_resource* resource, uint32_t code, const char* why);

/* A pool could not be made or read: errno says why. The client is sent away. */
void client_refuse_pool(struct wl_resource* resource, uint32_t code);

#endif
