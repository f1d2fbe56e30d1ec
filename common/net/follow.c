/* follow.c - turns followed without waiting: see follow.h.
 *
 * Owns:      the streams of the set's turns, when each is pinged, opened again or given up.
 * Does not:  read the bus (the caller's loop does), or keep tokens.
 *
 * A stream is lost when its server says that it does not know it, or when anything of the set
 * heard of a server with another boot. Silence alone loses nothing: a server that comes back
 * answers the ping, and its answer tells which of the two it is.
 */
#include "common/net/follow.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/map.h"
#include "common/base/sys.h"

enum {
    RETRY_MS = 100,      /* between two attempts to resume, */
    RETRY_MS_MAX = 1000, /* or what the orchestrator says, up to this */
    GAPS_MAX = 10,       /* streams of one turn that may miss a position */
    PING_SHARE_MS = 12,  /* all streams together ping no more often than this */
    SILENT_MS = 2000,    /* nothing heard for so long: one stream pings for all */
    CANCEL_MS = 1000,    /* an unanswered wish to cancel is said again */
    PAUSE_MS = 2000,     /* between two ticks: this process did not run */
};

struct gm_follow {
    struct gm_follows *all;
    struct gm_follow_to to;
    char trace[GM_TRACE_MAX]; /* "": none */
    uint64_t key;
    Gm__StartRequest *start;   /* owned; what begins it; NULL: it must be there */
    Gm__ResumeRequest *resume; /* owned; turn and session as known by now */
    bool attach;               /* the next stream is a Resume */
    uint64_t call;             /* the open stream; 0: none */
    uint64_t boot;             /* of the server that answered on it; 0: none yet */
    bool dropping;             /* the stream is being given up: what it says does not count */
    bool started, finished, gap, interrupted, cancelled, left;
    uint32_t have; /* position after the last token told; 0: not known */
    uint32_t used; /* items since credit was given last */
    int gaps;
    int64_t deadline_ms; /* 0: none */
    int64_t alive_ms;    /* when a stream of it was last known to live */
    int64_t due_ms;      /* the next ping, or without a stream the next attempt */
    int64_t cancel_ms;   /* when to say again that it should end */
    struct gm_err why;   /* what the last stream ended with */
};

struct gm_follows {
    struct gm_bus *bus;
    struct gm_rpc *rpc;
    struct gm_peer *peer;
    struct gm_idmap map; /* key -> struct gm_follow */
    uint64_t next_key;
    uint64_t boot;    /* of the server heard last */
    int64_t heard_ms; /* when that was */
    int64_t tick_ms;  /* the last tick */
};

enum gm_status gm_follows_open(struct gm_follows **out, struct gm_bus *bus, struct gm_rpc *rpc,
                               const char *endpoint, struct gm_err *err)
{
    struct gm_follows *all = calloc(1, sizeof *all);
    *out = NULL;
    if (!all)
        return gm_fail(err, GM_EXHAUSTED, "no memory for turns");
    all->bus = bus;
    all->rpc = rpc;
    enum gm_status rc = gm_idmap_open(&all->map, 16, GM_FOLLOWS_MAX, err);
    if (rc == GM_OK && !(all->peer = gm_bus_peer(bus, endpoint, err)))
        rc = err && err->status != GM_OK ? err->status : GM_UNAVAILABLE;
    if (rc != GM_OK) {
        gm_follows_close(&all);
        return rc;
    }
    *out = all;
    return GM_OK;
}

size_t gm_follows_n(const struct gm_follows *all)
{
    return all->map.n;
}

/* Gives the stream up without hearing its end. */
static void drop_stream(struct gm_follow *f)
{
    const uint64_t call = f->call;
    f->call = 0;
    f->dropping = true;
    if (call)
        gm_rpc_cancel(f->all->rpc, call);
    f->dropping = false;
}

static void follow_free(struct gm_follow *f)
{
    drop_stream(f);
    gm_idmap_take(&f->all->map, f->key);
    if (f->start)
        gm__start_request__free_unpacked(f->start, NULL);
    if (f->resume)
        gm__resume_request__free_unpacked(f->resume, NULL);
    free(f);
}

void gm_follows_close(struct gm_follows **follows)
{
    struct gm_follows *all = *follows;
    if (!all)
        return;
    while (all->map.n > 0)
        follow_free(all->map.entries[all->map.n - 1].value);
    gm_idmap_close(&all->map);
    free(all);
    *follows = NULL;
}

/* ---- one stream
 * ---------------------------------------------------------------------------------- */

static void ask_cancel(struct gm_follow *f)
{
    Gm__CancelRequest r = GM__CANCEL_REQUEST__INIT;
    f->cancel_ms = gm_now_ms() + CANCEL_MS;
    r.turn = f->resume->turn;
    r.tenant = f->resume->tenant;
    if (r.turn[0]) /* else `started` names it */
        gm_rpc_call(f->all->rpc,
                    &(struct gm_call){ f->all->peer, "Orchestrator.Cancel", &r.base,
                                       &gm__empty__descriptor, CANCEL_MS, 0, NULL, NULL },
                    NULL);
}

/* Notes what `started` says; true when the caller has not heard it. */
static bool take_started(struct gm_follow *f, const Gm__StartedEvent *in)
{
    const bool first = !f->started;
    f->started = true;
    if (first && f->resume->session && !f->resume->turn[0])
        f->have = in->prompt_tokens + f->resume->from; /* was counted in tokens of the answer */
    else if (first && f->have < in->prompt_tokens)
        f->have = in->prompt_tokens;
    if (f->resume->turn[0] || !in->turn || !in->turn[0])
        return first;
    char *turn = strdup(in->turn);
    if (turn) {
        free(f->resume->turn);
        f->resume->turn = turn;
        if (f->cancelled)
            ask_cancel(f);
    }
    return first;
}

/* Tells the caller what it has not heard: each position once, in order, without gaps. */
static void take_event(struct gm_follow *f, const Gm__TurnEvent *in)
{
    Gm__TurnEvent event = *in;
    if (f->gap || f->finished)
        return; /* what follows a gap, the end too, comes again with Resume */
    if (in->started && !take_started(f, in->started))
        event.started = NULL;
    size_t skip = 0;
    while (skip < in->n_tokens && in->tokens[skip]->pos < f->have)
        skip++;
    size_t n = skip;
    /* `started` comes first: tokens before it are behind a gap */
    while (f->started && n < in->n_tokens && (f->have == 0 || in->tokens[n]->pos == f->have) &&
           in->tokens[n]->pos < UINT32_MAX)
        f->have = in->tokens[n++]->pos + 1;
    event.tokens = skip > 0 ? in->tokens + skip : in->tokens;
    event.n_tokens = n - skip;
    f->gap = n < in->n_tokens;
    if (f->gap)
        event.finished = NULL;
    f->finished = event.finished != NULL;
    const bool news = event.started || event.progress || event.finished || event.n_tokens > 0;
    if (news && !f->left)
        f->to.event(f->to.ctx, &event);
}

static void finish(struct gm_follow *f, const struct gm_err *err)
{
    if (!f->left)
        f->to.end(f->to.ctx, err);
    follow_free(f);
}

/* The stream is gone and the turn may go on: another one is opened when its time comes. */
static void later(struct gm_follow *f, int64_t wait_ms)
{
    f->interrupted = true;
    f->due_ms = gm_now_ms() + wait_ms;
}

static int64_t retry_of(const struct gm_err *err)
{
    if (err->retry_ms <= RETRY_MS)
        return RETRY_MS;
    return err->retry_ms < RETRY_MS_MAX ? err->retry_ms : RETRY_MS_MAX;
}

/* The server ended the stream: the turn's end, or a reason to ask again. */
static void on_end(struct gm_follow *f, const struct gm_err *err)
{
    struct gm_err why = *err;
    f->call = 0;
    f->why = *err;
    if (f->finished) {
        why = GM_ERR_NONE;
    } else if (f->gap) {
        f->gaps++;
        f->attach = true;
        if (f->gaps <= GAPS_MAX) {
            later(f, RETRY_MS);
            return;
        }
        gm_fail(&why, GM_UNAVAILABLE,
                "the stream of the turn has gaps; look at the orchestrator's "
                "log");
    } else if (err->status == GM_UNAVAILABLE && (f->attach || f->started || f->interrupted)) {
        f->attach = f->attach || f->started;
        later(f, retry_of(err));
        return;
    } else if (err->status == GM_NOT_FOUND && f->attach && !f->started && f->start) {
        f->attach = false; /* it had not begun: begin it */
        if (!f->cancelled) {
            later(f, f->interrupted ? RETRY_MS : 0);
            return;
        }
        gm_fail(&why, GM_CANCELLED, "cancelled before the first token");
    } else if (err->status == GM_OK) {
        gm_fail(&why, GM_UNAVAILABLE,
                "the stream ended before the answer did; look at the orchestrator's log");
    }
    finish(f, &why);
}

static void on_answer(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct gm_follow *f = ctx;
    if (f->dropping)
        return;
    if (done) {
        on_end(f, err);
        return;
    }
    take_event(f, (const Gm__TurnEvent *)body);
    if (++f->used >= GM_STREAM_CREDIT / 2) {
        gm_rpc_credit(f->all->rpc, f->call, f->used);
        f->used = 0;
    }
}

static int64_t ping_every(const struct gm_follows *all)
{
    const int64_t ms = (int64_t)all->map.n * PING_SHARE_MS;
    if (ms < GM_FOLLOW_PING_MS)
        return GM_FOLLOW_PING_MS;
    return ms < GM_FOLLOW_PING_MS_MAX ? ms : GM_FOLLOW_PING_MS_MAX;
}

/* Opens the stream of the turn, or opens it again. */
static enum gm_status open_stream(struct gm_follow *f, struct gm_err *err)
{
    const int64_t now = gm_now_ms(), left = f->deadline_ms - now;
    struct gm_call call = { .to = f->all->peer,
                            .method = f->attach ? "Orchestrator.Resume" : "Orchestrator.StartTurn",
                            .request = f->attach ? &f->resume->base : &f->start->base,
                            .reply = &gm__turn_event__descriptor,
                            .timeout_ms = f->deadline_ms ? (uint32_t)(left > 1 ? left : 1) : 0,
                            .credit = GM_STREAM_CREDIT,
                            .answer = on_answer,
                            .ctx = f };
    if (f->started) { /* by now all is counted in positions */
        f->resume->from = f->have;
        if (f->resume->turn[0] && f->resume->session) {
            free(f->resume->session);
            f->resume->session = NULL;
        }
    }
    f->boot = 0;
    f->used = 0;
    f->gap = false;
    f->due_ms = now + ping_every(f->all);
    f->call = gm_rpc_call_with(
        f->all->rpc, &call, &(struct gm_call_more){ .traceparent = f->trace[0] ? f->trace : NULL },
        err);
    if (!f->call)
        return err->status != GM_OK ? err->status : GM_UNAVAILABLE;
    if (f->cancelled)
        ask_cancel(f); /* the first may have been lost with the orchestrator */
    return GM_OK;
}

/* ---- the clock
 * ----------------------------------------------------------------------------------- */

/* What is known of the server from all streams: the one heard last counts. */
static void look(struct gm_follows *all, int64_t now)
{
    const int64_t gap = all->tick_ms ? now - all->tick_ms : 0;
    for (size_t i = 0; i < all->map.n; i++) {
        struct gm_follow *f = all->map.entries[i].value;
        uint64_t boot = 0;
        bool lost = false;
        if (gap > PAUSE_MS)
            f->alive_ms += gap; /* we did not run: nobody could be heard */
        const int64_t pong = f->call ? gm_rpc_last_pong_ms(all->rpc, f->call, &boot, &lost) : 0;
        if (!boot)
            continue;
        f->boot = f->boot ? f->boot : boot;
        if (!lost && pong > f->alive_ms)
            f->alive_ms = pong;
        if (pong >= all->heard_ms) {
            all->heard_ms = pong;
            all->boot = boot;
        }
    }
    all->tick_ms = now;
}

/* Opens the stream again, now; a failure of it is tried again later. */
static void again(struct gm_follow *f)
{
    struct gm_err err = GM_ERR_NONE;
    if (open_stream(f, &err) == GM_OK)
        return;
    f->why = err;
    later(f, RETRY_MS);
}

/* One turn's share of a tick. pings: it may ask the server. False: the turn is gone. */
static bool tend(struct gm_follow *f, int64_t now, bool pings)
{
    struct gm_follows *all = f->all;
    uint64_t boot = 0;
    bool lost = false;
    if (now - f->alive_ms > GM_FOLLOW_PATIENCE_MS) {
        struct gm_err err = f->why;
        if (err.status == GM_OK)
            gm_fail(&err, GM_UNAVAILABLE, "the orchestrator does not answer; look at its log");
        drop_stream(f);
        finish(f, &err);
        return false;
    }
    if (f->call)
        gm_rpc_last_pong_ms(all->rpc, f->call, &boot, &lost);
    lost = f->call && (lost || f->gap || (f->boot && f->boot != all->boot));
    if (lost && f->finished) { /* only the END was missing: the turn is complete */
        const struct gm_err ok = GM_ERR_NONE;
        drop_stream(f);
        finish(f, &ok);
        return false;
    }
    if (lost) {
        const struct gm_err none = GM_ERR_NONE;
        const bool gap = f->gap;
        drop_stream(f);
        f->attach = true;
        if (gap) {
            const uint64_t key = f->key;
            on_end(f, &none);
            return gm_idmap_get(&all->map, key) != NULL;
        }
        later(f, 0);
    }
    if (!f->call && now >= f->due_ms) {
        again(f);
    } else if (f->call && now >= f->due_ms && pings) {
        gm_rpc_ping(all->rpc, f->call);
        f->due_ms = now + ping_every(all);
    }
    if (f->cancelled && f->call && pings && now >= f->cancel_ms)
        ask_cancel(f);
    return true;
}

int gm_follows_tick(struct gm_follows *all)
{
    const int64_t now = gm_now_ms();
    int64_t next = -1;
    if (all->map.n == 0) {
        all->tick_ms = 0;
        return -1;
    }
    look(all, now);
    const bool silent = now - all->heard_ms > SILENT_MS;
    for (size_t i = all->map.n; i-- > 0;) {
        struct gm_follow *f = i < all->map.n ? all->map.entries[i].value : NULL;
        if (!f || !tend(f, now, !silent || i == 0))
            continue;
        int64_t left = f->due_ms - now;
        if (left <= 0) /* kept quiet by the silence */
            left = GM_FOLLOW_PING_MS;
        if (next < 0 || left < next)
            next = left;
    }
    return next < 0 ? -1 : (int)next;
}

/* ---- what a caller asks
 * -------------------------------------------------------------------------- */

/* A copy of a message, owned by the caller; NULL: no memory. */
static void *copy_of(const ProtobufCMessage *m)
{
    const size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = malloc(n + 1);
    if (!bytes)
        return NULL;
    protobuf_c_message_pack(m, bytes);
    void *copy = protobuf_c_message_unpack(m->descriptor, NULL, n, bytes);
    free(bytes);
    return copy;
}

static struct gm_follow *begin(struct gm_follows *all, const struct gm_follow_to *to,
                               const Gm__ResumeRequest *resume, const Gm__StartRequest *start,
                               struct gm_err *err)
{
    struct gm_err why = GM_ERR_NONE;
    struct gm_follow *f = calloc(1, sizeof *f);
    err = err ? err : &why;
    if (!f) {
        gm_fail(err, GM_EXHAUSTED, "no memory for a turn");
        return NULL;
    }
    f->all = all;
    f->to = *to;
    if (gm_trace_ok(to->trace))
        memcpy(f->trace, to->trace, GM_TRACE_LEN);
    f->key = ++all->next_key;
    f->alive_ms = gm_now_ms();
    f->deadline_ms = to->timeout_ms ? f->alive_ms + to->timeout_ms : 0;
    f->why = GM_ERR_NONE;
    if (gm_idmap_put(&all->map, f->key, f, err) != GM_OK) {
        free(f);
        return NULL;
    }
    f->resume = copy_of(&resume->base);
    f->start = start ? copy_of(&start->base) : NULL;
    if (!f->resume || (start && !f->start))
        gm_fail(err, GM_EXHAUSTED, "no memory for a turn");
    return f;
}

/* Opens the first stream. NULL when it could not be: the follow is freed. */
static struct gm_follow *first(struct gm_follow *f, struct gm_err *err)
{
    struct gm_err why = GM_ERR_NONE;
    if (!f)
        return NULL;
    if (f->resume && (f->attach || f->start) && open_stream(f, &why) == GM_OK)
        return f;
    if (err && why.status != GM_OK)
        *err = why;
    follow_free(f);
    return NULL;
}

struct gm_follow *gm_follow_start(struct gm_follows *all, const struct gm_follow_to *to,
                                  const Gm__StartRequest *request, struct gm_err *err)
{
    Gm__ResumeRequest resume = GM__RESUME_REQUEST__INIT;
    resume.turn = request->turn;
    resume.tenant = request->tenant;
    return first(begin(all, to, &resume, request, err), err);
}

struct gm_follow *gm_follow_resume(struct gm_follows *all, const struct gm_follow_to *to,
                                   const Gm__ResumeRequest *request,
                                   const Gm__StartRequest *otherwise, struct gm_err *err)
{
    struct gm_follow *f = begin(all, to, request, otherwise, err);
    if (f) {
        f->attach = true;
        f->have = request->turn[0] ? request->from : 0;
    }
    return first(f, err);
}

void gm_follow_cancel(struct gm_follow *f)
{
    if (f->cancelled)
        return;
    f->cancelled = true;
    ask_cancel(f);
}

void gm_follow_leave(struct gm_follow *f)
{
    f->left = true;
    gm_follow_cancel(f);
}

void gm_follow_let(struct gm_follow *f)
{
    f->left = true;
}
