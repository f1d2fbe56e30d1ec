/* rpc_server.c - calls that were made to us: see rpc.h.
 *
 * Owns:      the table of methods, open streams, their credit of both directions, their deadlines.
 * Does not:  frame or send (bus.c), or make calls (rpc_client.c).
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/sys.h"
#include "common/net/reflect.h"
#include "common/net/rpc_inner.h"

enum { LOG_BURST = 10, LOG_PER_MS = 10000 }; /* lines of refused calls */

/* A call made to us. */
struct gm_stream {
    struct gm_rpc *rpc;
    const struct gm_method *method;
    struct gm_msg to; /* only its address: from, from_len */
    uint64_t key;     /* of the table: a hash of address and call id */
    uint64_t call;
    uint32_t credit;
    uint64_t deadline_us;
    gm_stream_event *event;
    void *event_ctx;
    /* a client stream */
    gm_stream_message *message; /* NULL: the method takes none */
    void *message_ctx;
    uint32_t takes;   /* messages that may still come */
    uint32_t owed;    /* taken, and not said yet */
    bool half_closed; /* DONE came */
    bool unreachable; /* the client's socket is gone */
    struct gm_metas meta, trailer;
    char trace[GM_TRACE_MAX];
};

static void stream_free(struct gm_stream *s)
{
    if (!s)
        return;
    gm_metas_free(&s->meta);
    gm_metas_free(&s->trailer);
    free(s);
}

void gm_rpc_server_close(struct gm_rpc *rpc)
{
    while (rpc->streams.n > 0)
        stream_free(gm_idmap_take(&rpc->streams, rpc->streams.entries[0].key));
}

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

static void put_status(Gm__Envelope *env, const struct gm_err *err)
{
    env->has_status = 1;
    env->status = err ? (uint32_t)err->status : GM_OK;
    if (!err || err->status == GM_OK)
        return;
    env->text = (char *)err->text;
    env->has_retry_ms = err->retry_ms > 0;
    env->retry_ms = (uint32_t)err->retry_ms;
    env->has_detail = err->detail != GM_DETAIL_NONE;
    env->detail = err->detail;
}

/* s (may be NULL): whose trailing metadata goes along. */
static void answer_status(struct gm_rpc *rpc, const struct gm_msg *to, uint64_t call, Gm__Kind kind,
                          const struct gm_err *err, const struct gm_stream *s)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    env.kind = kind;
    env.has_call = 1;
    env.call = call;
    put_status(&env, err);
    env.n_meta = s ? s->trailer.n : 0;
    env.meta = s ? s->trailer.at : NULL;
    gm_bus_answer(rpc->bus, to, &env, NULL, NULL);
}

static void drop(struct gm_stream *s)
{
    stream_free(gm_idmap_take(&s->rpc->streams, s->key));
}

enum gm_status gm_rpc_reply(struct gm_stream *s, const ProtobufCMessage *body)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    struct gm_err err = GM_ERR_NONE;
    env.kind = GM__KIND__REPLY;
    env.has_call = 1;
    env.call = s->call;
    env.n_meta = s->trailer.n;
    env.meta = s->trailer.at;
    enum gm_status rc = gm_bus_answer(s->rpc->bus, &s->to, &env, body, &err);
    if (rc == GM_EXHAUSTED) /* too large: the caller hears so instead of waiting */
        answer_status(s->rpc, &s->to, s->call, GM__KIND__REPLY, &err, s);
    else if (rc != GM_OK)
        gm_log_err(GM_LOG_DEBUG, "reply not sent", &err); /* the client is gone */
    drop(s);
    return GM_OK;
}

bool gm_stream_item(struct gm_stream *s, const ProtobufCMessage *body)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    if (s->credit == 0 || s->unreachable)
        return false;
    env.kind = GM__KIND__ITEM;
    env.has_call = 1;
    env.call = s->call;
    const enum gm_status rc = gm_bus_answer(s->rpc->bus, &s->to, &env, body, NULL);
    s->unreachable = rc == GM_NOT_FOUND; /* the next tick tells its owner */
    s->credit -= rc == GM_OK;
    return rc == GM_OK;
}

void gm_stream_end(struct gm_stream *s, const struct gm_err *err)
{
    answer_status(s->rpc, &s->to, s->call, GM__KIND__END, err, s);
    drop(s);
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

const uint8_t *gm_stream_meta(const struct gm_stream *s, const char *key, size_t *len)
{
    for (size_t i = 0; i < s->meta.n; i++)
        if (strcmp(s->meta.at[i]->key, key) == 0) {
            *len = s->meta.at[i]->value.len;
            return s->meta.at[i]->value.data;
        }
    *len = 0;
    return NULL;
}

enum gm_status gm_stream_trailer(struct gm_stream *s, const char *key, const void *value,
                                 size_t len, struct gm_err *err)
{
    return gm_metas_add(&s->trailer, key, value, len, err);
}

const char *gm_stream_trace(const struct gm_stream *s)
{
    return s->trace;
}

/* ---- messages of a client stream ------------------------------------------------------------- */

void gm_stream_room(struct gm_stream *s, uint32_t more)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    s->owed += more;
    if (s->half_closed || (s->owed < GM_SEND_CREDIT / 2 && s->takes > 0))
        return;
    env.kind = GM__KIND__CREDIT;
    env.has_call = env.has_credit = 1;
    env.call = s->call;
    env.credit = s->owed;
    s->takes += s->owed;
    s->owed = 0;
    gm_bus_answer(s->rpc->bus, &s->to, &env, NULL, NULL);
}

void gm_stream_on_message(struct gm_stream *s, gm_stream_message *fn, void *ctx)
{
    s->message = fn;
    s->message_ctx = ctx;
    gm_stream_room(s, GM_SEND_CREDIT);
}

static const struct gm_method *find(const struct gm_rpc *rpc, const char *name)
{
    for (const struct gm_method *m = rpc->methods; name && m && m->name; m++)
        if (strcmp(m->name, name) == 0)
            return m;
    return NULL;
}

static enum gm_status fill_stream(struct gm_stream *s, const Gm__Envelope *env, struct gm_err *err)
{
    s->call = env->call;
    s->credit = env->has_credit ? env->credit : 0;
    if (env->has_timeout_us && env->timeout_us > 0)
        s->deadline_us =
            (uint64_t)gm_now_us() +
            (env->timeout_us < GM_RPC_TIMEOUT_US_MAX ? env->timeout_us : GM_RPC_TIMEOUT_US_MAX);
    if (gm_trace_ok(env->traceparent)) /* what is not valid is ignored, as the W3C asks */
        memcpy(s->trace, env->traceparent, GM_TRACE_LEN);
    return gm_metas_add_all(&s->meta, env->meta, env->n_meta, err);
}

static enum gm_status open_stream(struct gm_rpc *rpc, const struct gm_msg *msg,
                                  const struct gm_method *method, struct gm_stream **out,
                                  struct gm_err *err)
{
    struct gm_stream *s = calloc(1, sizeof *s);
    if (!s)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a call");
    s->rpc = rpc;
    s->method = method;
    memcpy(s->to.from, msg->from, sizeof s->to.from);
    s->to.from_len = msg->from_len;
    s->key = key_of(msg);
    enum gm_status rc = fill_stream(s, msg->env, err);
    if (rc == GM_OK) {
        rc = gm_idmap_put(&rpc->streams, s->key, s, err);
        if (rc != GM_OK && err)
            err->retry_ms = 200;
    }
    if (rc != GM_OK) {
        stream_free(s);
        return rc;
    }
    *out = s;
    return GM_OK;
}

/* A call of a trace that was refused is found by the trace's id in the logs of all processes. */
static void note_refused(const struct gm_stream *s, const struct gm_err *err)
{
    static struct gm_log_limit limit = { .burst = LOG_BURST, .per_ms = LOG_PER_MS };
    char id[GM_TRACE_ID_MAX];
    if (s->trace[0] && gm_log_pass(&limit, NULL))
        gm_info("call refused: %s method=%s trace=%s", err->text, s->method->name,
                gm_trace_id(id, s->trace));
}

/* Runs the method; a client stream's has no request. */
static enum gm_status run(struct gm_rpc *rpc, const struct gm_msg *msg, const struct gm_method *m,
                          struct gm_err *err)
{
    struct gm_stream *s = NULL;
    ProtobufCMessage *request = NULL;
    const enum gm_shape shape = gm_reflect_shape(m->name);
    const bool sends = shape == GM_SHAPE_CLIENT || shape == GM_SHAPE_BOTH;
    if (!sends && !(request = gm_msg_unpack(msg, m->request, err)))
        return GM_INVALID;
    enum gm_status rc = open_stream(rpc, msg, m, &s, err);
    if (rc == GM_OK) {
        const uint64_t key = s->key;
        rc = m->run(rpc->self, s, request, err);
        if (rc != GM_OK) {
            note_refused(s, err);
            answer_status(rpc, msg, msg->env->call, GM__KIND__REPLY, err, s);
            stream_free(gm_idmap_take(&rpc->streams, key));
        }
        rc = GM_OK;
    }
    if (request)
        protobuf_c_message_free_unpacked(request, NULL);
    return rc;
}

void gm_rpc_on_call(struct gm_rpc *rpc, const struct gm_msg *msg)
{
    struct gm_err err = GM_ERR_NONE;
    const struct gm_method *m = find(rpc, msg->env->method);
    enum gm_status rc = m ? run(rpc, msg, m, &err)
                          : gm_fail(&err, GM_UNSUPPORTED, "this process has no method %.80s",
                                    msg->env->method ? msg->env->method : "without a name");
    if (rc != GM_OK)
        answer_status(rpc, msg, msg->env->call, GM__KIND__REPLY, &err, NULL);
}

/* Ends a stream that its owner did not end: tells the client and the owner, who must not end it. */
static void drop_stream(struct gm_rpc *rpc, struct gm_stream *s, enum gm_status status,
                        const char *text)
{
    struct gm_err err = GM_ERR_NONE;
    gm_fail(&err, status, "%s", text);
    answer_status(rpc, &s->to, s->call, GM__KIND__END, &err, s);
    gm_idmap_take(&rpc->streams, s->key);
    if (s->event)
        s->event(s->event_ctx, s, true, 0);
    stream_free(s);
}

void gm_rpc_on_control(struct gm_rpc *rpc, const struct gm_msg *msg)
{
    struct gm_stream *s = gm_idmap_get(&rpc->streams, key_of(msg));
    if (msg->env->kind == GM__KIND__PING) {
        struct gm_err err = GM_ERR_NONE;
        if (!s)
            gm_fail(&err, GM_NOT_FOUND, "no such call here");
        answer_status(rpc, msg, msg->env->call, GM__KIND__PONG, &err, NULL);
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

/* A message of a client stream, or its end. What comes for a call that has ended is dropped: the
 * client could not know yet. */
void gm_rpc_on_message(struct gm_rpc *rpc, const struct gm_msg *msg)
{
    const uint64_t key = key_of(msg);
    struct gm_stream *s = gm_idmap_get(&rpc->streams, key);
    struct gm_err err = GM_ERR_NONE;
    ProtobufCMessage *body = NULL;
    if (!s)
        return;
    if (!s->message || s->half_closed) {
        drop_stream(rpc, s, GM_PRECONDITION, "the call takes no further message");
        return;
    }
    if (msg->env->kind == GM__KIND__DONE) {
        s->half_closed = true;
    } else if (s->takes == 0) {
        drop_stream(rpc, s, GM_EXHAUSTED, "messages came without credit for them");
        return;
    } else if (!(body = gm_msg_unpack(msg, s->method->request, &err))) {
        drop_stream(rpc, s, err.status, err.text);
        return;
    }
    s->takes -= body != NULL;
    const uint32_t more = s->message(s->message_ctx, s, body);
    if (body)
        protobuf_c_message_free_unpacked(body, NULL);
    s = gm_idmap_get(&rpc->streams, key); /* it may have ended inside */
    if (s && more > 0)
        gm_stream_room(s, more);
}

int64_t gm_rpc_server_tick(struct gm_rpc *rpc, int64_t now)
{
    int64_t next = -1;
    for (size_t i = rpc->streams.n; i-- > 0;) {
        if (i >= rpc->streams.n)
            continue;
        struct gm_stream *s = rpc->streams.entries[i].value;
        if (s->unreachable) {
            drop_stream(rpc, s, GM_UNAVAILABLE, "the caller is gone");
            continue;
        }
        if (!s->deadline_us)
            continue;
        const int64_t left = (int64_t)(s->deadline_us / 1000) - now;
        if (left <= 0)
            drop_stream(rpc, s, GM_DEADLINE, "the call's time is over");
        else if (next < 0 || left < next)
            next = left;
    }
    return next;
}
