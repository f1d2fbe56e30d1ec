/* rpc.h - gRPC's meaning on the bus: unary calls and server streams with credits, both sides.
 *
 * Owns:      pending calls with their deadlines, the table of methods of a server, open streams and
 *            their credit, PING/PONG, Health.Check.
 * Does not:  retry (callers do), or block: answers arrive by callback from gm_rpc_handle.
 */
#ifndef GM_NET_RPC_H
#define GM_NET_RPC_H

#include "common/net/bus.h"
#include "service.pb-c.h"

enum { GM_CALLS_MAX = 16384, GM_STREAM_CREDIT = 256 };

struct gm_rpc;

/* ---- client side: asynchronous ------------------------------------------------------------------
 */
/* Called once per REPLY/END/timeout (done = true) and once per ITEM (done = false). body is
 * unpacked by the method's descriptor, borrowed until return; NULL when err->status != 0. */
typedef void gm_rpc_answer(void *ctx, bool done, const ProtobufCMessage *body,
                           const struct gm_err *err);

struct gm_call {
    struct gm_peer *to;
    const char *method;
    const ProtobufCMessage *request;
    const ProtobufCMessageDescriptor *reply; /* of the answer, or of a stream's items */
    uint32_t timeout_ms;                     /* 0: none */
    uint32_t credit;                         /* > 0: a stream, with so many items at first */
    gm_rpc_answer *answer;                   /* NULL: nobody waits for it */
    void *ctx;
};

/* Starts a call. Returns its id, 0 on failure (answer is then not called). */
uint64_t gm_rpc_call(struct gm_rpc *rpc, const struct gm_call *call, struct gm_err *err);
void gm_rpc_credit(struct gm_rpc *rpc, uint64_t call, uint32_t credit);
void gm_rpc_cancel(struct gm_rpc *rpc, uint64_t call); /* sends CANCEL; answer gets CANCELLED */

/* Asks whether the server still knows the call; the PONG is remembered. */
void gm_rpc_ping(struct gm_rpc *rpc, uint64_t call);
/* Monotonic ms of the last PONG for the call (of the call's start before any); *boot: the server
 * that sent it (0: none yet); *lost: the server does not know the call. Unknown calls give 0 and
 * lost. */
int64_t gm_rpc_last_pong_ms(const struct gm_rpc *rpc, uint64_t call, uint64_t *boot, bool *lost);

/* ---- server side --------------------------------------------------------------------------------
 */
struct gm_stream; /* one open call of a client: unary (one gm_rpc_reply) or streamed (items, then
                     end) */

typedef enum gm_status gm_rpc_method(void *self, struct gm_stream *stream,
                                     const ProtobufCMessage *request, struct gm_err *err);
struct gm_method {
    const char *name; /* "Shard.Reserve" */
    const ProtobufCMessageDescriptor *request;
    gm_rpc_method *run; /* a failure status ends the call with *err; on GM_OK it has replied or
                           keeps the stream */
};

/* methods: NULL-name terminated. Takes no ownership of self. */
enum gm_status gm_rpc_open(struct gm_rpc **out, struct gm_bus *bus, const struct gm_method *methods,
                           void *self, struct gm_err *err);
void gm_rpc_close(struct gm_rpc **rpc);

enum gm_status gm_rpc_reply(struct gm_stream *s, const ProtobufCMessage *body); /* ends it */
bool gm_stream_item(struct gm_stream *s,
                    const ProtobufCMessage *body); /* false: no credit, nothing sent */
void gm_stream_end(struct gm_stream *s, const struct gm_err *err); /* err NULL or GM_OK: success */
uint32_t gm_stream_credit(const struct gm_stream *s);
uint64_t gm_stream_deadline_us(const struct gm_stream *s); /* monotonic; 0: none */
/* Called when the client cancels, its deadline passes, or it grants credit. */
typedef void gm_stream_event(void *ctx, struct gm_stream *s, bool gone, uint32_t credit);
void gm_stream_on_event(struct gm_stream *s, gm_stream_event *fn, void *ctx);

/* Gives a message to the RPC layer: true if it was one of its kinds (consumed, caller still frees
 * msg). */
bool gm_rpc_handle(struct gm_rpc *rpc, const struct gm_msg *msg);
/* Runs timeouts; returns milliseconds to the next one (-1: none). */
int gm_rpc_tick(struct gm_rpc *rpc);

#endif
