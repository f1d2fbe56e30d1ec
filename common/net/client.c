/* client.c - blocking calls for a command line: see client.h.
 *
 * Owns:      the loop that waits for one call; the stream of a turn that survives the orchestrator.
 * Does not:  print, or know options.
 */
#include "common/net/client.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/sys.h"
#include "common/net/service.h"

enum {
    STEP_MS = 50,   /* at least so often idle() is called */
    LOST_MS = 2000, /* no PONG for so long: the stream is taken for lost */
    RETRY_MS = 100, /* between two attempts to resume */
    GAPS_MAX = 10,  /* streams of one turn that may miss a position */
};

struct gm_client {
    struct gm_bus *bus;
    struct gm_rpc *rpc;
    char run_dir[GM_PATH_MAX];
};

enum gm_status gm_client_open(struct gm_client **out, const char *run_dir, struct gm_err *err)
{
    static const struct gm_method none[] = { { NULL, NULL, NULL } };
    struct gm_client *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a client");
    enum gm_status rc = gm_bus_open(&c->bus, "client", NULL, err);
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
    free(c);
    *client = NULL;
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
    if (gm_endpoint(endpoint, c->run_dir, role, index, err) != GM_OK)
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
    bool finished;   /* a turn's finished event has come */
    uint64_t call;
    uint32_t used;    /* items since credit was given last */
    uint32_t have;    /* turn: position after the last token given on */
    bool started;     /* turn: the started event was given on */
    bool gap;         /* turn: a position is missing, the rest of this stream is not used */
    int64_t alive_ms; /* turn: when its stream was last known to live */
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

/* Gives on what the caller has not seen: each position once, in order, without gaps. */
static void on_turn(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct flow *f = ctx;
    if (done) {
        f->done = true;
        f->err = *err;
        return;
    }
    const Gm__TurnEvent *in = (const Gm__TurnEvent *)body;
    Gm__TurnEvent event = *in;
    if (f->gap || f->finished)
        return;
    bool any = in->progress != NULL;
    if (in->started) {
        event.started = f->started ? NULL : in->started;
        any |= !f->started;
        if (!f->started && f->have == 0)
            f->have = in->started->prompt_tokens;
        f->started = true;
    }
    size_t skip = 0;
    while (skip < in->n_tokens && in->tokens[skip]->pos < f->have)
        skip++;
    size_t n = skip;
    while (n < in->n_tokens && (f->have == 0 || in->tokens[n]->pos == f->have))
        f->have = in->tokens[n++]->pos + 1;
    event.tokens = in->tokens + skip;
    event.n_tokens = n - skip;
    any |= event.n_tokens > 0;
    f->gap = n < in->n_tokens; /* what follows it, the end too, comes again with Resume */
    if (f->gap)
        event.finished = NULL;
    f->finished = event.finished != NULL;
    if ((any || f->finished) && !f->item(f->ctx, &event.base))
        f->stop = true;
    take_credit(f);
}

/* Opens (or opens again) the stream of the turn. */
static bool open_turn(struct gm_client *c, struct flow *f, const Gm__StartRequest *request,
                      bool again, uint32_t timeout_ms)
{
    struct gm_peer *peer = peer_of(c, "orchestrator", 0, &f->err);
    Gm__ResumeRequest resume = GM__RESUME_REQUEST__INIT;
    resume.turn = request->turn;
    resume.tenant = request->tenant;
    resume.from = f->have;
    f->done = false;
    f->err = GM_ERR_NONE;
    f->used = 0;
    f->gap = false;
    if (peer && again)
        f->call = gm_rpc_call(c->rpc,
                              &(struct gm_call){ peer, "Orchestrator.Resume", &resume.base,
                                                 &gm__turn_event__descriptor, timeout_ms,
                                                 GM_STREAM_CREDIT, on_turn, f },
                              &f->err);
    else if (peer)
        f->call = gm_rpc_call(c->rpc,
                              &(struct gm_call){ peer, "Orchestrator.StartTurn", &request->base,
                                                 &gm__turn_event__descriptor, timeout_ms,
                                                 GM_STREAM_CREDIT, on_turn, f },
                              &f->err);
    return peer && f->call;
}

static void on_ignored(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    (void)ctx;
    (void)done;
    (void)body;
    (void)err;
}

static void ask_cancel(struct gm_client *c, const Gm__StartRequest *request)
{
    Gm__CancelRequest r = GM__CANCEL_REQUEST__INIT;
    struct gm_peer *peer = peer_of(c, "orchestrator", 0, NULL);
    r.turn = request->turn;
    r.tenant = request->tenant;
    if (peer)
        gm_rpc_call(c->rpc,
                    &(struct gm_call){ peer, "Orchestrator.Cancel", &r.base, &gm__empty__descriptor,
                                       5000, 0, on_ignored, NULL },
                    NULL);
}

/* Waits until the stream ends or is lost. True: lost (resume it). */
static bool follow(struct gm_client *c, struct flow *f, const Gm__StartRequest *request,
                   gm_client_idle *idle, bool *cancelled)
{
    uint64_t boot = 0, first = 0;
    bool lost = false;
    int64_t ping_ms = 0;
    if (*cancelled)
        ask_cancel(c, request); /* the first may have been lost with the orchestrator */
    while (!f->done) {
        const int64_t now = gm_now_ms();
        if (now >= ping_ms) {
            gm_rpc_ping(c->rpc, f->call);
            ping_ms = now + GM_CLIENT_PING_MS;
        }
        pump(c, STEP_MS);
        if (f->done)
            break;
        if (!*cancelled && (f->stop || (idle && !idle(f->ctx)))) {
            *cancelled = true;
            ask_cancel(c, request);
        }
        const int64_t pong = gm_rpc_last_pong_ms(c->rpc, f->call, &boot, &lost);
        first = first ? first : boot;
        if (boot && !lost && pong > f->alive_ms)
            f->alive_ms = pong;
        if (lost || f->gap || boot != first || gm_now_ms() - pong > LOST_MS) {
            struct flow old = *f; /* cancelling answers into the flow: keep what it holds */
            gm_rpc_cancel(c->rpc, f->call);
            *f = old;
            return !f->finished; /* only the END was missing: the turn is complete */
        }
    }
    return f->gap || (!f->finished && f->err.status == GM_UNAVAILABLE && f->started);
}

enum gm_status gm_client_turn(struct gm_client *c, const Gm__StartRequest *request,
                              uint32_t timeout_ms, gm_client_item *item, gm_client_idle *idle,
                              void *ctx, struct gm_err *err)
{
    struct flow f = { .client = c, .item = item, .ctx = ctx, .err = GM_ERR_NONE };
    bool again = false, cancelled = false, interrupted = false;
    int gaps = 0;
    f.alive_ms = gm_now_ms();
    for (;;) {
        bool lost = open_turn(c, &f, request, again, timeout_ms) &&
                    follow(c, &f, request, idle, &cancelled);
        if (again && f.err.status == GM_NOT_FOUND && !f.started) {
            again = false; /* it had not begun when the orchestrator went: begin it */
            lost = true;
        } else if (interrupted && f.err.status == GM_UNAVAILABLE && !f.finished) {
            lost = true;
        } else if (lost) {
            again = true;
        }
        gaps += f.gap;
        if (!lost || gaps > GAPS_MAX || gm_now_ms() - f.alive_ms > GM_CLIENT_PATIENCE_MS)
            break;
        interrupted = true;
        gm_sleep_ms(RETRY_MS);
    }
    if (!f.finished && f.err.status == GM_OK)
        gm_fail(&f.err, GM_UNAVAILABLE,
                "the stream ended before the answer did; look at the orchestrator's log");
    if (err)
        *err = f.err;
    return f.err.status;
}
