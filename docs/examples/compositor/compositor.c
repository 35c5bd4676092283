/* A Wayland compositor without a screen, whose clients share memory with it by way of libnosigbus: whatever they do to
 * that memory, no load of the compositor's faults.
 *
 * compositor [--socket NAME] [--mount DIR] [--plain]
 *   --socket NAME  where it listens, below XDG_RUNTIME_DIR; default: the first of wayland-0, wayland-1 … that is free
 *   --mount DIR    where nosigbus is mounted; default: as nosigbus_find(3) has it
 *   --plain        without nosigbus, to see it die
 */
#include "compositor.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <nosigbus.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "shm.h"
#include "surface.h"

static int fail(const char* what) {
    fprintf(stderr, "compositor: %s: %s\n", what, strerror(errno));
    return EXIT_FAILURE;
}

static int handle_signal(int number, void* data) {
    (void)number;
    wl_display_terminate(data);
    return 0;
}

/* Until a signal ends it. */
static int serve(struct compositor* compositor, const char* socket) {
    struct wl_event_loop* loop = wl_display_get_event_loop(compositor->display);
    if (wl_event_loop_add_signal(loop, SIGTERM, handle_signal, compositor->display) == NULL ||
        wl_event_loop_add_signal(loop, SIGINT, handle_signal, compositor->display) == NULL)
        return fail("signals");
    if (!shm_create_global(compositor) || !surface_create_global(compositor)) return fail("globals");
    clients_watch(compositor);
    if (socket == NULL)
        socket = wl_display_add_socket_auto(compositor->display);
    else if (wl_display_add_socket(compositor->display, socket) != 0)
        socket = NULL;
    if (socket == NULL) return fail("no socket");
    printf("listening on %s\n", socket);
    wl_display_run(compositor->display);
    wl_display_destroy_clients(compositor->display);
    printf("%" PRIu64 " frames, %" PRIu64 " pixels, %" PRIu64 " short pools, %" PRIu64 " clients refused\n",
           compositor->frames, compositor->pixels, compositor->short_pools, compositor->refused);
    return EXIT_SUCCESS;
}

int main(int argc, char** argv) {
    static const struct option options[] = {{"socket", required_argument, NULL, 's'},
                                            {"mount", required_argument, NULL, 'm'},
                                            {"plain", no_argument, NULL, 'p'},
                                            {NULL, 0, NULL, 0}};
    const char* socket = NULL;
    const char* mount_point = NULL;
    bool plain = false;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 's') socket = optarg;
        if (option == 'm') mount_point = optarg;
        if (option == 'p') plain = true;
        if (option == '?') return EXIT_FAILURE;
    }
    if (optind < argc) {
        fprintf(stderr, "compositor: what is %s?\n", argv[optind]);
        return EXIT_FAILURE;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);

    struct compositor compositor = {.views = -1};
    if (!plain && (compositor.views = nosigbus_find(mount_point)) < 0)
        return fail(mount_point != NULL ? mount_point : "no nosigbus mount");
    compositor.display = wl_display_create();
    if (compositor.display == NULL) return fail("no display");
    const int status = serve(&compositor, socket);
    wl_display_destroy(compositor.display);
    if (compositor.views >= 0) close(compositor.views);
    return status;
}
