/* bus_room.c - which connections go where a caller names ever new ones: see bus.h.
 *
 * Owns:      the closing of a connection before the bus ends.
 * Does not:  make connections or send (bus.c).
 */
#include <stdlib.h>
#include <zmq.h>

#include "common/net/bus_inner.h"

void gm_bus_room(struct gm_bus *bus, int n, gm_bus_used *used, const void *ctx)
{
    if (bus->n_peers + n <= PEERS_MAX)
        return;
    int kept = 0;
    for (int i = 0; i < bus->n_peers; i++) {
        struct gm_peer *p = bus->peers[i];
        if (p->answers || used(ctx, p)) { /* answers: a call may be waiting for one */
            bus->peers[kept++] = p;
            continue;
        }
        zmq_close(p->in.sock); /* what was sent has LINGER_MS to go out */
        free(p);
    }
    bus->n_peers = kept;
}
