/* replay.c - a turn that has ended already is told again: its client was away when it did.
 *
 * Owns:      finding it in Redis by its id, or as the last of its session, and sending its events
 *            as far as its client grants credit.
 * Does not:  run anything (turn.c, recover.c). Log-probabilities are not stored and not told again.
 */
#include <stdlib.h>
#include <string.h>

#include "orchestrator/orch.h"

struct gm_replay {
    struct gm_orch *orch;
    struct gm_replay *next, **at; /* of the list of all: the one behind, what points here */
    struct gm_stream *stream;     /* NULL: the client is gone */
    int64_t client_ms;            /* last word of the client */
    bool asks;                    /* an answer of Redis is on its way to it */
    bool of_session;              /* `from` counts tokens of the answer */
    uint32_t from;
    struct gm_sess sess; /* what is told lies in it */
    /* what is told; borrowed from sess */
    Gm__StartedEvent started;
    Gm__FinishedEvent finished;
    struct gm_err end; /* what ended the turn, instead of `finished` */
    const int32_t *ids;
    size_t n, sent;
    bool started_sent;
};

static void replay_end(struct gm_replay *r, const struct gm_err *err)
{
    if (r->stream) {
        gm_stream_on_event(r->stream, NULL, NULL);
        gm_stream_end(r->stream, err);
    }
    *r->at = r->next;
    if (r->next)
        r->next->at = r->at;
    gm_sess_free(&r->sess);
    free(r);
}

static bool send_tokens(struct gm_replay *r)
{
    Gm__Token tokens[GM_EVENT_TOKENS_MAX], *rows[GM_EVENT_TOKENS_MAX];
    Gm__TurnEvent event = GM__TURN_EVENT__INIT;
    for (size_t i = r->sent; i < r->n && event.n_tokens < GM_EVENT_TOKENS_MAX; i++) {
        Gm__Token *t = &tokens[event.n_tokens];
        gm__token__init(t);
        t->pos = r->started.prompt_tokens + (uint32_t)i;
        t->id = r->ids[i];
        rows[event.n_tokens++] = t;
    }
    event.tokens = rows;
    if (!gm_stream_item(r->stream, &event.base))
        return false;
    r->sent += event.n_tokens;
    return true;
}

/* Sends what there is credit for. The replay may be gone after it. */
static void flush(struct gm_replay *r)
{
    Gm__TurnEvent event = GM__TURN_EVENT__INIT;
    if (!r->started_sent) {
        event.started = &r->started;
        if (!gm_stream_item(r->stream, &event.base))
            return;
        r->started_sent = true;
        event.started = NULL;
    }
    while (r->sent < r->n)
        if (!send_tokens(r))
            return;
    event.finished = &r->finished;
    if (r->end.status != GM_OK)
        replay_end(r, &r->end);
    else if (gm_stream_item(r->stream, &event.base))
        replay_end(r, NULL);
}

static void on_stream(void *ctx, struct gm_stream *s, bool gone, uint32_t credit)
{
    struct gm_replay *r = ctx;
    (void)s;
    r->client_ms = gm_now_ms();
    if (gone)
        r->stream = NULL;
    if (gone && !r->asks)
        replay_end(r, NULL);
    else if (!gone && credit > 0 && !r->asks)
        flush(r);
}

/* A client that died in the middle is never heard of again: what it was told is not kept for it. */
void gm_replay_tick(struct gm_orch *o, int64_t paused_ms)
{
    struct gm_err err = GM_ERR_NONE;
    gm_fail(&err, GM_CANCELLED, "the client was not heard of for %d s", GM_ORPHAN_MS / 1000);
    for (struct gm_replay *r = o->replays, *next; r; r = next) {
        next = r->next;
        r->client_ms += paused_ms;
        if (!r->asks && gm_now_ms() - r->client_ms > GM_ORPHAN_MS)
            replay_end(r, &err);
    }
}

void gm_replay_close(struct gm_orch *o)
{
    while (o->replays) {
        o->replays->stream = NULL; /* it went with the calls */
        replay_end(o->replays, NULL);
    }
}

static void tell(struct gm_replay *r)
{
    if (!r->stream) {
        replay_end(r, NULL);
        return;
    }
    if (!r->of_session)
        r->from = r->from > r->started.prompt_tokens ? r->from - r->started.prompt_tokens : 0;
    r->sent = r->from < r->n ? r->from : r->n;
    r->finished.saved = true;
    r->finished.completion_tokens = (uint32_t)r->n;
    flush(r);
}

static void tell_record(struct gm_replay *r)
{
    const Gm__TurnRecord *record = r->sess.record;
    r->started.session = record->session;
    r->started.turn = record->request->turn;
    r->started.seed = record->sampling->seed;
    r->started.prompt_tokens = (uint32_t)record->n_prompt;
    r->finished.reason = record->finish;
    if (record->has_failed && record->failed <= GM_UNAUTHENTICATED)
        gm_fail(&r->end, (enum gm_status)record->failed, "%s", record->why ? record->why : "");
    r->ids = r->sess.answer;
    r->n = r->sess.n_answer;
    tell(r);
}

static void tell_last(struct gm_replay *r)
{
    const Gm__TurnInfo *last = r->sess.turns[r->sess.n_turns - 1];
    r->started.session = r->sess.id;
    r->started.turn = last->turn;
    r->started.seed = last->sampling ? last->sampling->seed : 0;
    r->started.prompt_tokens = last->prompt_end;
    r->finished.reason = last->finish ? last->finish : (char *)"stop";
    r->ids = r->sess.ids + last->prompt_end;
    r->n = last->answer_end - last->prompt_end;
    tell(r);
}

/* Makes what Redis gave the replay's own. */
static void take(struct gm_replay *r, struct gm_sess *sess)
{
    r->sess = *sess;
    sess->ids = sess->answer = NULL;
    sess->turns = NULL;
    sess->record = NULL;
    sess->n_ids = sess->n_turns = sess->n_answer = 0;
}

static void on_record(void *ctx, struct gm_sess *sess, const struct gm_err *failed)
{
    struct gm_replay *r = ctx;
    struct gm_err err = *failed;
    r->asks = false;
    if (err.status == GM_OK && !sess->record->finish)
        gm_fail(&err, GM_NOT_FOUND,
                "no such turn or session is running here, and none has ended lately");
    if (err.status != GM_OK) {
        replay_end(r, &err);
        return;
    }
    take(r, sess);
    tell_record(r);
}

static void on_session(void *ctx, struct gm_sess *sess, const struct gm_err *failed)
{
    struct gm_replay *r = ctx;
    struct gm_err err = *failed;
    r->asks = false;
    if (err.status != GM_OK) {
        replay_end(r, &err);
    } else if (sess->n_turns == 0) { /* one of a single turn may have the turn's name */
        r->asks = true;
        gm_sess_ended(r->orch, sess->tenant, sess->id, on_record, r);
    } else {
        take(r, sess);
        tell_last(r);
    }
}

static struct gm_replay *replay_new(struct gm_orch *o, struct gm_stream *stream)
{
    struct gm_replay *r = calloc(1, sizeof *r);
    if (!r) {
        struct gm_err err = GM_ERR_NONE;
        gm_fail(&err, GM_EXHAUSTED, "no memory for a call");
        gm_stream_end(stream, &err);
        return NULL;
    }
    r->orch = o;
    r->stream = stream;
    r->client_ms = gm_now_ms();
    r->next = o->replays;
    r->at = &o->replays;
    if (r->next)
        r->next->at = &r->next;
    o->replays = r;
    gm__started_event__init(&r->started);
    gm__finished_event__init(&r->finished);
    gm_stream_on_event(stream, on_stream, r);
    return r;
}

void gm_orch_tell(struct gm_orch *o, struct gm_stream *stream, struct gm_sess *sess)
{
    struct gm_replay *r = replay_new(o, stream);
    if (!r)
        return;
    take(r, sess);
    tell_record(r);
}

void gm_orch_replay(struct gm_orch *o, const Gm__ResumeRequest *in, struct gm_stream *stream)
{
    struct gm_sess of = { .exists = false };
    struct gm_replay *r = replay_new(o, stream);
    if (!r)
        return;
    r->from = in->from;
    r->of_session = !in->turn[0];
    snprintf(of.tenant, sizeof of.tenant, "%s", in->tenant ? in->tenant : "local");
    r->asks = true;
    if (!r->of_session) {
        gm_sess_ended(o, of.tenant, in->turn, on_record, r);
        return;
    }
    snprintf(of.id, sizeof of.id, "%s", in->session);
    gm_sess_load(o, &of, NULL, false, on_session, r);
}
