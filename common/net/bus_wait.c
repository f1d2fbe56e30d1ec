/* bus_wait.c - waiting for what arrives: see bus.h.
 *
 * Owns:      which sockets are asked, and when.
 * Does not:  take messages (bus.c).
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <zmq.h>

#include "common/base/sys.h"
#include "common/net/bus_inner.h"

/* Reader i of those that are read: the inbox, then peers that answer; NULL after the last. */
static struct reader *reader_at(struct gm_bus *bus, int *i)
{
    for (; *i <= bus->n_peers; ++*i) {
        if (*i == bus->n_peers)
            return bus->inbox.sock ? &bus->inbox : NULL;
        if (bus->peers[*i]->answers)
            return &bus->peers[*i]->in;
    }
    return NULL;
}

/* Asks the socket. Its descriptor signals changes only, so this must be done before each poll. */
static bool ask(struct reader *r)
{
    int events = 0;
    size_t len = sizeof events;
    if (!r->ready && zmq_getsockopt(r->sock, ZMQ_EVENTS, &events, &len) == 0)
        r->ready = (events & ZMQ_POLLIN) != 0;
    return r->ready;
}

enum gm_status gm_bus_wait(struct gm_bus *bus, int timeout_ms, struct pollfd *fds, int n_fds,
                           struct gm_err *err)
{
    struct pollfd all[2 + PEERS_MAX + POLL_FDS_MAX];
    struct reader *reader[1 + PEERS_MAX], *r;
    int n = 0;
    bool any = gm_stopping() || bus->lane_ready;
    for (int i = 0; (r = reader_at(bus, &i)) != NULL; i++) {
        any |= ask(r);
        reader[n] = r;
        all[n++] = (struct pollfd){ .fd = r->fd, .events = POLLIN };
    }
    n_fds = n_fds < POLL_FDS_MAX ? n_fds : POLL_FDS_MAX;
    for (int i = 0; i < n_fds; i++)
        all[n + i] = (struct pollfd){ .fd = fds[i].fd, .events = fds[i].events };
    const int lane = n + n_fds;
    all[lane] = (struct pollfd){ .fd = bus->lane.fd, .events = POLLIN }; /* -1 is passed over */
    if (poll(all, (nfds_t)(lane + 1), any ? 0 : timeout_ms) < 0) {
        for (int i = 0; i < n_fds; i++)
            fds[i].revents = 0;
        return errno == EINTR ? GM_OK
                              : gm_fail(err, GM_INTERNAL, "waiting failed: %s", strerror(errno));
    }
    bus->lane_ready |= all[lane].revents != 0;
    for (int i = 0; i < n; i++)
        if (all[i].revents)
            (void)ask(reader[i]);
    for (int i = 0; i < n_fds; i++)
        fds[i].revents = all[n + i].revents;
    return GM_OK;
}
