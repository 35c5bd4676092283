/* The global wl_compositor and its surfaces. A frame is copied when it is committed, as to a texture: the part that is
 * damaged. So the buffer is the client's again at once, and what the client does to it while it is read changes no
 * pixel that was looked at already. */
#ifndef SURFACE_H
#define SURFACE_H

#include <stdbool.h>

#include "compositor.h"

/* False where there is no memory. */
bool surface_create_global(struct compositor* compositor);

#endif
