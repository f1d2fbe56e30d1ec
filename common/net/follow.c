/* follow.c - turns followed without blocking: see follow.h.
 *
 * Owns:      struct gm_follow and the list of them; one process has one loop.
 * Does not:  know what an answer means.
 */
#include "common/net/follow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/sys.h"

enum { CANCEL_MS = 5000 };

struct gm_follow {
    struct gm_follow *prev, *next;
    struct gm_follow_to to;
    char endpoint[GM_ENDPOINT_MAX];
    Gm__StartRequest *start;   /* owned; NULL: gm_follow_resume */
    Gm__ResumeRequest *resume; /* owned; NULL: gm_follow_start */
    char turn[160];            /* its id, once known */
    uint64_t call;             /* the open stream; 0: none */
    uint64_t boot;             /* who answers it */
    uint32_t used, have, from;
    bool started, finished, again, interrupted, gap, cancelled, gone, inside, dead;
    int gaps;
    int64_t alive_ms, ping_ms, retry_ms, deadline_ms;
};

static struct gm_follow *follows;

static ProtobufCMessage *copy_of(const ProtobufCMessage *m)
{
    const size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = malloc(n + 1);
    if (!bytes)
        return NULL;
    protobuf_c_message_pack(m, bytes);
    ProtobufCMessage *copy = protobuf_c_message_unpack(m->descriptor, NULL, n, bytes);
    free(bytes);
    return copy;
}

static void forget(struct gm_follow *f)
{
    f->dead = true;
    if (f->inside)
        return; /* the one who called us frees it */
    *(f->prev ? &f->prev->next : &follows) = f->next;
    if (f->next)
        f->next->prev = f->prev;
    if (f->start)
        gm__start_request__free_unpacked(f->start, NULL);
    if (f->resume)
        gm__resume_request__free_unpacked(f->resume, NULL);
    free(f);
}

/* Gives up the open stream without hearing of it. */
static void drop_call(struct gm_follow *f)
{
    const uint64_t call = f->call;
    f->call = 0;
    if (call)
        gm_rpc_cancel(f->to.rpc, call); /* on_item sees that it is not ours any more */
}

static void end(struct gm_follow *f, const struct gm_err *err)
{
    struct gm_err why = *err;
    if (!f->gone)
        f->to.end(f->to.ctx, &why);
    forget(f);
}

static bool open_stream(struct gm_follow *f, struct gm_err *err);

static void retry(struct gm_follow *f)
{
    f->interrupted = true;
    f->retry_ms = gm_now_ms() + GM_FOLLOW_RETRY_MS;
}

/* The stream is over, by its END or because its server is gone. */
static void over(struct gm_follow *f, const struct gm_err *err)
{
    struct gm_err why = *err;
    f->gaps += f->gap;
    if (f->finished) {
        why = GM_ERR_NONE;
        end(f, &why);
        return;
    }
    const bool patient = gm_now_ms() - f->alive_ms < GM_FOLLOW_PATIENCE_MS &&
                         f->gaps < GM_FOLLOW_GAPS_MAX;
    if (f->again && f->start && why.status == GM_NOT_FOUND && !f->started && patient) {
        f->again = false; /* it had not begun when the server went: begin it */
        retry(f);
    } else if ((f->gap || (why.status == GM_UNAVAILABLE && (f->started || f->interrupted))) &&
               patient) {
        f->again = true;
        retry(f);
    } else {
        if (why.status == GM_OK)
            gm_fail(&why, GM_UNAVAILABLE,
                    "the stream ended before the answer did; look at the orchestrator's log");
        end(f, &why);
    }
}

/* What the caller has not seen of an event. False: nothing. */
static bool fresh(struct gm_follow *f, const Gm__TurnEvent *in, Gm__TurnEvent *out)
{
    *out = *in;
    bool any = in->progress != NULL;
    if (in->started) {
        if (in->started->turn)
            snprintf(f->turn, sizeof f->turn, "%s", in->started->turn);
        out->started = f->started ? NULL : in->started;
        any |= !f->started;
        if (!f->started && f->have == 0)
            f->have = in->started->prompt_tokens + f->from;
        f->started = true;
    }
    size_t skip = 0;
    while (skip < in->n_tokens && in->tokens[skip]->pos < f->have)
        skip++;
    size_t n = skip;
    while (n < in->n_tokens && (f->have == 0 || in->tokens[n]->pos == f->have))
        f->have = in->tokens[n++]->pos + 1;
    out->tokens = in->tokens + skip;
    out->n_tokens = n - skip;
    f->gap = n < in->n_tokens; /* what follows it, the end too, comes again with Resume */
    if (f->gap)
        out->finished = NULL;
    f->finished = out->finished != NULL;
    return any || out->n_tokens > 0 || f->finished;
}

static void on_item(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct gm_follow *f = ctx;
    Gm__TurnEvent event;
    if (!f->call)
        return; /* drop_call: nobody listens to this stream */
    if (done) {
        f->call = 0;
        over(f, err);
        return;
    }
    f->alive_ms = gm_now_ms();
    if (!f->gap && !f->finished && fresh(f, (const Gm__TurnEvent *)body, &event) && !f->gone) {
        f->inside = true;
        f->to.event(f->to.ctx, &event);
        f->inside = false;
        if (f->dead) {
            drop_call(f);
            forget(f);
            return;
        }
    }
    if (++f->used >= GM_STREAM_CREDIT / 2) {
        gm_rpc_credit(f->to.rpc, f->call, f->used);
        f->used = 0;
    }
}

static void ask_cancel(struct gm_follow *f)
{
    Gm__CancelRequest r = GM__CANCEL_REQUEST__INIT;
    struct gm_peer *peer = gm_bus_peer(f->to.bus, f->endpoint, NULL);
    r.turn = f->turn;
    r.tenant = f->start ? f->start->tenant : f->resume->tenant;
    if (peer && f->turn[0])
        (void)gm_rpc_call(f->to.rpc,
                          &(struct gm_call){ peer, "Orchestrator.Cancel", &r.base,
                                             &gm__empty__descriptor, CANCEL_MS, 0, NULL, NULL },
                          NULL);
}

static bool open_stream(struct gm_follow *f, struct gm_err *err)
{
    struct gm_peer *peer = gm_bus_peer(f->to.bus, f->endpoint, err);
    Gm__ResumeRequest resume = GM__RESUME_REQUEST__INIT;
    const bool start = f->start && !f->again;
    const int64_t left = f->deadline_ms ? f->deadline_ms - gm_now_ms() : 0;
    if (f->resume)
        resume = *f->resume;
    else
        resume.tenant = f->start->tenant;
    if (f->turn[0] && f->have > 0) { /* known by now: from what we have */
        resume.session = NULL;
        resume.from = f->have;
    }
    resume.turn = f->turn;
    f->used = 0;
    f->gap = false;
    f->boot = 0;
    f->retry_ms = 0;
    f->ping_ms = gm_now_ms() + GM_FOLLOW_PING_MS;
    const struct gm_call call = { .to = peer,
                                  .method = start ? "Orchestrator.StartTurn"
                                                  : "Orchestrator.Resume",
                                  .request = start ? &f->start->base : &resume.base,
                                  .reply = &gm__turn_event__descriptor,
                                  .timeout_ms = left > 0 ? (uint32_t)left : f->deadline_ms ? 1 : 0,
                                  .credit = GM_STREAM_CREDIT,
                                  .answer = on_item,
                                  .ctx = f };
    f->call = peer ? gm_rpc_call(f->to.rpc, &call, err) : 0;
    if (f->call && f->cancelled)
        ask_cancel(f); /* the first may have been lost with the server */
    return f->call != 0;
}

static struct gm_follow *begin(const struct gm_follow_to *to, struct gm_err *err)
{
    struct gm_follow *f = calloc(1, sizeof *f);
    if (!f) {
        gm_fail(err, GM_EXHAUSTED, "no memory for a turn");
        return NULL;
    }
    f->to = *to;
    snprintf(f->endpoint, sizeof f->endpoint, "%s", to->endpoint);
    f->alive_ms = gm_now_ms();
    f->deadline_ms = to->timeout_ms ? gm_now_ms() + to->timeout_ms : 0;
    f->next = follows;
    if (follows)
        follows->prev = f;
    follows = f;
    return f;
}

struct gm_follow *gm_follow_start(const struct gm_follow_to *to, const Gm__StartRequest *request,
                                  struct gm_err *err)
{
    struct gm_follow *f = begin(to, err);
    if (!f)
        return NULL;
    f->start = (Gm__StartRequest *)copy_of(&request->base);
    snprintf(f->turn, sizeof f->turn, "%s", request->turn);
    if (f->start && open_stream(f, err))
        return f;
    if (!f->start)
        gm_fail(err, GM_EXHAUSTED, "no memory for a turn");
    forget(f);
    return NULL;
}

struct gm_follow *gm_follow_resume(const struct gm_follow_to *to, const Gm__ResumeRequest *request,
                                   struct gm_err *err)
{
    struct gm_follow *f = begin(to, err);
    if (!f)
        return NULL;
    f->resume = (Gm__ResumeRequest *)copy_of(&request->base);
    f->again = true;
    snprintf(f->turn, sizeof f->turn, "%s", request->turn);
    if (request->session)
        f->from = request->from;
    else
        f->have = request->from;
    if (f->resume && open_stream(f, err))
        return f;
    if (!f->resume)
        gm_fail(err, GM_EXHAUSTED, "no memory for a turn");
    forget(f);
    return NULL;
}

void gm_follow_cancel(struct gm_follow *f)
{
    f->cancelled = true;
    ask_cancel(f);
}

void gm_follow_let(struct gm_follow *f)
{
    f->gone = true;
    if (!f->inside)
        drop_call(f);
    forget(f);
}

void gm_follow_leave(struct gm_follow *f)
{
    if (!f->finished)
        ask_cancel(f);
    gm_follow_let(f);
}

/* The server does not know the stream any more, is another one, or is silent. */
static bool is_lost(struct gm_follow *f, int64_t now)
{
    uint64_t boot = 0;
    bool lost = false;
    const int64_t pong = gm_rpc_last_pong_ms(f->to.rpc, f->call, &boot, &lost);
    if (!f->boot)
        f->boot = boot;
    if (boot && !lost && pong > f->alive_ms)
        f->alive_ms = pong;
    return lost || f->gap || (boot && boot != f->boot) || now - pong > GM_FOLLOW_LOST_MS;
}

static void look_after(struct gm_follow *f, int64_t now)
{
    struct gm_err err = GM_ERR_NONE;
    if (f->call && (f->gap || now >= f->ping_ms)) {
        if (is_lost(f, now)) {
            drop_call(f);
            gm_fail(&err, GM_UNAVAILABLE, "the orchestrator does not answer; try again");
            f->interrupted = true;
            over(f, &err);
            return;
        }
        gm_rpc_ping(f->to.rpc, f->call);
        f->ping_ms = now + GM_FOLLOW_PING_MS;
    } else if (!f->call && f->retry_ms && now >= f->retry_ms && !open_stream(f, &err)) {
        gm_fail(&err, GM_UNAVAILABLE, "the orchestrator cannot be reached; try again");
        over(f, &err);
    }
}

int gm_follow_tick(struct gm_rpc *rpc)
{
    const int64_t now = gm_now_ms();
    int64_t least = -1;
    for (struct gm_follow *f = follows, *next; f; f = next) {
        next = f->next;
        if (f->to.rpc == rpc && !f->inside)
            look_after(f, now);
    }
    for (const struct gm_follow *f = follows; f; f = f->next) {
        int64_t left = (f->call ? f->ping_ms : f->retry_ms) - now;
        if (left < 0)
            left = 0;
        if (least < 0 || left < least)
            least = left;
    }
    return (int)least;
}
