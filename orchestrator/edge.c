/* edge.c - the calls of the Orchestrator service: checks requests, starts turns, answers about
 * sessions.
 *
 * Owns:      the table of methods; the steps of a turn before the ring (load, encode, record).
 * Does not:  run the ring (ring.c), keep turns (turn.c) or know keys of Redis (session.c).
 */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/orch.h"

#define DEFAULT_TENANT "local"

bool gm_id_ok(const char *id)
{
    const size_t n = id ? strlen(id) : 0;
    return n > 0 && n <= GM_ID_MAX &&
           strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

static enum gm_status check_id(const char *id, const char *what, struct gm_err *err)
{
    if (gm_id_ok(id))
        return GM_OK;
    return gm_fail(err, GM_INVALID, "a %s has 1 to %d of the characters A-Z a-z 0-9 . _ -", what,
                   GM_ID_MAX);
}

static const char *tenant_of(const char *tenant)
{
    return tenant ? tenant : DEFAULT_TENANT;
}

/* A copy of a message, owned by the caller. */
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

/* Carries a turn through a callback. */
struct about {
    struct gm_orch *orch;
    uint64_t serial;
    int encoding; /* which asking of the tokenizer this is */
};

static struct gm_turn *take_about(void *ctx)
{
    struct about *a = ctx;
    struct gm_turn *t = gm_turn_of(a->orch, a->serial);
    free(a);
    return t;
}

static struct about *about(struct gm_turn *t)
{
    struct about *a = malloc(sizeof *a);
    struct gm_err err = GM_ERR_NONE;
    if (a) {
        *a = (struct about){ t->orch, t->serial, t->encodings };
    } else {
        gm_fail(&err, GM_EXHAUSTED, "no memory for a turn");
        gm_turn_fail(t, &err);
    }
    return a;
}

/* ---- a turn before the ring: load, encode, record
 * ------------------------------------------------- */

static void on_recorded(void *ctx, const struct redisReply *reply, const struct gm_err *err)
{
    struct gm_turn *t = take_about(ctx);
    if (!t)
        return;
    if (!reply)
        gm_turn_fail(t, err);
    else
        gm_turn_ready(t);
}

/* The turn's own ids are known: they go behind the session's, and into the record. */
static void take_prompt(struct gm_turn *t, const int32_t *ids, size_t n_ids)
{
    struct gm_err err = GM_ERR_NONE;
    const uint32_t context = t->orch->context;
    const size_t n = t->sess.n_ids + n_ids;
    if (n + 1 > context)
        gm_detailed(
            &err, GM_DETAIL_CONTEXT,
            gm_fail(&err, GM_PRECONDITION,
                    "the conversation has %zu tokens and the context is %u: begin another one "
                    "(/new), or start the pipeline with a larger --context",
                    n, context));
    else if (n == 0)
        gm_fail(&err, GM_INVALID, "the turn has no tokens; send some text");
    else if (!(t->prompt = malloc(n * sizeof *t->prompt + 1)))
        gm_fail(&err, GM_EXHAUSTED, "no memory for a prompt of %zu tokens", n);
    struct about *a = err.status == GM_OK ? about(t) : NULL;
    if (err.status != GM_OK) {
        gm_turn_fail(t, &err);
        return;
    }
    if (!a)
        return;
    if (t->sess.n_ids > 0)
        memcpy(t->prompt, t->sess.ids, t->sess.n_ids * sizeof *t->prompt);
    if (n_ids > 0)
        memcpy(t->prompt + t->sess.n_ids, ids, n_ids * sizeof *t->prompt);
    t->n_prompt = n;
    t->start = (uint32_t)t->sess.n_ids;
    t->turns_before = t->sess.n_turns;
    if ((uint32_t)t->sampling->max_tokens > context - n)
        t->sampling->max_tokens = (int32_t)(context - (uint32_t)n);
    snprintf(t->numerics, sizeof t->numerics, "%s", gm_roster_numerics(t->orch));
    gm_turn_state_set(t, GM_TURN_RECORD);
    gm_sess_record(t, on_recorded, a);
}

static void on_encoded(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    const int encoding = ((const struct about *)ctx)->encoding;
    struct gm_turn *t = take_about(ctx);
    const Gm__IdsReply *in = (const Gm__IdsReply *)body;
    (void)done;
    if (!t || t->state != GM_TURN_ENCODE || encoding != t->encodings)
        return; /* gone, or the tokenizer was asked again */
    if (err->status != GM_OK)
        gm_turn_fail(t, err);
    else
        take_prompt(t, in->ids, in->n_ids);
}

/* The request's ids are the prompt: nothing is encoded. The record has them as the prompt. */
static void take_ids(struct gm_turn *t)
{
    struct gm_err err = GM_ERR_NONE;
    const uint32_t vocab = t->orch->roster.vocab;
    int32_t *ids = t->request->ids;
    const size_t n = t->request->n_ids;
    for (size_t i = 0; vocab > 0 && i < n && err.status == GM_OK; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab)
            gm_fail(&err, GM_INVALID,
                    "token %zu of the prompt is %d, and the vocabulary has the ids 0 to %u", i,
                    ids[i], vocab - 1);
    if (vocab == 0)
        gm_retry_after(
            &err, GM_RETRY_HINT_MS,
            gm_fail(&err, GM_UNAVAILABLE, "the pipeline is still starting; try again in a moment"));
    if (err.status != GM_OK) {
        gm_turn_fail(t, &err);
        return;
    }
    t->request->ids = NULL;
    t->request->n_ids = 0;
    take_prompt(t, ids, n);
    free(ids);
}

void gm_turn_encode(struct gm_turn *t)
{
    struct gm_orch *o = t->orch;
    Gm__TurnRequest r = GM__TURN_REQUEST__INIT;
    struct gm_err err = GM_ERR_NONE;
    t->encodings++;
    struct about *a = about(t);
    if (!a)
        return;
    r.has_messages = t->request->has_messages;
    r.messages = t->request->messages;
    r.has_tools = t->request->has_tools;
    r.tools = t->request->tools;
    r.has_continued = r.has_raw = 1;
    r.continued = t->sess.n_ids > 0;
    r.raw = t->request->has_raw && t->request->raw;
    gm_turn_state_set(t, GM_TURN_ENCODE);
    const struct gm_call_more more = gm_turn_trace(t);
    if (!o->roster.tokenizer.peer ||
        !gm_rpc_call_with(o->base.rpc,
                          &(struct gm_call){ o->roster.tokenizer.peer, "Tokenizer.EncodeTurn",
                                             &r.base, &gm__ids_reply__descriptor, GM_CALL_MS, 0,
                                             on_encoded, a },
                          &more, &err)) {
        free(a);
        if (err.status == GM_OK) {
            gm_fail(&err, GM_UNAVAILABLE, "the pipeline is still starting; try again in a moment");
            err.retry_ms = GM_RETRY_HINT_MS;
        }
        gm_turn_fail(t, &err);
    }
}

/* A retry takes the last turn's prompt again, without its answer, and the next seed. */
static enum gm_status rewind_last(struct gm_turn *t, struct gm_err *err)
{
    struct gm_sess *s = &t->sess;
    if (s->n_turns == 0)
        return gm_fail(err, GM_PRECONDITION, "this session has no turn to try again");
    Gm__TurnInfo *last = s->turns[s->n_turns - 1];
    const size_t n = last->prompt_end - last->start;
    int32_t *ids = malloc(n * sizeof *ids + 1);
    if (!ids)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a prompt of %zu tokens", n);
    memcpy(ids, s->ids + last->start, n * sizeof *ids);
    free(t->request->ids);
    t->request->ids = ids;
    t->request->n_ids = n;
    s->n_turns--;
    s->n_ids = last->start;
    free(t->request->messages.data);
    t->request->has_messages = last->has_messages;
    t->request->messages = last->messages;
    last->has_messages = 0; /* moved */
    last->messages.data = NULL;
    last->messages.len = 0;
    t->request->has_raw = 1;
    t->request->raw = last->has_raw && last->raw;
    if (last->sampling && last->sampling->has_seed)
        t->sampling->seed = last->sampling->seed + 1;
    gm__turn_info__free_unpacked(last, NULL);
    return GM_OK;
}

/* Whether the turn may go on in its session, which is read. */
static enum gm_status check_session(struct gm_turn *t, struct gm_err *err)
{
    const struct gm_sess *s = &t->sess;
    const bool raw = t->request->has_raw && t->request->raw;
    const bool retry = t->request->has_retry && t->request->retry;
    if (s->n_ids > 0 && gm_turn_ephemeral(t))
        return gm_fail(err, GM_PRECONDITION,
                       "session %s has turns: one that is not kept needs another session", s->id);
    if (s->n_ids > 0 && t->request->n_ids > 0 && !retry)
        return gm_fail(err, GM_PRECONDITION,
                       "session %s has turns: a prompt as ids needs another session", s->id);
    if (retry && rewind_last(t, err) != GM_OK)
        return err->status;
    if (s->n_ids > 0 && s->raw != raw)
        return gm_fail(err, GM_PRECONDITION,
                       "session %s is a %s session; use another one for this turn", s->id,
                       s->raw ? "raw" : "chat");
    if (!t->request->has_messages && t->request->n_ids == 0)
        return gm_fail(err, GM_INVALID, "a turn needs messages");
    return GM_OK;
}

static void load(struct gm_turn *t, const char *turn);

/* Redis knows this turn, and this process does not run it. */
static void on_known(struct gm_turn *t, struct gm_sess *sess)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_orch *o = t->orch;
    struct gm_stream *stream = t->stream;
    if (sess->record->finish) {
        if (stream)
            gm_stream_on_event(stream, NULL, NULL);
        t->stream = NULL;
        gm_turn_free(t);
        if (stream)
            gm_orch_tell(o, stream, sess);
    } else if (!o->recovered) {
        gm_fail(&err, GM_UNAVAILABLE, "running turns are still being read from Redis");
        err.retry_ms = 100;
        gm_turn_fail(t, &err);
    } else { /* nobody goes on with it: it begins again */
        load(t, NULL);
    }
}

static struct gm_turn *turn_of_session(const struct gm_orch *o, const char *tenant,
                                       const char *session);

static void on_session(void *ctx, struct gm_sess *sess, const struct gm_err *why)
{
    struct gm_orch *o = ((const struct about *)ctx)->orch;
    struct gm_turn *t = take_about(ctx);
    struct gm_err err = *why;
    if (!t) { /* cancelled meanwhile: the lease was taken for nobody */
        if (err.status == GM_OK && !turn_of_session(o, sess->tenant, sess->id))
            gm_sess_unlease(o, sess);
        return;
    }
    if (err.status == GM_OK && sess->record) {
        on_known(t, sess);
        return;
    }
    if (err.status == GM_OK) {
        t->sess = *sess; /* ours now */
        sess->ids = NULL;
        sess->turns = NULL;
        sess->n_turns = 0;
        if (!t->sess.created_ms)
            t->sess.created_ms = (uint64_t)gm_wall_ms();
        check_session(t, &err);
    }
    if (err.status != GM_OK)
        gm_turn_fail(t, &err);
    else if (t->request->n_ids > 0)
        take_ids(t);
    else
        gm_turn_encode(t);
}

/* turn: when Redis knows it, it is told again or waited for instead; NULL: begin in any case. */
static void load(struct gm_turn *t, const char *turn)
{
    struct about *a = about(t);
    if (a)
        gm_sess_load(t->orch, &t->sess, turn, true, on_session, a);
}

void gm_turn_begin(struct gm_turn *t)
{
    gm_turn_state_set(t, GM_TURN_LOAD);
    load(t, t->id);
}

void gm_turn_ready(struct gm_turn *t)
{
    t->top_n = t->sampling->has_logprobs && t->sampling->logprobs > 0
                   ? (uint32_t)t->sampling->logprobs
                   : 0;
    gm_turn_state_set(t, GM_TURN_WAIT);
    gm_ring_begin(t);
}

/* ---- StartTurn, Resume, Cancel, Score
 * ---------------------------------------------------------------- */

static struct gm_turn *find_turn(struct gm_orch *o, const char *tenant, const char *turn)
{
    char key[2 * GM_ID_MAX + 3];
    snprintf(key, sizeof key, "%s/%s", tenant_of(tenant), turn);
    return gm_strmap_get(&o->turns, key);
}

/* The turn that runs in a session; NULL: none. */
static struct gm_turn *turn_of_session(const struct gm_orch *o, const char *tenant,
                                       const char *session)
{
    for (size_t i = 0; i < o->turns.map.n; i++) {
        struct gm_turn *t = o->turns.map.entries[i].value;
        if (!t->score && strcmp(t->sess.tenant, tenant) == 0 && strcmp(t->sess.id, session) == 0)
            return t;
    }
    return NULL;
}

/* Fills what the request leaves open: seed, max_tokens. */
static Gm__Sampling *sampling_of(const Gm__StartRequest *in)
{
    Gm__Sampling none = GM__SAMPLING__INIT;
    Gm__Sampling *s = (Gm__Sampling *)copy_of(in->sampling ? &in->sampling->base : &none.base);
    struct gm_sampling d;
    gm_sampling_default(&d);
    if (s && !s->has_seed)
        s->seed = gm_random_u64() >> 11; /* exact in a JSON number */
    if (s && !s->has_max_tokens)
        s->max_tokens = d.max_tokens;
    if (s)
        s->has_seed = s->has_max_tokens = 1;
    return s;
}

static enum gm_status start_turn(void *self, struct gm_stream *stream,
                                 const ProtobufCMessage *request, struct gm_err *err)
{
    struct gm_orch *o = self;
    const Gm__StartRequest *in = (const Gm__StartRequest *)request;
    const char *tenant = tenant_of(in->tenant);
    char session[GM_ID_MAX + 1];
    bool failed = false;
    if (check_id(in->turn, "turn id", err) != GM_OK || check_id(tenant, "tenant", err) != GM_OK ||
        (in->session && check_id(in->session, "session id", err) != GM_OK))
        return err->status;
    if (in->has_patience_ms && in->patience_ms > GM_PATIENCE_MS_MAX)
        return gm_fail(err, GM_INVALID, "a turn goes on without a client for at most %d ms",
                       GM_PATIENCE_MS_MAX);
    if (in->sampling && in->sampling->has_max_tokens && in->sampling->max_tokens < 1)
        return gm_fail(err, GM_INVALID, "max_tokens is %d; give at least 1",
                       in->sampling->max_tokens);
    struct gm_turn *t = find_turn(o, tenant, in->turn);
    if (t) {
        gm_turn_attach(t, stream, 0);
        return GM_OK;
    }
    const char *missing = gm_roster_missing(o, &failed);
    if (failed)
        return gm_fail(err, GM_UNAVAILABLE, "%s", missing);
    if (in->session)
        snprintf(session, sizeof session, "%s", in->session);
    else
        gm_random_id(session, 16);
    if (turn_of_session(o, tenant, session)) {
        return gm_retry_after(
            err, GM_RETRY_HINT_MS,
            gm_fail(err, GM_ABORTED, "session %s is busy with another turn; try again", session));
    }
    t = gm_turn_new(o, tenant, in->turn, err);
    if (!t)
        return err->status;
    snprintf(t->sess.id, sizeof t->sess.id, "%s", session);
    t->request = (Gm__StartRequest *)copy_of(request);
    t->sampling = sampling_of(in);
    if (!t->request || !t->sampling) {
        gm_turn_free(t);
        return gm_fail(err, GM_EXHAUSTED, "no memory for a turn");
    }
    snprintf(t->trace, sizeof t->trace, "%s", gm_stream_trace(stream));
    gm_turn_attach(t, stream, 0);
    gm_turn_begin(t);
    return GM_OK;
}

static enum gm_status resume(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                             struct gm_err *err)
{
    struct gm_orch *o = self;
    const Gm__ResumeRequest *in = (const Gm__ResumeRequest *)request;
    const char *tenant = tenant_of(in->tenant);
    const bool by_session = !in->turn[0] && in->session;
    if (check_id(tenant, "tenant", err) != GM_OK ||
        (by_session ? check_id(in->session, "session id", err)
                    : check_id(in->turn, "turn id", err)) != GM_OK)
        return err->status;
    struct gm_turn *t =
        by_session ? turn_of_session(o, tenant, in->session) : find_turn(o, tenant, in->turn);
    if (!t && !o->recovered) {
        return gm_retry_after(
            err, 100,
            gm_fail(err, GM_UNAVAILABLE, "running turns are still being read from Redis"));
    }
    const uint64_t from = (uint64_t)in->from + (t && by_session ? t->n_prompt : 0);
    if (t)
        gm_turn_attach(t, stream, from < UINT32_MAX ? (uint32_t)from : UINT32_MAX);
    else
        gm_orch_replay(o, in, stream);
    return GM_OK;
}

static enum gm_status cancel(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                             struct gm_err *err)
{
    const Gm__CancelRequest *in = (const Gm__CancelRequest *)request;
    const Gm__Empty reply = GM__EMPTY__INIT;
    struct gm_turn *t = find_turn(self, in->tenant, in->turn);
    if (!t)
        return gm_fail(err, GM_NOT_FOUND, "no turn %s is running here", in->turn);
    gm_turn_end(t, "cancelled");
    return gm_rpc_reply(stream, &reply.base);
}

static enum gm_status score(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                            struct gm_err *err)
{
    struct gm_orch *o = self;
    const Gm__ScoreRequest *in = (const Gm__ScoreRequest *)request;
    char id[GM_ID_BYTES + 8];
    bool failed = false;
    const char *missing = gm_roster_missing(o, &failed);
    if (failed)
        return gm_fail(err, GM_UNAVAILABLE, "%s", missing);
    if (in->n_ids < 1 || in->n_ids > o->context) {
        return gm_detailed(
            err, GM_DETAIL_CONTEXT,
            gm_fail(err, GM_PRECONDITION,
                    "%zu tokens, and the context is 1 to %u: start the pipeline with a larger "
                    "--context",
                    in->n_ids, o->context));
    }
    memcpy(id, "score-", 6);
    gm_random_id(id + 6, GM_ID_DIGITS);
    struct gm_turn *t = gm_turn_new(o, "score", id, err);
    if (!t)
        return err->status;
    t->score = true;
    t->n_prompt = in->n_ids;
    t->top_n = in->has_top_n ? in->top_n : 0;
    t->every = in->has_every && in->every > 0 ? in->every : 1;
    t->rows_want = (in->n_ids + t->every - 1) / t->every;
    t->prompt = malloc(in->n_ids * sizeof *t->prompt);
    if (!t->prompt) {
        gm_turn_free(t);
        return gm_fail(err, GM_EXHAUSTED, "no memory for %zu tokens", in->n_ids);
    }
    memcpy(t->prompt, in->ids, in->n_ids * sizeof *t->prompt);
    snprintf(t->trace, sizeof t->trace, "%s", gm_stream_trace(stream));
    gm_turn_attach(t, stream, 0);
    gm_turn_state_set(t, GM_TURN_WAIT);
    gm_ring_begin(t);
    return GM_OK;
}

static enum gm_status info(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                           struct gm_err *err)
{
    struct gm_orch *o = self;
    Gm__InfoReply r = GM__INFO_REPLY__INIT;
    bool failed = false;
    const char *missing = gm_roster_missing(o, &failed);
    (void)request;
    if (failed)
        return gm_fail(err, GM_PRECONDITION, "%s", missing);
    if (!missing && !gm_store_up(o->store))
        missing = "Redis";
    r.model = (char *)o->model;
    r.context = o->context;
    r.vocab = o->roster.vocab;
    r.vocab_path = o->roster.vocab_path;
    r.numerics = (char *)gm_roster_numerics(o);
    r.ready = missing == NULL;
    r.waiting_for = (char *)missing;
    return gm_rpc_reply(stream, &r.base);
}

const struct gm_method gm_orch_methods[] = {
    { "Orchestrator.StartTurn", &gm__start_request__descriptor, start_turn },
    { "Orchestrator.Resume", &gm__resume_request__descriptor, resume },
    { "Orchestrator.Cancel", &gm__cancel_request__descriptor, cancel },
    { "Orchestrator.Score", &gm__score_request__descriptor, score },
    { "Orchestrator.Info", &gm__empty__descriptor, info },
    { "Orchestrator.Sessions", &gm__session_request__descriptor, gm_call_sessions },
    { "Orchestrator.Session", &gm__session_request__descriptor, gm_call_session },
    { "Orchestrator.Undo", &gm__session_request__descriptor, gm_call_undo },
    { "Orchestrator.Remove", &gm__session_request__descriptor, gm_call_remove },
    { NULL, NULL, NULL },
};
