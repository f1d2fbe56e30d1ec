/* rpc_inner.h - what the files of the RPC layer share.
 *
 * Owns:      struct gm_rpc, private to rpc.c, rpc_client.c, rpc_server.c and rpc_meta.c.
 * Does not:  belong to anyone's interface: users include rpc.h.
 */
#ifndef GM_NET_RPC_INNER_H
#define GM_NET_RPC_INNER_H

#include "common/base/map.h"
#include "common/net/rpc.h"

#define GM_RPC_TIMEOUT_US_MAX ((uint64_t)1 << 52) /* longer ones never end in practice */

struct gm_rpc {
    struct gm_bus *bus;
    const struct gm_method *methods;
    void *self;
    uint64_t next_call;
    struct gm_idmap calls;   /* id -> struct call */
    struct gm_idmap streams; /* key -> struct gm_stream */
    Gm__Meta **trailer;      /* of the answer that is being told; borrowed */
    size_t n_trailer;
    int64_t tick_ms; /* the last tick: time in which this process slept counts for nobody */
};

/* ---- rpc_client.c -----------------------------------------------------------------------------
 */
void gm_rpc_client_close(struct gm_rpc *rpc);
void gm_rpc_on_answer(struct gm_rpc *rpc, const struct gm_msg *msg); /* REPLY, ITEM, END */
void gm_rpc_on_pong(struct gm_rpc *rpc, const struct gm_msg *msg);
void gm_rpc_on_room(struct gm_rpc *rpc, const struct gm_msg *msg); /* CREDIT of a server */
/* Ends what is late; milliseconds to the next look, -1: none. slept_ms: not to be counted. */
int64_t gm_rpc_client_tick(struct gm_rpc *rpc, int64_t now, int64_t slept_ms);

/* ---- rpc_server.c -----------------------------------------------------------------------------
 */
void gm_rpc_server_close(struct gm_rpc *rpc);
void gm_rpc_on_call(struct gm_rpc *rpc, const struct gm_msg *msg);
void gm_rpc_on_control(struct gm_rpc *rpc, const struct gm_msg *msg); /* CREDIT, CANCEL, PING */
void gm_rpc_on_message(struct gm_rpc *rpc, const struct gm_msg *msg); /* SEND, DONE */
int64_t gm_rpc_server_tick(struct gm_rpc *rpc, int64_t now);

/* ---- rpc_meta.c -------------------------------------------------------------------------------
 */
/* Pairs that are owned. */
struct gm_metas {
    Gm__Meta **at;
    size_t n, bytes;
};
void gm_metas_free(struct gm_metas *m);
/* GM_INVALID: the key is no lower-case name; GM_EXHAUSTED: too many pairs or bytes, or no memory.
 */
enum gm_status gm_metas_add(struct gm_metas *m, const char *key, const void *value, size_t len,
                            struct gm_err *err);
enum gm_status gm_metas_add_all(struct gm_metas *m, Gm__Meta *const *from, size_t n,
                                struct gm_err *err);

#endif
