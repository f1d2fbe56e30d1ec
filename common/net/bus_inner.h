/* bus_inner.h - what the files of the bus share.
 *
 * Owns:      struct gm_bus and its sockets, private to bus.c and bus_wait.c.
 * Does not:  belong to anyone's interface: users include bus.h.
 */
#ifndef GM_NET_BUS_INNER_H
#define GM_NET_BUS_INNER_H

#include "common/net/book.h"
#include "common/net/bus.h"
#include "common/net/lane.h"

enum {
    PEERS_MAX = 160,  /* outgoing connections of one process */
    POLL_FDS_MAX = 8, /* extra descriptors of gm_bus_wait */
    ENVELOPE_BYTES_MAX = 64 << 10,
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
    const char *who; /* the book's name of it; NULL without a book */
    bool answers;    /* something was sent that is answered over this connection: it is read */
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
    char identity[32];
    const struct gm_net *net; /* NULL: no keys */
    struct gm_zap *zap;       /* NULL: no inbox over TCP */
    struct gm_versions versions;
    uint64_t refused;
};

/* bus_tcp.c. The inbox, before it is bound: CURVE, and the thread that judges keys. */
enum gm_status gm_bus_tcp_inbox(struct gm_bus *bus, const char *endpoint, struct gm_err *err);
/* A connection, before it is made: the keys of both ends. GM_INVALID: the book has no such
 * endpoint. */
enum gm_status gm_bus_tcp_peer(struct gm_bus *bus, struct gm_peer *peer, struct gm_err *err);
/* Sets msg->who; GM_DENIED, logged, when the sender's role may not send this. Without a book
 * everything may be sent: who reaches the sockets of the run directory (0700) is its owner. */
enum gm_status gm_bus_tcp_check(const struct gm_bus *bus, struct gm_msg *msg, struct gm_err *err);

/* bus_admit.c. Fills what every envelope says of its sender. */
void gm_bus_stamp(const struct gm_bus *bus, Gm__Envelope *env);
/* Sets msg->version. GM_UNSUPPORTED: a kind that is not known; GM_PRECONDITION: no version of the
 * protocol is spoken by both ends, and this message needs one. */
enum gm_status gm_bus_admit(const struct gm_bus *bus, struct gm_msg *msg, struct gm_err *err);
/* Counts a message that is not taken; answers it when it names a call. gm_bus_refuse logs it too.
 */
void gm_bus_deny(struct gm_bus *bus, const struct gm_msg *msg, enum gm_status status,
                 const char *why);
void gm_bus_refuse(struct gm_bus *bus, const struct gm_msg *msg, enum gm_status status,
                   const char *why);

#endif
