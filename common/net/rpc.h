/* rpc.h - gRPC's meaning on the bus: unary calls and streams of all three kinds, both sides.
 *
 * Owns:      pending calls with their deadlines and signs of life, the table of methods of a
 * server, open streams, the credit of both directions, metadata, trace context. Does not:  retry
 * (callers do), or block: answers arrive by callback from gm_rpc_handle.
 *
 * Kinds, as service.proto declares them (reflect.h reads it): unary; server stream (items, then an
 * end); client stream (messages, then the one reply); both. A client stream's CALL has no body.
 */
#ifndef GM_NET_RPC_H
#define GM_NET_RPC_H

#include "common/net/bus.h"
#include "common/net/trace.h"
#include "service.pb-c.h"

enum {
    GM_CALLS_MAX = 16384,
    GM_STREAM_CREDIT = 256,       /* items of a stream on their way to a client at most */
    GM_SEND_CREDIT = 64,          /* messages of a client stream on their way to a server at most */
    GM_META_MAX = 32,             /* pairs of metadata of a call, or of its end */
    GM_META_BYTES_MAX = 8 << 10,  /* keys and values together */
    GM_KEEPALIVE_MS = 5000,       /* silence after which a call with `keepalive` asks for a sign */
    GM_KEEPALIVE_LOST_MS = 15000, /* and after which it ends */
};

struct gm_rpc;

/* ---- client side: asynchronous ------------------------------------------------------------------
 */
/* Called once per REPLY/END/timeout (done = true) and once per ITEM (done = false). body is
 * unpacked by the method's descriptor, borrowed until return; NULL when err->status != 0. */
typedef void gm_rpc_answer(void *ctx, bool done, const ProtobufCMessage *body,
                           const struct gm_err *err);
/* Called when the server takes `credit` more messages of a client stream. */
typedef void gm_rpc_room(void *ctx, uint64_t call, uint32_t credit);

struct gm_call {
    struct gm_peer *to;
    const char *method;
    const ProtobufCMessage *request;         /* NULL for a client stream */
    const ProtobufCMessageDescriptor *reply; /* of the answer, or of a stream's items */
    uint32_t timeout_ms;                     /* 0: none */
    uint32_t credit;                         /* > 0: a stream, with so many items at first */
    gm_rpc_answer *answer;                   /* NULL: nobody waits for it */
    void *ctx;
};

/* What few calls need. */
struct gm_call_more {
    gm_rpc_room *room;     /* of a client stream; NULL: gm_rpc_sendable is asked */
    Gm__Meta *const *meta; /* [n_meta], copied */
    size_t n_meta;
    const char *traceparent; /* "": a new trace; NULL: none. The call is a span below it */
    bool keepalive;          /* ends UNAVAILABLE when the server gives no sign of life */
};

/* Starts a call. Returns its id, 0 on failure (answer is then not called). */
uint64_t gm_rpc_call(struct gm_rpc *rpc, const struct gm_call *call, struct gm_err *err);
uint64_t gm_rpc_call_with(struct gm_rpc *rpc, const struct gm_call *call,
                          const struct gm_call_more *more, struct gm_err *err);
void gm_rpc_credit(struct gm_rpc *rpc, uint64_t call, uint32_t credit);
void gm_rpc_cancel(struct gm_rpc *rpc, uint64_t call); /* sends CANCEL; answer gets CANCELLED */

/* One message of a client stream. GM_EXHAUSTED: the server has no room for it now (`room` tells
 * when); GM_NOT_FOUND: the call has ended; GM_PRECONDITION: after gm_rpc_done. Nothing is sent
 * then. */
enum gm_status gm_rpc_send(struct gm_rpc *rpc, uint64_t call, const ProtobufCMessage *message,
                           struct gm_err *err);
uint32_t gm_rpc_sendable(const struct gm_rpc *rpc, uint64_t call); /* messages it takes now */
void gm_rpc_done(struct gm_rpc *rpc, uint64_t call);               /* no message follows */

/* Metadata that came with the end of a call; only inside its answer with done = true. */
Gm__Meta *const *gm_rpc_trailer(const struct gm_rpc *rpc, size_t *n);

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

/* request is NULL for a client stream: gm_stream_on_message says who takes its messages. */
typedef enum gm_status gm_rpc_method(void *self, struct gm_stream *stream,
                                     const ProtobufCMessage *request, struct gm_err *err);
struct gm_method {
    const char *name; /* "Shard.Reserve" */
    const ProtobufCMessageDescriptor
        *request;       /* of the request, or of a client stream's messages */
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
/* Called when the client cancels or is gone, its deadline passes, or it grants credit. */
typedef void gm_stream_event(void *ctx, struct gm_stream *s, bool gone, uint32_t credit);
void gm_stream_on_event(struct gm_stream *s, gm_stream_event *fn, void *ctx);

/* A message of a client stream, borrowed until return; NULL: no more will come. Returns how many
 * further messages the client may send for it: 1, or 0 now and gm_stream_room later. The stream
 * may be ended inside. */
typedef uint32_t gm_stream_message(void *ctx, struct gm_stream *s, const ProtobufCMessage *message);
void gm_stream_on_message(struct gm_stream *s, gm_stream_message *fn, void *ctx);
void gm_stream_room(struct gm_stream *s, uint32_t more); /* the client may send so many more */

/* Value of a metadata key of the call, not ended by 0; NULL: it is not there. */
const uint8_t *gm_stream_meta(const struct gm_stream *s, const char *key, size_t *len);
/* Adds a pair to what the end of the call carries. GM_INVALID: no key; GM_EXHAUSTED: too much. */
enum gm_status gm_stream_trailer(struct gm_stream *s, const char *key, const void *value,
                                 size_t len, struct gm_err *err);
/* The caller's span of trace context; "" if it gave none or none that is valid. */
const char *gm_stream_trace(const struct gm_stream *s);

/* Gives a message to the RPC layer: true if it was one of its kinds (consumed, caller still frees
 * msg). */
bool gm_rpc_handle(struct gm_rpc *rpc, const struct gm_msg *msg);
/* Runs timeouts; returns milliseconds to the next one (-1: none). */
int gm_rpc_tick(struct gm_rpc *rpc);

#endif
