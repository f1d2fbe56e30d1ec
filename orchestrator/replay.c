/* replay.c - a turn that has ended already is told again: its client was away when it did.
 *
 * Owns:      reading a finished turn's record and answer from Redis, and sending them as events.
 * Does not:  run anything (turn.c, recover.c). Log-probabilities are not stored and not told again.
 */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/orch.h"

struct replay {
    struct gm_orch *orch;
    struct gm_stream *stream; /* NULL: the client is gone */
    uint32_t from;
    Gm__TurnRecord *record;
};

static void on_stream(void *ctx, struct gm_stream *s, bool gone, uint32_t credit)
{
    struct replay *r = ctx;
    (void)s;
    (void)credit;
    if (gone)
        r->stream = NULL;
}

static void replay_end(struct replay *r, const struct gm_err *err)
{
    if (r->stream) {
        gm_stream_on_event(r->stream, NULL, NULL);
        gm_stream_end(r->stream, err);
    }
    if (r->record)
        gm__turn_record__free_unpacked(r->record, NULL);
    free(r);
}

static void send_started(struct replay *r)
{
    Gm__TurnEvent event = GM__TURN_EVENT__INIT;
    Gm__StartedEvent started = GM__STARTED_EVENT__INIT;
    started.session = r->record->session;
    started.seed = r->record->sampling->seed;
    started.prompt_tokens = (uint32_t)r->record->n_prompt;
    event.started = &started;
    gm_stream_item(r->stream, &event.base);
}

static void send_tokens(struct replay *r, const char *ids, size_t n)
{
    const uint32_t base = (uint32_t)r->record->n_prompt;
    for (size_t i = r->from > base ? r->from - base : 0; i < n;) {
        Gm__Token tokens[GM_EVENT_TOKENS_MAX], *rows[GM_EVENT_TOKENS_MAX];
        Gm__TurnEvent event = GM__TURN_EVENT__INIT;
        for (; i < n && event.n_tokens < GM_EVENT_TOKENS_MAX; i++) {
            Gm__Token *t = &tokens[event.n_tokens];
            gm__token__init(t);
            t->pos = base + (uint32_t)i;
            memcpy(&t->id, ids + 4 * i, 4);
            rows[event.n_tokens++] = t;
        }
        event.tokens = rows;
        gm_stream_item(r->stream, &event.base);
    }
}

static void on_answer(void *ctx, const struct redisReply *reply, const struct gm_err *failed)
{
    struct replay *r = ctx;
    struct gm_err err = *failed;
    const size_t n = r->record->has_answer ? r->record->answer : 0;
    if (reply && (reply->type != REDIS_REPLY_STRING || (size_t)reply->len < 4 * n))
        gm_fail(&err, GM_NOT_FOUND, "the turn has ended and its answer is not stored any more");
    if (r->stream && err.status == GM_OK) {
        Gm__TurnEvent event = GM__TURN_EVENT__INIT;
        Gm__FinishedEvent finished = GM__FINISHED_EVENT__INIT;
        send_started(r);
        send_tokens(r, reply->str, n);
        finished.reason = r->record->finish;
        finished.saved = true;
        finished.completion_tokens = (uint32_t)n;
        event.finished = &finished;
        gm_stream_item(r->stream, &event.base);
    }
    replay_end(r, &err);
}

static void on_record(void *ctx, const struct redisReply *reply, const struct gm_err *failed)
{
    struct replay *r = ctx;
    struct gm_err err = *failed;
    if (reply && reply->type == REDIS_REPLY_STRING)
        r->record = gm__turn_record__unpack(NULL, (size_t)reply->len, (const uint8_t *)reply->str);
    if (err.status == GM_OK && (!r->record || !r->record->finish))
        gm_fail(&err, GM_NOT_FOUND, "no such turn is running here, and none has ended lately");
    if (err.status != GM_OK) {
        replay_end(r, &err);
        return;
    }
    gm_sess_answer(r->orch, r->record, on_answer, r);
}

void gm_orch_replay(struct gm_orch *o, const Gm__ResumeRequest *in, struct gm_stream *stream)
{
    struct replay *r = calloc(1, sizeof *r);
    if (!r) {
        struct gm_err err = GM_ERR_NONE;
        gm_fail(&err, GM_EXHAUSTED, "no memory for a call");
        gm_stream_end(stream, &err);
        return;
    }
    r->orch = o;
    r->stream = stream;
    r->from = in->from;
    gm_stream_on_event(stream, on_stream, r);
    gm_sess_ended(o, in->tenant ? in->tenant : "local", in->turn, on_record, r);
}
