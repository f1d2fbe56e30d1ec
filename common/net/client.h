/* client.h - the C client: blocking calls for a command line, on the same bus and RPC.
 *
 * Owns:      one bus without inbox, a call at a time, or one turn followed to its end (follow.h).
 * Does not:  print, or know options.
 */
#ifndef GM_NET_CLIENT_H
#define GM_NET_CLIENT_H

#include "common/net/book.h"
#include "common/net/rpc.h"

enum { GM_CLIENT_PING_MS = 200, GM_CLIENT_PATIENCE_MS = 60000 };

struct gm_client;

/* Where a call goes and what it says. */
struct gm_client_to {
    const char *role;
    uint32_t index;
    const char *method;
    const ProtobufCMessage *request;
    const ProtobufCMessageDescriptor *reply; /* of the answer, or of a stream's items */
    uint32_t timeout_ms;                     /* 0: none */
};

/* net NULL: over the sockets of run_dir; else over TCP, with the key of a client of the book. */
enum gm_status gm_client_open(struct gm_client **out, const char *run_dir,
                              const struct gm_net_options *net, struct gm_err *err);
void gm_client_close(struct gm_client **client);

/* Whether there is such a process (gm_net_has). */
bool gm_client_has(const struct gm_client *c, const char *role, uint32_t index);

/* A unary call to any process; *reply is unpacked, the caller frees it with
 * protobuf_c_message_free_unpacked. */
enum gm_status gm_client_call(struct gm_client *c, const struct gm_client_to *to,
                              ProtobufCMessage **reply, struct gm_err *err);

/* Sends one message of the ring to a process; nothing answers. It goes out while the client is
 * open. */
enum gm_status gm_client_post(struct gm_client *c, const char *role, uint32_t index, Gm__Kind kind,
                              const ProtobufCMessage *body, struct gm_err *err);

/* Runs a server stream to its end; item returns false to cancel. `idle` (may be NULL) is called at
 * least every 50 ms; false cancels too. */
typedef bool gm_client_item(void *ctx, const ProtobufCMessage *item);
typedef bool gm_client_idle(void *ctx);
struct gm_client_flow {
    gm_client_item *item;
    gm_client_idle *idle; /* may be NULL */
    void *ctx;
};
enum gm_status gm_client_stream(struct gm_client *c, const struct gm_client_to *to,
                                const struct gm_client_flow *flow, struct gm_err *err);

/* StartTurn, and Resume as often as needed: items are Gm__TurnEvent with tokens the caller has not
 * seen. On a false from item or idle: Orchestrator.Cancel, then goes on to the finished event
 * (reason "cancelled"). */
enum gm_status gm_client_turn(struct gm_client *c, const Gm__StartRequest *request,
                              uint32_t timeout_ms, gm_client_item *item, gm_client_idle *idle,
                              void *ctx, struct gm_err *err);

#endif
