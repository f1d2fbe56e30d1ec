/* bus_inner.h - what the files of the bus share.
 *
 * Owns:      struct gm_bus and its sockets, private to bus.c and bus_wait.c.
 * Does not:  belong to anyone's interface: users include bus.h.
 */
#ifndef GM_NET_BUS_INNER_H
#define GM_NET_BUS_INNER_H

#include "common/net/bus.h"
#include "common/net/lane.h"

enum {
    PEERS_MAX = 160,  /* outgoing connections of one process */
    POLL_FDS_MAX = 8, /* extra descriptors of gm_bus_wait */
    ENVELOPE_BYTES_MAX = 64 << 10,
    VERSION = 1,
    LINGER_MS = 500,
    RECONNECT_MS = 20,
    RECONNECT_MAX_MS = 200,
    SUN_PATH_MAX = 107, /* bytes of a Unix socket's path */
};

/* A socket that is read. `ready`: it may hold a message; found by gm_bus_wait, taken back by
 * gm_bus_take when the socket is empty. Asking a socket costs system calls, so none is asked
 * without need. */
struct reader {
    void *sock;
    int fd; /* readable when there is something new to ask the socket about */
    bool ready;
};

struct gm_peer {
    char endpoint[GM_ENDPOINT_MAX];
    char lane[GM_LANE_PATH_MAX]; /* "": it is on another machine */
    struct reader in;
    bool answers; /* something was sent that is answered over this connection: it is read */
};

struct gm_bus {
    void *ctx;
    struct reader inbox; /* sock NULL for a client */
    struct gm_lane lane;
    bool lane_ready; /* it may hold a message */
    bool lane_last;  /* the last message came from it: sockets are asked first */
    struct gm_peer *peers[PEERS_MAX];
    int n_peers;
    int turn; /* which socket is asked first next time */
    uint64_t boot;
    char identity[64];
};

#endif
