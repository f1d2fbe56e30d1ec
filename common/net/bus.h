/* bus.h - ZeroMQ by role: one ROUTER inbox, one DEALER a peer, bounded, never blocking.
 *
 * Owns:      the context, the sockets and their options (ROUTER_MANDATORY, ROUTER_HANDOVER, LINGER
 *            bounded, every send DONTWAIT, high-water marks, ZMQ_MAXMSGSIZE), message frames,
 *            size caps before unpacking.
 * Does not:  know calls or streams (rpc.h) or what a message means.
 * Threads:   the loop thread only. The context is made after fork/exec.
 */
#ifndef GM_NET_BUS_H
#define GM_NET_BUS_H

#include <stdbool.h>
#include <stdint.h>
#include <protobuf-c/protobuf-c.h>

#include "common/base/err.h"
#include "common/net/version.h"
#include "envelope.pb-c.h"

enum {
    GM_BODY_BYTES_MAX = 8 << 20,      /* soft cap of a protobuf body: above it a call is answered */
    GM_PAYLOAD_BYTES_MAX = 64 << 20,  /* f32 rows */
    GM_MESSAGE_BYTES_MAX = 128 << 20, /* ZMQ_MAXMSGSIZE: above it the peer is cut */
    GM_ENDPOINT_MAX = 160,
    GM_QUEUE_MAX = 8192, /* messages per socket and direction */
    /* over TCP */
    GM_TCP_HEARTBEAT_MS = 5000,     /* a peer of which nothing is heard is asked so often, */
    GM_TCP_SILENCE_MS = 15000,      /* and its connection ends after so long; it is made again */
    GM_TCP_HANDSHAKE_MS = 10000,    /* to connect, and to show a key */
    GM_TCP_RECONNECT_MAX_MS = 1000, /* between two attempts */
    GM_TCP_KEEPALIVE_S = 30,        /* the same by the kernel, for peers without heartbeats: */
    GM_TCP_KEEPALIVE_N = 3,         /* so many questions */
};

struct gm_bus;
struct gm_net;  /* book.h */
struct gm_peer; /* an outgoing connection; owned by the bus, lives as long as it (gm_bus_room) */

/* identity: "shard-0" plus anything unique; bind: NULL for a client without an inbox. GM_INVALID:
 * GM_PROTOCOL of the environment is malformed (version.h). */
enum gm_status gm_bus_open(struct gm_bus **out, const char *identity, const char *bind,
                           struct gm_err *err);
/* The same over TCP where net (borrowed, longer-lived than the bus) is not NULL: each connection
 * has CURVE's keys of both ends, the inbox lets in keys of the book only, and what a role may not
 * send is refused (roles.h). `bind` is net->bind, or NULL. */
enum gm_status gm_bus_open_net(struct gm_bus **out, const char *identity, const char *bind,
                               const struct gm_net *net, struct gm_err *err);
void gm_bus_close(struct gm_bus **bus);
uint64_t gm_bus_boot(const struct gm_bus *bus);               /* random per process */
const char *gm_bus_name(const struct gm_bus *bus);            /* the identity it was opened with */
struct gm_versions gm_bus_versions(const struct gm_bus *bus); /* of the protocol, that it speaks */
uint64_t gm_bus_refused(const struct gm_bus *bus); /* messages dropped since it was opened */

/* The connection to an endpoint, made on first use. NULL with *err when none can be made;
 * GM_INVALID: over TCP, an endpoint that the book does not list. */
struct gm_peer *gm_bus_peer(struct gm_bus *bus, const char *endpoint, struct gm_err *err);
const char *gm_peer_endpoint(const struct gm_peer *peer);

/* Makes room for n more connections where the table is nearly full: those that `used` says no to
 * are closed, and pointers to them are void. For a server whose callers name the endpoints. */
typedef bool gm_bus_used(const void *ctx, const struct gm_peer *peer);
void gm_bus_room(struct gm_bus *bus, int n, gm_bus_used *used, const void *ctx);

/* One received message. Frames are borrowed until gm_msg_free. `from` answers it with
 * gm_bus_answer: for a message taken from the inbox it is the sender's routing id, for one that
 * came over a peer connection (a reply) it is that peer. */
struct gm_msg {
    Gm__Envelope *env; /* unpacked; owned by the message */
    const uint8_t *body;
    size_t body_len;
    const uint8_t *payload; /* third frame, 16-byte aligned or copied so; NULL if none */
    size_t payload_len;
    uint8_t from[64]; /* routing id; from_len 0: came over `peer` */
    uint8_t from_len;
    struct gm_peer *peer;
    const char *who;  /* "shard-1": whose key the connection has; NULL: without a book */
    uint32_t version; /* of the protocol, the highest that both ends speak; 0: there is none, and
                         the message is of those that are readable at every one */
    void *frames[4];  /* private */
    int n_frames;
    void *copy; /* private: an aligned copy of the payload */
};

/* Waits until something arrived, an extra descriptor is ready, or timeout_ms passed (-1: for ever;
 * returns at once when stop was signalled). fds/events/revents as in poll(2); n_fds may be 0. */
struct pollfd;
enum gm_status gm_bus_wait(struct gm_bus *bus, int timeout_ms, struct pollfd *fds, int n_fds,
                           struct gm_err *err);
/* Takes one message if gm_bus_wait found one; call it until it says no. Malformed or oversized
 * ones, those of unknown kinds or of another version are dropped, counted and logged (answered when
 * they name a call). */
bool gm_bus_take(struct gm_bus *bus, struct gm_msg *msg);
void gm_msg_free(struct gm_msg *msg);

/* Unpacks msg->body; NULL with GM_INVALID in *err. Free with protobuf_c_message_free_unpacked. */
void *gm_msg_unpack(const struct gm_msg *msg, const ProtobufCMessageDescriptor *desc,
                    struct gm_err *err);

/* Sends; the envelope's versions, boot and sender are filled in. body NULL: an empty body.
 * GM_UNAVAILABLE when the queue is full, GM_NOT_FOUND when a client that is answered has gone;
 * nothing is sent partly. */
enum gm_status gm_bus_send(struct gm_bus *bus, struct gm_peer *to, Gm__Envelope *env,
                           const ProtobufCMessage *body, const void *payload, size_t payload_len,
                           struct gm_err *err);
enum gm_status gm_bus_answer(struct gm_bus *bus, const struct gm_msg *to, Gm__Envelope *env,
                             const ProtobufCMessage *body, struct gm_err *err);
/* A ring message: only the kind. It is not answered, and a connection over which nothing else is
 * sent is not read. */
enum gm_status gm_bus_post(struct gm_bus *bus, struct gm_peer *to, Gm__Kind kind,
                           const ProtobufCMessage *body, const void *payload, size_t payload_len,
                           struct gm_err *err);

/* The same for the message that the next token waits for: between processes of one machine it goes
 * from thread to thread (lane.h). Its order relative to gm_bus_post is not kept, so only what has
 * at most one on its way per turn may go so. */
enum gm_status gm_bus_post_short(struct gm_bus *bus, struct gm_peer *to, Gm__Kind kind,
                                 const ProtobufCMessage *body, const void *payload,
                                 size_t payload_len, struct gm_err *err);

#endif
