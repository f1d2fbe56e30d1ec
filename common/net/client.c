/* client.c - blocking calls for a command line: see client.h.
 *
 * Owns:      the loop that waits for one call, one stream or one turn.
 * Does not:  print, know options, or resume a turn (follow.c).
 */
#include "common/net/client.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/sys.h"
#include "common/net/follow.h"
#include "common/net/service.h"

enum {
    STEP_MS = 50, /* at least so often idle() is called */
};

struct gm_client {
    struct gm_bus *bus;
    struct gm_rpc *rpc;
    struct gm_net *net; /* NULL: without an address book */
    char run_dir[GM_PATH_MAX];
};

enum gm_status gm_client_open(struct gm_client **out, const char *run_dir,
                              const struct gm_net_options *net, struct gm_err *err)
{
    static const struct gm_method none[] = { { NULL, NULL, NULL } };
    struct gm_client *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a client");
    enum gm_status rc = gm_net_open(&c->net, net, "client", -1, err);
    if (rc == GM_OK)
        rc = gm_bus_open_net(&c->bus, "client", NULL, c->net, err);
    if (rc == GM_OK)
        rc = gm_rpc_open(&c->rpc, c->bus, none, NULL, err);
    if (rc == GM_OK && strlen(run_dir) >= sizeof c->run_dir)
        rc = gm_fail(err, GM_INVALID, "the run directory's name is too long");
    if (rc != GM_OK) {
        gm_client_close(&c);
        return rc;
    }
    memcpy(c->run_dir, run_dir, strlen(run_dir) + 1);
    *out = c;
    return GM_OK;
}

void gm_client_close(struct gm_client **client)
{
    struct gm_client *c = *client;
    if (!c)
        return;
    gm_rpc_close(&c->rpc);
    gm_bus_close(&c->bus);
    gm_net_close(&c->net);
    free(c);
    *client = NULL;
}

bool gm_client_has(const struct gm_client *c, const char *role, uint32_t index)
{
    return gm_net_has(c->net, c->run_dir, role, index);
}

/* Takes what arrives within wait_ms. A stop signal makes the bus return at once: then we sleep,
 * since the caller decides what Ctrl-C means. */
static void pump(struct gm_client *c, int wait_ms)
{
    struct gm_msg msg;
    const int tick = gm_rpc_tick(c->rpc);
    if (tick >= 0 && tick < wait_ms)
        wait_ms = tick;
    if (gm_stopping())
        gm_sleep_ms(5);
    gm_bus_wait(c->bus, wait_ms, NULL, 0, NULL);
    while (gm_bus_take(c->bus, &msg)) {
        gm_rpc_handle(c->rpc, &msg);
        gm_msg_free(&msg);
    }
}

static struct gm_peer *peer_of(struct gm_client *c, const char *role, uint32_t index,
                               struct gm_err *err)
{
    char endpoint[GM_ENDPOINT_MAX];
    if (gm_net_endpoint(c->net, endpoint, c->run_dir, role, index, err) != GM_OK)
        return NULL;
    return gm_bus_peer(c->bus, endpoint, err);
}

/* ---- unary
 * ------------------------------------------------------------------------------------------ */

struct unary {
    bool done;
    ProtobufCMessage *reply;
    struct gm_err err;
};

/* The body is borrowed: a copy is kept. */
static void on_unary(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct unary *u = ctx;
    u->err = *err;
    u->done = done;
    if (!body)
        return;
    const size_t n = protobuf_c_message_get_packed_size(body);
    uint8_t *bytes = malloc(n + 1);
    if (bytes) {
        protobuf_c_message_pack(body, bytes);
        u->reply = protobuf_c_message_unpack(body->descriptor, NULL, n, bytes);
    }
    free(bytes);
    if (!u->reply)
        gm_fail(&u->err, GM_EXHAUSTED, "no memory for an answer");
}

enum gm_status gm_client_call(struct gm_client *c, const struct gm_client_to *to,
                              ProtobufCMessage **reply, struct gm_err *err)
{
    struct unary u = { .done = false, .err = GM_ERR_NONE };
    struct gm_peer *peer = peer_of(c, to->role, to->index, err);
    *reply = NULL;
    if (!peer)
        return err ? err->status : GM_UNAVAILABLE;
    if (!gm_rpc_call(c->rpc,
                     &(struct gm_call){ peer, to->method, to->request, to->reply, to->timeout_ms, 0,
                                        on_unary, &u },
                     err))
        return err ? err->status : GM_UNAVAILABLE;
    while (!u.done)
        pump(c, STEP_MS);
    *reply = u.reply;
    if (err)
        *err = u.err;
    return u.err.status;
}

/* ---- streams
 * ---------------------------------------------------------------------------------------- */

struct flow {
    struct gm_client *client;
    gm_client_item *item;
    void *ctx;
    bool done, stop; /* the stream ended; the caller wants to cancel */
    uint64_t call;
    uint32_t used; /* items since credit was given last */
    struct gm_err err;
};

static void take_credit(struct flow *f)
{
    if (++f->used < GM_STREAM_CREDIT / 2)
        return;
    gm_rpc_credit(f->client->rpc, f->call, f->used);
    f->used = 0;
}

static void on_item(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct flow *f = ctx;
    if (done) {
        f->done = true;
        f->err = *err;
        return;
    }
    if (!f->item(f->ctx, body))
        f->stop = true;
    take_credit(f);
}

enum gm_status gm_client_stream(struct gm_client *c, const struct gm_client_to *to,
                                const struct gm_client_flow *flow, struct gm_err *err)
{
    struct flow f = { .client = c, .item = flow->item, .ctx = flow->ctx, .err = GM_ERR_NONE };
    struct gm_peer *peer = peer_of(c, to->role, to->index, err);
    int64_t ping_ms = gm_now_ms() + GM_CLIENT_PING_MS;
    if (!peer)
        return err ? err->status : GM_UNAVAILABLE;
    f.call = gm_rpc_call(c->rpc,
                         &(struct gm_call){ peer, to->method, to->request, to->reply,
                                            to->timeout_ms, GM_STREAM_CREDIT, on_item, &f },
                         err);
    if (!f.call)
        return err ? err->status : GM_UNAVAILABLE;
    while (!f.done) {
        uint64_t boot;
        bool lost = false;
        pump(c, STEP_MS);
        if (f.done)
            break;
        if (f.stop || (flow->idle && !flow->idle(flow->ctx))) {
            gm_rpc_cancel(c->rpc, f.call);
            continue;
        }
        if (gm_now_ms() >= ping_ms) {
            gm_rpc_ping(c->rpc, f.call);
            ping_ms = gm_now_ms() + GM_CLIENT_PING_MS;
        }
        const int64_t pong = gm_rpc_last_pong_ms(c->rpc, f.call, &boot, &lost);
        if (lost || gm_now_ms() - pong > GM_CLIENT_PATIENCE_MS) {
            gm_rpc_cancel(c->rpc, f.call); /* answers CANCELLED into f: the reason comes after */
            gm_fail(&f.err, GM_UNAVAILABLE, "the %s %s; try again", to->role,
                    lost ? "was restarted" : "does not answer");
        }
    }
    if (err)
        *err = f.err;
    return f.err.status;
}

/* ---- a turn
 * ------------------------------------------------------------------------------------------- */

struct turn {
    gm_client_item *item;
    void *ctx;
    bool done, stop; /* it ended; the caller wants to cancel */
    struct gm_err err;
};

static void on_event(void *ctx, const Gm__TurnEvent *event)
{
    struct turn *t = ctx;
    if (!t->item(t->ctx, &event->base))
        t->stop = true;
}

static void on_turn_end(void *ctx, const struct gm_err *err)
{
    struct turn *t = ctx;
    t->done = true;
    t->err = *err;
}

enum gm_status gm_client_turn(struct gm_client *c, const Gm__StartRequest *request,
                              uint32_t timeout_ms, gm_client_item *item, gm_client_idle *idle,
                              void *ctx, struct gm_err *err)
{
    struct turn t = { .item = item, .ctx = ctx, .err = GM_ERR_NONE };
    const struct gm_follow_to to = { on_event, on_turn_end, &t, timeout_ms, NULL };
    char endpoint[GM_ENDPOINT_MAX];
    struct gm_follows *all = NULL;
    struct gm_follow *f = NULL;
    enum gm_status rc = gm_net_endpoint(c->net, endpoint, c->run_dir, "orchestrator", 0, &t.err);
    if (rc == GM_OK)
        rc = gm_follows_open(&all, c->bus, c->rpc, endpoint, &t.err);
    if (rc == GM_OK)
        f = gm_follow_start(all, &to, request, &t.err);
    while (f && !t.done) {
        const int tick = gm_follows_tick(all);
        if (t.done)
            break;
        pump(c, tick >= 0 && tick < STEP_MS ? tick : STEP_MS);
        if (!t.done && (t.stop || (idle && !idle(ctx))))
            gm_follow_cancel(f);
    }
    gm_follows_close(&all);
    if (err)
        *err = t.err;
    return t.err.status;
}
