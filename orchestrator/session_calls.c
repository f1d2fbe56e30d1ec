/* session_calls.c - the calls about stored sessions: list, show, undo, remove.
 *
 * Owns:      these four methods.
 * Does not:  know keys (session.c) or run turns (edge.c, turn.c).
 */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/orch.h"

enum { ROW = 7 }; /* fields of a session in a list */

enum what { SHOW, UNDO, REMOVE, LIST };

/* A call that waits for Redis. The stream may go before the answer comes. */
struct asking {
    struct gm_orch *orch;
    struct gm_stream *stream; /* NULL: the client is gone */
    enum what what;
    struct gm_sess sess; /* after loading */
};

static void on_stream(void *ctx, struct gm_stream *s, bool gone, uint32_t credit)
{
    struct asking *a = ctx;
    (void)s;
    (void)credit;
    if (gone)
        a->stream = NULL;
}

static void asking_free(struct asking *a)
{
    if (a->stream)
        gm_stream_on_event(a->stream, NULL, NULL);
    gm_sess_free(&a->sess);
    free(a);
}

static void asking_fail(struct asking *a, const struct gm_err *err)
{
    if (a->stream) {
        gm_stream_on_event(a->stream, NULL, NULL);
        gm_stream_end(a->stream, err);
        a->stream = NULL;
    }
    asking_free(a);
}

static void asking_reply(struct asking *a, const ProtobufCMessage *body)
{
    if (a->stream) {
        gm_stream_on_event(a->stream, NULL, NULL);
        gm_rpc_reply(a->stream, body);
        a->stream = NULL;
    }
    asking_free(a);
}

static void reply_session(struct asking *a)
{
    Gm__SessionReply r = GM__SESSION_REPLY__INIT;
    const struct gm_sess *s = &a->sess;
    r.session = a->sess.id;
    r.tokens = (uint32_t)s->n_ids;
    r.created_ms = s->created_ms;
    r.touched_ms = s->touched_ms;
    r.busy = s->busy;
    r.n_turns = s->n_turns;
    r.turns = s->turns;
    r.n_ids = s->n_ids;
    r.ids = s->ids;
    r.has_raw = 1;
    r.raw = s->raw;
    asking_reply(a, &r.base);
}

static void on_cut(void *ctx, const struct redisReply *reply, const struct gm_err *err)
{
    struct asking *a = ctx;
    const Gm__Empty empty = GM__EMPTY__INIT;
    if (!reply)
        asking_fail(a, err);
    else if (a->what == REMOVE)
        asking_reply(a, &empty.base);
    else
        reply_session(a);
}

/* The shards may forget the rows of a removed session. */
static void forget(struct gm_orch *o, const struct gm_sess *s)
{
    char name[2 * GM_ID_MAX + 3];
    Gm__ForgetRequest r = GM__FORGET_REQUEST__INIT;
    snprintf(name, sizeof name, "%s/%s", s->tenant, s->id);
    r.session = name;
    for (int i = 0; i < o->roster.shards; i++)
        if (o->roster.shard[i].peer)
            gm_rpc_call(o->base.rpc,
                        &(struct gm_call){ o->roster.shard[i].peer, "Shard.Forget", &r.base,
                                           &gm__empty__descriptor, GM_CALL_MS, 0, NULL, NULL },
                        NULL);
}

static void drop_last(struct gm_sess *s)
{
    Gm__TurnInfo *last = s->turns[--s->n_turns];
    s->n_ids = last->start;
    gm__turn_info__free_unpacked(last, NULL);
}

static void on_loaded(void *ctx, struct gm_sess *sess, const struct gm_err *why)
{
    struct asking *a = ctx;
    struct gm_err err = *why;
    /* one whose first turn runs has nothing stored yet, but is busy */
    if (err.status == GM_OK && !sess->exists && !(sess->busy && a->what == SHOW))
        gm_fail(&err, GM_NOT_FOUND, "there is no session %s", sess->id);
    if (err.status == GM_OK && sess->busy && a->what != SHOW) {
        gm_fail(&err, GM_ABORTED, "session %s is busy with a turn; try again", sess->id);
        err.retry_ms = GM_RETRY_HINT_MS;
    }
    if (err.status == GM_DATA_LOSS && a->what == REMOVE) /* what cannot be read can be removed */
        err = GM_ERR_NONE;
    if (err.status == GM_OK && a->what == UNDO && sess->n_turns == 0)
        gm_fail(&err, GM_PRECONDITION, "session %s has no turn to take back", sess->id);
    if (err.status != GM_OK) {
        asking_fail(a, &err);
        return;
    }
    a->sess = *sess; /* ours now */
    sess->ids = NULL;
    sess->turns = NULL;
    sess->n_turns = 0;
    if (a->what == SHOW) {
        reply_session(a);
    } else if (a->what == UNDO) {
        drop_last(&a->sess);
        gm_sess_truncate(a->orch, &a->sess, on_cut, a);
    } else {
        forget(a->orch, &a->sess);
        gm_sess_remove(a->orch, &a->sess, on_cut, a);
    }
}

static enum gm_status ask(struct gm_orch *o, struct gm_stream *stream, const Gm__SessionRequest *in,
                          enum what what, struct gm_err *err)
{
    const char *tenant = in->tenant ? in->tenant : "local";
    struct asking *a;
    if (!gm_id_ok(tenant) || (what != LIST && !gm_id_ok(in->session)))
        return gm_fail(err, GM_INVALID,
                       "a session id has 1 to %d of the characters A-Z a-z 0-9 . _ -", GM_ID_MAX);
    a = calloc(1, sizeof *a);
    if (!a)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a call");
    a->orch = o;
    a->stream = stream;
    a->what = what;
    struct gm_sess of = { .exists = false };
    snprintf(of.tenant, sizeof of.tenant, "%s", tenant);
    snprintf(of.id, sizeof of.id, "%s", in->session ? in->session : "");
    gm_stream_on_event(stream, on_stream, a);
    if (what != LIST)
        gm_sess_load(o, &of, NULL, false, on_loaded, a);
    else
        gm_sess_list(o, tenant, gm_sessions_listed, a);
    return GM_OK;
}

/* Rows of seven: id, created, touched, bytes of ids, raw, title, turns. */
void gm_sessions_listed(void *ctx, const struct redisReply *reply, const struct gm_err *err)
{
    struct asking *a = ctx;
    Gm__SessionList list = GM__SESSION_LIST__INIT;
    const size_t n = reply && reply->type == REDIS_REPLY_ARRAY ? reply->elements / ROW : 0;
    Gm__SessionReply *rows = calloc(n + 1, sizeof *rows);
    Gm__SessionReply **at = calloc(n + 1, sizeof *at);
    if (!reply || !rows || !at) {
        struct gm_err why = *err;
        if (reply)
            gm_fail(&why, GM_EXHAUSTED, "no memory for the list of sessions");
        asking_fail(a, &why);
    } else {
        for (size_t i = 0; i < n; i++) {
            redisReply **e = reply->element + ROW * i;
            gm__session_reply__init(&rows[i]);
            rows[i].session = e[0]->str ? e[0]->str : (char *)"";
            rows[i].created_ms = strtoull(e[1]->str ? e[1]->str : "0", NULL, 10);
            rows[i].touched_ms = strtoull(e[2]->str ? e[2]->str : "0", NULL, 10);
            rows[i].tokens = (uint32_t)(e[3]->integer / 4);
            rows[i].has_raw = 1;
            rows[i].raw = e[4]->str && e[4]->str[0] == '1';
            rows[i].has_title = e[5]->str && e[5]->len > 0;
            rows[i].title = (ProtobufCBinaryData){ e[5]->len, (uint8_t *)e[5]->str };
            rows[i].has_turn_count = 1;
            rows[i].turn_count = (uint32_t)e[6]->integer;
            at[i] = &rows[i];
        }
        list.n_sessions = n;
        list.sessions = at;
        asking_reply(a, &list.base);
    }
    free(rows);
    free(at);
}

enum gm_status gm_call_sessions(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                struct gm_err *err)
{
    return ask(self, s, (const Gm__SessionRequest *)request, LIST, err);
}

enum gm_status gm_call_session(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                               struct gm_err *err)
{
    return ask(self, s, (const Gm__SessionRequest *)request, SHOW, err);
}

enum gm_status gm_call_undo(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                            struct gm_err *err)
{
    return ask(self, s, (const Gm__SessionRequest *)request, UNDO, err);
}

enum gm_status gm_call_remove(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                              struct gm_err *err)
{
    return ask(self, s, (const Gm__SessionRequest *)request, REMOVE, err);
}
