/* rpc.c - gRPC's meaning on the bus: see rpc.h.
 *
 * Owns:      opening and closing, which side a message is for, the clock of both.
 * Does not:  know calls we made (rpc_client.c) or calls made to us (rpc_server.c).
 */
#include <stdlib.h>

#include "common/base/sys.h"
#include "common/net/rpc_inner.h"

enum {
    TICK_MS_MAX = 60000,
    SLEPT_MS = 2000, /* a tick so late was not waited for: this process did not run */
};

enum gm_status gm_rpc_open(struct gm_rpc **out, struct gm_bus *bus, const struct gm_method *methods,
                           void *self, struct gm_err *err)
{
    struct gm_rpc *rpc = calloc(1, sizeof *rpc);
    *out = NULL;
    if (!rpc)
        return gm_fail(err, GM_EXHAUSTED, "no memory for calls");
    rpc->bus = bus;
    rpc->methods = methods;
    rpc->self = self;
    rpc->next_call = gm_random_u64() >> 16;
    enum gm_status rc = gm_idmap_open(&rpc->calls, 64, GM_CALLS_MAX, err);
    if (rc == GM_OK)
        rc = gm_idmap_open(&rpc->streams, 64, GM_CALLS_MAX, err);
    if (rc != GM_OK) {
        gm_rpc_close(&rpc);
        return rc;
    }
    *out = rpc;
    return GM_OK;
}

void gm_rpc_close(struct gm_rpc **rpc)
{
    struct gm_rpc *r = *rpc;
    if (!r)
        return;
    gm_rpc_client_close(r);
    gm_rpc_server_close(r);
    gm_idmap_close(&r->calls);
    gm_idmap_close(&r->streams);
    free(r);
    *rpc = NULL;
}

bool gm_rpc_handle(struct gm_rpc *rpc, const struct gm_msg *msg)
{
    switch (msg->env->kind) {
    case GM__KIND__CALL:
        gm_rpc_on_call(rpc, msg);
        return true;
    case GM__KIND__CREDIT:
        if (msg->peer)
            gm_rpc_on_room(rpc, msg);
        else
            gm_rpc_on_control(rpc, msg);
        return true;
    case GM__KIND__CANCEL:
    case GM__KIND__PING:
        gm_rpc_on_control(rpc, msg);
        return true;
    case GM__KIND__SEND:
    case GM__KIND__DONE:
        gm_rpc_on_message(rpc, msg);
        return true;
    case GM__KIND__REPLY:
    case GM__KIND__ITEM:
    case GM__KIND__END:
        gm_rpc_on_answer(rpc, msg);
        return true;
    case GM__KIND__PONG:
        gm_rpc_on_pong(rpc, msg);
        return true;
    default:
        return false;
    }
}

int gm_rpc_tick(struct gm_rpc *rpc)
{
    const int64_t now = gm_now_ms();
    const int64_t since = rpc->tick_ms ? now - rpc->tick_ms : 0;
    rpc->tick_ms = now;
    const int64_t a = gm_rpc_client_tick(rpc, now, since > SLEPT_MS ? since : 0);
    const int64_t b = gm_rpc_server_tick(rpc, now);
    const int64_t next = a < 0 || (b >= 0 && b < a) ? b : a;
    return next < 0 ? -1 : (int)(next > TICK_MS_MAX ? TICK_MS_MAX : next + 1);
}
