/* rpc_client.c - calls that we made: see rpc.h.
 *
 * Owns:      pending calls, their deadlines, their signs of life, the room the server has for a
 *            client stream's messages.
 * Does not:  serve (rpc_server.c) or retry (callers).
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/sys.h"
#include "common/net/rpc_inner.h"

enum { DEADLINE_GRACE_MS = 200 };

/* A call we made. */
struct call {
    uint64_t id;
    struct gm_peer *peer;
    const ProtobufCMessageDescriptor *reply;
    gm_rpc_answer *answer;
    gm_rpc_room *room;
    void *ctx;
    int64_t deadline_ms; /* 0: none */
    int64_t pong_ms;     /* the last word of the server */
    int64_t asked_ms;    /* the last PING of keepalive */
    uint64_t boot;
    uint32_t sendable; /* messages that the server takes now */
    bool lost, sends, half_closed, keepalive;
    bool items; /* a stream of items and an end answer it; else one reply */
};

void gm_rpc_client_close(struct gm_rpc *rpc)
{
    while (rpc->calls.n > 0)
        free(gm_idmap_take(&rpc->calls, rpc->calls.entries[0].key));
}

static struct call *call_new(struct gm_rpc *rpc, const struct gm_call *call,
                             const struct gm_call_more *more)
{
    struct call *c = calloc(1, sizeof *c);
    if (c)
        *c = (struct call){ .id = ++rpc->next_call,
                            .peer = call->to,
                            .reply = call->reply,
                            .answer = call->answer,
                            .room = more->room,
                            .ctx = call->ctx,
                            .deadline_ms = call->timeout_ms ? gm_now_ms() + call->timeout_ms : 0,
                            .pong_ms = gm_now_ms(),
                            .sends = call->request == NULL,
                            .items = call->credit > 0,
                            .keepalive = more->keepalive };
    return c;
}

/* Metadata is judged here too: a caller hears at once what a server would refuse. */
static enum gm_status send_call(struct gm_rpc *rpc, const struct call *c,
                                const struct gm_call *call, const struct gm_call_more *more,
                                struct gm_err *err)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    struct gm_metas meta = { NULL, 0, 0 };
    char trace[GM_TRACE_MAX];
    env.kind = GM__KIND__CALL;
    env.has_call = 1;
    env.call = c->id;
    env.method = (char *)call->method;
    env.has_timeout_us = call->timeout_ms > 0;
    env.timeout_us = (uint64_t)call->timeout_ms * 1000;
    env.has_credit = call->credit > 0;
    env.credit = call->credit;
    if (more->traceparent) {
        gm_trace_child(trace, more->traceparent);
        env.traceparent = trace;
    }
    enum gm_status rc = gm_metas_add_all(&meta, more->meta, more->n_meta, err);
    env.n_meta = meta.n;
    env.meta = meta.at;
    if (rc == GM_OK)
        rc = gm_bus_send(rpc->bus, call->to, &env, call->request, NULL, 0, err);
    gm_metas_free(&meta);
    return rc;
}

uint64_t gm_rpc_call(struct gm_rpc *rpc, const struct gm_call *call, struct gm_err *err)
{
    static const struct gm_call_more none = { NULL, NULL, 0, NULL, false };
    return gm_rpc_call_with(rpc, call, &none, err);
}

uint64_t gm_rpc_call_with(struct gm_rpc *rpc, const struct gm_call *call,
                          const struct gm_call_more *more, struct gm_err *err)
{
    struct call *c = call_new(rpc, call, more);
    if (!c) {
        gm_fail(err, GM_EXHAUSTED, "no memory for a call");
        return 0;
    }
    const uint64_t id = c->id;
    if (gm_idmap_put(&rpc->calls, id, c, err) != GM_OK) {
        free(c);
        return 0;
    }
    if (send_call(rpc, c, call, more, err) != GM_OK) {
        free(gm_idmap_take(&rpc->calls, id));
        return 0;
    }
    return id;
}

static enum gm_status send_about(struct gm_rpc *rpc, const struct call *c, Gm__Kind kind,
                                 uint32_t credit, const ProtobufCMessage *body, struct gm_err *err)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    env.kind = kind;
    env.has_call = 1;
    env.call = c->id;
    env.has_credit = credit > 0;
    env.credit = credit;
    return gm_bus_send(rpc->bus, c->peer, &env, body, NULL, 0, err);
}

void gm_rpc_credit(struct gm_rpc *rpc, uint64_t call, uint32_t credit)
{
    const struct call *c = gm_idmap_get(&rpc->calls, call);
    if (c)
        send_about(rpc, c, GM__KIND__CREDIT, credit, NULL, NULL);
}

enum gm_status gm_rpc_send(struct gm_rpc *rpc, uint64_t call, const ProtobufCMessage *message,
                           struct gm_err *err)
{
    struct call *c = gm_idmap_get(&rpc->calls, call);
    if (!c || !c->sends)
        return gm_fail(err, GM_NOT_FOUND, "the call has ended, or is no client stream");
    if (c->half_closed)
        return gm_fail(err, GM_PRECONDITION, "no message may follow the end of a client stream");
    if (c->sendable == 0)
        return gm_fail(err, GM_EXHAUSTED, "the server takes no further message now");
    const enum gm_status rc = send_about(rpc, c, GM__KIND__SEND, 0, message, err);
    c->sendable -= rc == GM_OK;
    return rc;
}

uint32_t gm_rpc_sendable(const struct gm_rpc *rpc, uint64_t call)
{
    const struct call *c = gm_idmap_get(&rpc->calls, call);
    return c && !c->half_closed ? c->sendable : 0;
}

void gm_rpc_done(struct gm_rpc *rpc, uint64_t call)
{
    struct call *c = gm_idmap_get(&rpc->calls, call);
    if (!c || !c->sends || c->half_closed)
        return;
    c->half_closed = true;
    send_about(rpc, c, GM__KIND__DONE, 0, NULL, NULL);
}

/* Ends a call of ours: out of the table first, so that the answer may start another. */
static void finish(struct gm_rpc *rpc, uint64_t id, const ProtobufCMessage *body,
                   const struct gm_err *err)
{
    struct call *c = gm_idmap_take(&rpc->calls, id);
    if (!c)
        return;
    if (c->answer)
        c->answer(c->ctx, true, body, err);
    free(c);
}

void gm_rpc_cancel(struct gm_rpc *rpc, uint64_t call)
{
    const struct call *c = gm_idmap_get(&rpc->calls, call);
    struct gm_err err = GM_ERR_NONE;
    if (!c)
        return;
    send_about(rpc, c, GM__KIND__CANCEL, 0, NULL, NULL);
    gm_fail(&err, GM_CANCELLED, "cancelled by the caller");
    finish(rpc, call, NULL, &err);
}

Gm__Meta *const *gm_rpc_trailer(const struct gm_rpc *rpc, size_t *n)
{
    *n = rpc->n_trailer;
    return rpc->trailer;
}

void gm_rpc_ping(struct gm_rpc *rpc, uint64_t call)
{
    const struct call *c = gm_idmap_get(&rpc->calls, call);
    if (c)
        send_about(rpc, c, GM__KIND__PING, 0, NULL, NULL);
}

int64_t gm_rpc_last_pong_ms(const struct gm_rpc *rpc, uint64_t call, uint64_t *boot, bool *lost)
{
    const struct call *c = gm_idmap_get(&rpc->calls, call);
    *boot = c ? c->boot : 0;
    *lost = c ? c->lost : true;
    return c ? c->pong_ms : 0;
}

static void err_from(struct gm_err *err, const Gm__Envelope *env)
{
    *err = GM_ERR_NONE;
    if (!env->has_status || env->status == GM_OK)
        return;
    gm_fail(err, env->status <= GM_UNAUTHENTICATED ? (enum gm_status)env->status : GM_UNKNOWN, "%s",
            env->text && env->text[0] ? env->text : "the call failed without a sentence");
    err->retry_ms = env->has_retry_ms ? (long)env->retry_ms : 0;
    if (env->has_detail && env->detail == GM_DETAIL_CONTEXT)
        err->detail = GM_DETAIL_CONTEXT;
}

void gm_rpc_on_answer(struct gm_rpc *rpc, const struct gm_msg *msg)
{
    const Gm__Envelope *env = msg->env;
    struct call *c = gm_idmap_get(&rpc->calls, env->call);
    struct gm_err err;
    ProtobufCMessage *body = NULL;
    if (!c || msg->peer != c->peer)
        return; /* cancelled, out of time, or not from whom we asked */
    c->pong_ms = gm_now_ms();
    c->boot = env->boot;
    err_from(&err, env);
    if (err.status == GM_OK && !c->items && env->kind != GM__KIND__REPLY)
        gm_fail(&err, GM_INTERNAL, "%s answered a call as if it were a stream",
                gm_peer_endpoint(c->peer));
    if (err.status == GM_OK && env->kind != GM__KIND__END)
        body = gm_msg_unpack(msg, c->reply, &err);
    rpc->trailer = env->meta;
    rpc->n_trailer = env->n_meta;
    if (env->kind == GM__KIND__ITEM && err.status == GM_OK && c->answer)
        c->answer(c->ctx, false, body, &err);
    else if (env->kind != GM__KIND__ITEM || err.status != GM_OK)
        finish(rpc, env->call, body, &err);
    rpc->trailer = NULL;
    rpc->n_trailer = 0;
    if (body)
        protobuf_c_message_free_unpacked(body, NULL);
}

void gm_rpc_on_pong(struct gm_rpc *rpc, const struct gm_msg *msg)
{
    struct call *c = gm_idmap_get(&rpc->calls, msg->env->call);
    if (!c || msg->peer != c->peer)
        return;
    c->pong_ms = gm_now_ms();
    c->boot = msg->env->boot;
    c->lost = msg->env->has_status && msg->env->status != GM_OK;
}

void gm_rpc_on_room(struct gm_rpc *rpc, const struct gm_msg *msg)
{
    struct call *c = gm_idmap_get(&rpc->calls, msg->env->call);
    const uint32_t more = msg->env->credit;
    if (!c || msg->peer != c->peer || !c->sends || c->half_closed)
        return;
    c->pong_ms = gm_now_ms();
    c->sendable = more > UINT32_MAX - c->sendable ? UINT32_MAX : c->sendable + more;
    if (c->room)
        c->room(c->ctx, c->id, c->sendable);
}

/* Milliseconds to the next look at a call; 0 or less: it ends with *err. */
static int64_t look(struct gm_rpc *rpc, struct call *c, int64_t now, struct gm_err *err)
{
    int64_t left = INT64_MAX;
    if (c->deadline_ms) { /* the server's own sentence is better than ours: it gets a moment */
        left = c->deadline_ms + DEADLINE_GRACE_MS - now;
        if (left <= 0)
            gm_fail(err, GM_DEADLINE, "no answer in time from %s", gm_peer_endpoint(c->peer));
    }
    if (!c->keepalive || left <= 0)
        return left;
    const int64_t silent = now - c->pong_ms;
    if (c->lost || silent >= GM_KEEPALIVE_LOST_MS) {
        gm_fail(err, GM_UNAVAILABLE,
                c->lost ? "%s does not know the call any more" : "no sign of life from %s",
                gm_peer_endpoint(c->peer));
        return 0;
    }
    if (silent >= GM_KEEPALIVE_MS && now - c->asked_ms >= GM_KEEPALIVE_MS) {
        c->asked_ms = now;
        gm_rpc_ping(rpc, c->id);
    }
    return left < GM_KEEPALIVE_MS ? left : GM_KEEPALIVE_MS;
}

int64_t gm_rpc_client_tick(struct gm_rpc *rpc, int64_t now, int64_t slept_ms)
{
    int64_t next = -1;
    for (size_t i = rpc->calls.n; i-- > 0;) {
        if (i >= rpc->calls.n)
            continue; /* an answer ended others too */
        struct call *c = rpc->calls.entries[i].value;
        struct gm_err err = GM_ERR_NONE;
        c->pong_ms += c->keepalive ? slept_ms : 0;
        const int64_t left = look(rpc, c, now, &err);
        if (left <= 0)
            finish(rpc, c->id, NULL, &err);
        else if (left < INT64_MAX && (next < 0 || left < next))
            next = left;
    }
    return next;
}
