#include "client.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void handle_destroyed(struct wl_listener* listener, void* data) {
    (void)data;
    struct client* client = wl_container_of(listener, client, destroyed);
    printf("client %d: %" PRIu64 " frames, %" PRIu64 " proven, %" PRIu64 " wrong, %" PRIu64 " short%s%s\n",
           (int)client->pid, client->frames, client->proven, client->wrong, client->short_pools,
           client->refusal[0] != '\0' ? "; refused: " : "", client->refusal);
    free(client);
}

static void handle_created(struct wl_listener* listener, void* data) {
    struct wl_client* wl_client = data;
    struct client* client = calloc(1, sizeof *client);
    if (client == NULL) {
        wl_client_post_no_memory(wl_client);
        return;
    }
    client->compositor = wl_container_of(listener, client->compositor, client_created);
    wl_client_get_credentials(wl_client, &client->pid, NULL, NULL);
    client->destroyed.notify = handle_destroyed;
    wl_client_add_destroy_listener(wl_client, &client->destroyed);
}

void clients_watch(struct compositor* compositor) {
    compositor->client_created.notify = handle_created;
    wl_display_add_client_created_listener(compositor->display, &compositor->client_created);
}

struct client* client_of(struct wl_client* wl_client) {
    struct wl_listener* listener = wl_client_get_destroy_listener(wl_client, handle_destroyed);
    struct client* client = wl_container_of(listener, client, destroyed);
    return client;
}

void client_report_short(struct client* client, size_t said, off_t real) {
    ++client->compositor->short_pools;
    if (client->short_pools++ > 0) return;
    printf("client %d lies: a pool that should have %zu bytes has %jd\n", (int)client->pid, said, (intmax_t)real);
}

void client_refuse(struct wl_resource* resource, uint32_t code, const char* why) {
    struct client* client = client_of(wl_resource_get_client(resource));
    /* What else it has sent is thrown away by libwayland; it may be refused only once. */
    if (client->refusal[0] == '\0') ++client->compositor->refused;
    snprintf(client->refusal, sizeof client->refusal, "%s", why);
    wl_resource_post_error(resource, code, "%s", why);
}

void client_refuse_pool(struct wl_resource* resource, uint32_t code) {
    const int error = errno;
    char why[80];
    snprintf(why, sizeof why, "cannot use this pool: %s", strerror(error));
    client_refuse(resource, code, why);
}
