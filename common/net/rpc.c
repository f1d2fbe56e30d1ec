/* rpc.c - gRPC's meaning on the bus: see rpc.h.
 *
 * Owns:      pending calls of the client side, open streams of the server side.
 * Does not:  frame or send (bus.c), retry (callers).
 */
#include "common/net/rpc.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/map.h"
#include "common/base/sys.h"

enum { DEADLINE_GRACE_MS = 200 };
#define TIMEOUT_US_MAX ((uint64_t)1 << 52) /* longer ones never end in practice */

/* A call we made. */
struct call {
    uint64_t id;
    struct gm_peer *peer;
    const ProtobufCMessageDescriptor *reply;
    gm_rpc_answer *answer;
    void *ctx;
    bool stream;         /* items and an end answer it; else one reply */
    int64_t deadline_ms; /* 0: none */
    int64_t pong_ms;
    uint64_t boot;
    bool lost;
};

/* A call made to us. */
struct gm_stream {
    struct gm_rpc *rpc;
    struct gm_msg to; /* only its address: from, from_len */
    uint64_t key;     /* of the table: a hash of address and call id */
    uint64_t call;
    uint32_t credit;
    uint64_t deadline_us;
    gm_stream_event *event;
    void *event_ctx;
};

struct gm_rpc {
    struct gm_bus *bus;
    const struct gm_method *methods;
    void *self;
    uint64_t next_call;
    struct gm_idmap calls;   /* id -> struct call */
    struct gm_idmap streams; /* key -> struct gm_stream */
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
    while (r->calls.n > 0)
        free(gm_idmap_take(&r->calls, r->calls.entries[0].key));
    while (r->streams.n > 0)
        free(gm_idmap_take(&r->streams, r->streams.entries[0].key));
    gm_idmap_close(&r->calls);
    gm_idmap_close(&r->streams);
    free(r);
    *rpc = NULL;
}

/* ---- client side -------------------------------------------------------------------------------
 */

uint64_t gm_rpc_call(struct gm_rpc *rpc, const struct gm_call *call, struct gm_err *err)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    struct call *c = calloc(1, sizeof *c);
    if (!c) {
        gm_fail(err, GM_EXHAUSTED, "no memory for a call");
        return 0;
    }
    *c = (struct call){ .id = ++rpc->next_call,
                        .peer = call->to,
                        .reply = call->reply,
                        .answer = call->answer,
                        .ctx = call->ctx,
                        .stream = call->credit > 0,
                        .deadline_ms = call->timeout_ms ? gm_now_ms() + call->timeout_ms : 0,
                        .pong_ms = gm_now_ms() };
    env.kind = GM__KIND__CALL;
    env.has_call = 1;
    env.call = c->id;
    env.method = (char *)call->method;
    env.has_timeout_us = call->timeout_ms > 0;
    env.timeout_us = (uint64_t)call->timeout_ms * 1000;
    env.has_credit = call->credit > 0;
    env.credit = call->credit;
    const uint64_t id = c->id;
    if (gm_idmap_put(&rpc->calls, id, c, err) != GM_OK) {
        free(c);
        return 0;
    }
    if (gm_bus_send(rpc->bus, call->to, &env, call->request, NULL, 0, err) != GM_OK) {
        free(gm_idmap_take(&rpc->calls, id));
        return 0;
    }
    return id;
}

static void send_about(struct gm_rpc *rpc, const struct call *c, Gm__Kind kind, uint32_t credit)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    env.kind = kind;
    env.has_call = 1;
    env.call = c->id;
    env.has_credit = credit > 0;
    env.credit = credit;
    gm_bus_send(rpc->bus, c->peer, &env, NULL, NULL, 0, NULL);
}

void gm_rpc_credit(struct gm_rpc *rpc, uint64_t call, uint32_t credit)
{
    const struct call *c = gm_idmap_get(&rpc->calls, call);
    if (c)
        send_about(rpc, c, GM__KIND__CREDIT, credit);
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
    send_about(rpc, c, GM__KIND__CANCEL, 0);
    gm_fail(&err, GM_CANCELLED, "cancelled by the caller");
    finish(rpc, call, NULL, &err);
}

void gm_rpc_ping(struct gm_rpc *rpc, uint64_t call)
{
    const struct call *c = gm_idmap_get(&rpc->calls, call);
    if (c)
        send_about(rpc, c, GM__KIND__PING, 0);
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

static void on_answer(struct gm_rpc *rpc, const struct gm_msg *msg)
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
    if (err.status == GM_OK && !c->stream && env->kind != GM__KIND__REPLY)
        gm_fail(&err, GM_INTERNAL, "%s answered a call as if it were a stream",
                gm_peer_endpoint(c->peer));
    if (err.status == GM_OK && env->kind != GM__KIND__END)
        body = gm_msg_unpack(msg, c->reply, &err);
    if (env->kind == GM__KIND__ITEM && err.status == GM_OK && c->answer)
        c->answer(c->ctx, false, body, &err);
    else
        finish(rpc, env->call, body, &err);
    if (body)
        protobuf_c_message_free_unpacked(body, NULL);
}

static void on_pong(struct gm_rpc *rpc, const struct gm_msg *msg)
{
    struct call *c = gm_idmap_get(&rpc->calls, msg->env->call);
    if (!c || msg->peer != c->peer)
        return;
    c->pong_ms = gm_now_ms();
    c->boot = msg->env->boot;
    c->lost = msg->env->has_status && msg->env->status != GM_OK;
}

/* ---- server side -------------------------------------------------------------------------------
 */

/* FNV-1a over the sender's routing id and the call's number. */
static uint64_t key_of(const struct gm_msg *msg)
{
    uint64_t h = 1469598103934665603u;
    for (uint8_t i = 0; i < msg->from_len; i++)
        h = (h ^ msg->from[i]) * 1099511628211u;
    for (int i = 0; i < 8; i++)
        h = (h ^ ((msg->env->call >> (8 * i)) & 255)) * 1099511628211u;
    return h;
}

static void answer_status(struct gm_rpc *rpc, const struct gm_msg *to, uint64_t call, Gm__Kind kind,
                          const struct gm_err *err)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    env.kind = kind;
    env.has_call = 1;
    env.call = call;
    env.has_status = 1;
    env.status = err ? (uint32_t)err->status : GM_OK;
    if (err && err->status != GM_OK) {
        env.text = (char *)err->text;
        env.has_retry_ms = err->retry_ms > 0;
        env.retry_ms = (uint32_t)err->retry_ms;
        env.has_detail = err->detail != GM_DETAIL_NONE;
        env.detail = err->detail;
    }
    gm_bus_answer(rpc->bus, to, &env, NULL, NULL);
}

static void stream_free(struct gm_stream *s)
{
    free(gm_idmap_take(&s->rpc->streams, s->key));
}

enum gm_status gm_rpc_reply(struct gm_stream *s, const ProtobufCMessage *body)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    struct gm_err err = GM_ERR_NONE;
    env.kind = GM__KIND__REPLY;
    env.has_call = 1;
    env.call = s->call;
    enum gm_status rc = gm_bus_answer(s->rpc->bus, &s->to, &env, body, &err);
    if (rc == GM_EXHAUSTED) /* too large: the caller hears so instead of waiting */
        answer_status(s->rpc, &s->to, s->call, GM__KIND__REPLY, &err);
    else if (rc != GM_OK)
        gm_log_err(GM_LOG_DEBUG, "reply not sent", &err); /* the client is gone */
    stream_free(s);
    return GM_OK;
}

bool gm_stream_item(struct gm_stream *s, const ProtobufCMessage *body)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    if (s->credit == 0)
        return false;
    env.kind = GM__KIND__ITEM;
    env.has_call = 1;
    env.call = s->call;
    if (gm_bus_answer(s->rpc->bus, &s->to, &env, body, NULL) != GM_OK)
        return false;
    s->credit--;
    return true;
}

void gm_stream_end(struct gm_stream *s, const struct gm_err *err)
{
    answer_status(s->rpc, &s->to, s->call, GM__KIND__END, err);
    stream_free(s);
}

uint32_t gm_stream_credit(const struct gm_stream *s)
{
    return s->credit;
}

uint64_t gm_stream_deadline_us(const struct gm_stream *s)
{
    return s->deadline_us;
}

void gm_stream_on_event(struct gm_stream *s, gm_stream_event *fn, void *ctx)
{
    s->event = fn;
    s->event_ctx = ctx;
}

static const struct gm_method *find(const struct gm_rpc *rpc, const char *name)
{
    for (const struct gm_method *m = rpc->methods; name && m && m->name; m++)
        if (strcmp(m->name, name) == 0)
            return m;
    return NULL;
}

static enum gm_status open_stream(struct gm_rpc *rpc, const struct gm_msg *msg,
                                  struct gm_stream **out, struct gm_err *err)
{
    const Gm__Envelope *env = msg->env;
    struct gm_stream *s = calloc(1, sizeof *s);
    if (!s)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a call");
    s->rpc = rpc;
    memcpy(s->to.from, msg->from, sizeof s->to.from);
    s->to.from_len = msg->from_len;
    s->key = key_of(msg);
    s->call = env->call;
    s->credit = env->has_credit ? env->credit : 0;
    if (env->has_timeout_us && env->timeout_us > 0)
        s->deadline_us = (uint64_t)gm_now_us() +
                         (env->timeout_us < TIMEOUT_US_MAX ? env->timeout_us : TIMEOUT_US_MAX);
    enum gm_status rc = gm_idmap_put(&rpc->streams, s->key, s, err);
    if (rc != GM_OK) {
        free(s);
        if (err)
            err->retry_ms = 200;
        return rc;
    }
    *out = s;
    return GM_OK;
}

static void on_call(struct gm_rpc *rpc, const struct gm_msg *msg)
{
    struct gm_err err = GM_ERR_NONE;
    const struct gm_method *m = find(rpc, msg->env->method);
    struct gm_stream *s = NULL;
    if (!m) {
        gm_fail(&err, GM_UNSUPPORTED, "this process has no method %.80s",
                msg->env->method ? msg->env->method : "without a name");
        answer_status(rpc, msg, msg->env->call, GM__KIND__REPLY, &err);
        return;
    }
    ProtobufCMessage *request = gm_msg_unpack(msg, m->request, &err);
    if (request && open_stream(rpc, msg, &s, &err) == GM_OK) {
        const uint64_t key = s->key;
        if (m->run(rpc->self, s, request, &err) != GM_OK) {
            answer_status(rpc, msg, msg->env->call, GM__KIND__REPLY, &err);
            free(gm_idmap_take(&rpc->streams, key));
        }
    } else {
        answer_status(rpc, msg, msg->env->call, GM__KIND__REPLY, &err);
    }
    if (request)
        protobuf_c_message_free_unpacked(request, NULL);
}

/* The client cancelled or its time is over: tell the owner, then end. The owner must not end it. */
static void drop_stream(struct gm_rpc *rpc, struct gm_stream *s, enum gm_status status,
                        const char *text)
{
    struct gm_err err = GM_ERR_NONE;
    gm_fail(&err, status, "%s", text);
    answer_status(rpc, &s->to, s->call, GM__KIND__END, &err);
    gm_idmap_take(&rpc->streams, s->key);
    if (s->event)
        s->event(s->event_ctx, s, true, 0);
    free(s);
}

static void on_control(struct gm_rpc *rpc, const struct gm_msg *msg)
{
    struct gm_stream *s = gm_idmap_get(&rpc->streams, key_of(msg));
    if (msg->env->kind == GM__KIND__PING) {
        struct gm_err err = GM_ERR_NONE;
        if (!s)
            gm_fail(&err, GM_NOT_FOUND, "no such call here");
        answer_status(rpc, msg, msg->env->call, GM__KIND__PONG, &err);
        if (s && s->event)
            s->event(s->event_ctx, s, false, 0);
    } else if (s && msg->env->kind == GM__KIND__CREDIT) {
        const uint32_t more = msg->env->credit;
        s->credit = more > UINT32_MAX - s->credit ? UINT32_MAX : s->credit + more;
        if (s->event)
            s->event(s->event_ctx, s, false, more);
    } else if (s) {
        drop_stream(rpc, s, GM_CANCELLED, "cancelled by the caller");
    }
}

bool gm_rpc_handle(struct gm_rpc *rpc, const struct gm_msg *msg)
{
    switch (msg->env->kind) {
    case GM__KIND__CALL:
        on_call(rpc, msg);
        return true;
    case GM__KIND__CREDIT:
    case GM__KIND__CANCEL:
    case GM__KIND__PING:
        on_control(rpc, msg);
        return true;
    case GM__KIND__REPLY:
    case GM__KIND__ITEM:
    case GM__KIND__END:
        on_answer(rpc, msg);
        return true;
    case GM__KIND__PONG:
        on_pong(rpc, msg);
        return true;
    default:
        return false;
    }
}

int gm_rpc_tick(struct gm_rpc *rpc)
{
    const int64_t now = gm_now_ms();
    int64_t next = -1;
    for (size_t i = rpc->calls.n; i-- > 0;) {
        if (i >= rpc->calls.n)
            continue; /* an answer ended others too */
        const struct call *c = rpc->calls.entries[i].value;
        if (!c->deadline_ms)
            continue;
        /* The server's own sentence is better than ours: it gets a moment. */
        const int64_t left = c->deadline_ms + DEADLINE_GRACE_MS - now;
        if (left <= 0) {
            struct gm_err err = GM_ERR_NONE;
            gm_fail(&err, GM_DEADLINE, "no answer in time from %s", gm_peer_endpoint(c->peer));
            finish(rpc, c->id, NULL, &err);
        } else if (next < 0 || left < next) {
            next = left;
        }
    }
    for (size_t i = rpc->streams.n; i-- > 0;) {
        if (i >= rpc->streams.n)
            continue;
        struct gm_stream *s = rpc->streams.entries[i].value;
        if (!s->deadline_us)
            continue;
        const int64_t left = (int64_t)(s->deadline_us / 1000) - now;
        if (left <= 0)
            drop_stream(rpc, s, GM_DEADLINE, "the call's time is over");
        else if (next < 0 || left < next)
            next = left;
    }
    return next < 0 ? -1 : (int)(next > 60000 ? 60000 : next + 1);
}
