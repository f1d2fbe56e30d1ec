/* edge.c - the shard's messages: ring messages and calls in, plain structs of shard.h, results out.
 *
 * Owns:      the translation; nothing is kept here.
 * Does not:  compute, admit or choose a batch.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "services/shard/edge.h"

enum { TICKET_PEERS = 3 };                  /* processes that a ticket names */
#define DEADLINE_US_MAX ((uint64_t)1 << 52) /* longer ones never end in practice */

static void post(struct gm_shard_service *s, void *to, Gm__Kind kind, const ProtobufCMessage *body)
{
    struct gm_err err = GM_ERR_NONE;
    if (gm_bus_post(s->base.bus, to, kind, body, NULL, 0, &err) != GM_OK)
        gm_log_err(GM_LOG_WARN, "message not sent", &err);
}

/* ---- out: results of a step ------------------------------------------------------------------ */

static void span_fill(Gm__Span *span, const struct gm_work *w)
{
    gm__span__init(span);
    span->ticket = w->ticket;
    span->pos = (uint32_t)w->pos;
    span->n_ids = (size_t)w->n;
    span->ids = w->ids;
    span->has_start = span->has_last = span->has_decode = 1;
    span->start = w->start;
    span->last = w->last;
    span->decode = w->decode;
    span->has_drafts = w->drafts > 0;
    span->drafts = (uint32_t)w->drafts;
}

static void out_hidden(void *ctx, void *next, const struct gm_work *const *works, int32_t n,
                       const float *rows)
{
    static Gm__Span spans[GM_WORKS_MAX];
    static Gm__Span *list[GM_WORKS_MAX];
    struct gm_shard_service *s = ctx;
    const size_t d = (size_t)gm_slice_config(s->shard.slice)->d_model;
    Gm__HiddenRows msg = GM__HIDDEN_ROWS__INIT;
    struct gm_err err = GM_ERR_NONE;
    size_t n_rows = 0;
    bool decode = true; /* chunks of a prompt follow each other and keep to one way */
    for (int32_t i = 0; i < n; i++) {
        span_fill(&spans[i], works[i]);
        list[i] = &spans[i];
        n_rows += (size_t)works[i]->n;
        decode &= works[i]->decode;
    }
    msg.n_spans = (size_t)n;
    msg.spans = list;
    msg.d_model = (uint32_t)d;
    if ((decode ? gm_bus_post_short : gm_bus_post)(s->base.bus, next, GM__KIND__HIDDEN_ROWS,
                                                   &msg.base, rows, n_rows * d * sizeof(float),
                                                   &err) != GM_OK)
        gm_log_err(GM_LOG_WARN, "hidden rows not sent", &err);
}

/* top-n log-probabilities as messages; `list` holds pointers into `top`. */
static void top_fill(Gm__TopId *top, Gm__TopId **list, int32_t n, const int32_t *ids,
                     const double *logprobs)
{
    for (int32_t i = 0; i < n; i++) {
        gm__top_id__init(&top[i]);
        top[i].id = ids[i];
        top[i].logprob = (float)logprobs[i];
        list[i] = &top[i];
    }
}

/* The row of a guess; `list` and `top` hold its log-probabilities. */
static void ahead_fill(Gm__AheadRow *row, const struct gm_row_out *r, int32_t top_n, Gm__TopId *top,
                       Gm__TopId **list)
{
    gm__ahead_row__init(row);
    row->id = r->id;
    row->n_ids = row->n_logits = row->n_raw = (size_t)r->c.k;
    row->ids = r->c.ids;
    row->logits = r->c.logits;
    row->raw = r->c.raw;
    row->lse_raw = r->c.lse_raw;
    row->lse_t = r->c.lse_t;
    top_fill(top, list, top_n, r->top_ids, r->top_logprobs);
    row->n_top = (size_t)top_n;
    row->top = list;
}

static void out_candidates(void *ctx, const struct gm_ticket *t, int32_t pos,
                           const struct gm_row_out *rows, int32_t n)
{
    static Gm__TopId top[GM_RUN_ROWS_MAX][GM_LOGPROBS_MAX];
    static Gm__TopId *list[GM_RUN_ROWS_MAX][GM_LOGPROBS_MAX];
    struct gm_shard_service *s = ctx;
    const struct gm_candidates *c = &rows[0].c;
    Gm__AheadRow ahead[GM_DRAFT_MAX], *ahead_list[GM_DRAFT_MAX];
    Gm__Candidates msg = GM__CANDIDATES__INIT;
    msg.ticket = t->id;
    msg.pos = (uint32_t)pos;
    msg.n_ids = msg.n_logits = msg.n_raw = (size_t)c->k;
    msg.ids = c->ids;
    msg.logits = c->logits;
    msg.raw = c->raw;
    msg.lse_raw = c->lse_raw;
    msg.lse_t = c->lse_t;
    msg.vocab = (uint32_t)gm_slice_config(s->shard.slice)->vocab;
    top_fill(top[0], list[0], t->rules.top_n, rows[0].top_ids, rows[0].top_logprobs);
    msg.n_top = (size_t)t->rules.top_n;
    msg.top = list[0];
    for (int32_t i = 1; i < n; i++) {
        ahead_fill(&ahead[i - 1], &rows[i], t->rules.top_n, top[i], list[i]);
        ahead_list[i - 1] = &ahead[i - 1];
    }
    msg.n_ahead = (size_t)(n - 1);
    msg.ahead = ahead_list;
    struct gm_err err = GM_ERR_NONE;
    if (gm_bus_post_short(s->base.bus, t->next, GM__KIND__CANDIDATES, &msg.base, NULL, 0, &err) !=
        GM_OK)
        gm_log_err(GM_LOG_WARN, "candidates not sent", &err);
}

static void out_scored(void *ctx, const struct gm_ticket *t, int32_t pos, double next_logprob,
                       int32_t top_n, const int32_t *top_ids, const double *top_logprobs)
{
    struct gm_shard_service *s = ctx;
    Gm__TopId top[GM_LOGPROBS_MAX], *list[GM_LOGPROBS_MAX];
    Gm__ScoreRow row = GM__SCORE_ROW__INIT, *rows[1] = { &row };
    Gm__Scored msg = GM__SCORED__INIT;
    top_fill(top, list, top_n, top_ids, top_logprobs);
    row.pos = (uint32_t)pos;
    row.has_next_logprob = !isnan(next_logprob);
    row.next_logprob = next_logprob;
    row.n_top = (size_t)top_n;
    row.top = list;
    msg.ticket = t->id;
    msg.n_rows = 1;
    msg.rows = rows;
    post(s, t->home, GM__KIND__SCORED, &msg.base);
}

/* Credit for shard 0, and progress for who waits for a long prompt. */
static void out_chunk_done(void *ctx, const struct gm_ticket *t, const struct gm_work *w)
{
    struct gm_shard_service *s = ctx;
    Gm__ChunkDone msg = GM__CHUNK_DONE__INIT;
    msg.ticket = t->id;
    msg.pos = (uint32_t)w->pos;
    msg.has_rows = 1;
    msg.rows = (uint32_t)w->n;
    if (!w->last)
        post(s, t->home, GM__KIND__CHUNK_DONE, &msg.base);
    if (s->shard.is_first) {
        gm_shard_chunk_done(&s->shard, t->id);
        s->more = true;
    } else {
        post(s, t->first, GM__KIND__CHUNK_DONE, &msg.base);
    }
}

static void out_fault(void *ctx, const struct gm_ticket *t, const struct gm_err *why)
{
    Gm__Fault msg = GM__FAULT__INIT;
    msg.ticket = t->id;
    msg.status = (uint32_t)why->status;
    msg.text = (char *)why->text;
    post(ctx, t->home, GM__KIND__FAULT, &msg.base);
}

void gm_shard_out_init(struct gm_shard_service *s)
{
    s->shard.out = (struct gm_shard_out){ s,          out_hidden,     out_candidates,
                                          out_scored, out_chunk_done, out_fault };
}

/* ---- in: the ring ---------------------------------------------------------------------------- */

static enum gm_status on_token_rows(struct gm_shard_service *s, const ProtobufCMessage *body,
                                    const struct gm_msg *msg, struct gm_err *err)
{
    const Gm__Span *span = ((const Gm__TokenRows *)body)->span;
    (void)msg;
    if (!s->shard.is_first)
        return gm_fail(err, GM_UNSUPPORTED, "token rows go to the first shard");
    return gm_shard_prompt(&s->shard, span->ticket, (int32_t)span->pos,
                           span->has_start && span->start, err);
}

/* Rows [pos, pos + n) must lie in the context of the pipeline. */
static enum gm_status check_rows(const struct gm_shard_service *s, uint32_t pos, size_t n,
                                 struct gm_err *err)
{
    if (n > (size_t)s->context || pos > (size_t)s->context - n)
        return gm_fail(err, GM_INVALID, "%zu rows from position %u, and the context is %d", n, pos,
                       s->context);
    return GM_OK;
}

static enum gm_status check_ids(const struct gm_shard_service *s, const Gm__Span *span,
                                struct gm_err *err)
{
    const int32_t vocab = gm_slice_config(s->shard.slice)->vocab;
    for (size_t i = 0; i < span->n_ids; i++)
        if (span->ids[i] < 0 || span->ids[i] >= vocab)
            return gm_fail(err, GM_INVALID, "a row of token %d, and ids are 0 to %d", span->ids[i],
                           vocab - 1);
    return GM_OK;
}

/* One span of hidden rows becomes a work of its own. */
static enum gm_status arrive(struct gm_shard_service *s, const Gm__Span *span, const float *rows,
                             size_t d, struct gm_err *err)
{
    const size_t n = span->n_ids;
    struct gm_work w = { .ticket = span->ticket,
                         .pos = (int32_t)span->pos,
                         .n = (int32_t)n,
                         .start = span->has_start && span->start,
                         .last = span->has_last && span->last,
                         .decode = span->has_decode && span->decode,
                         .drafts = span->has_drafts ? (int32_t)span->drafts : 0 };
    enum gm_status rc = GM_OK;
    const struct gm_ticket *t = gm_shard_ticket(&s->shard, span->ticket);
    if (!t)
        return GM_OK; /* an older attempt's rows: not worth the memory */
    if (check_ids(s, span, err) != GM_OK) {
        out_fault(s, t, err);
        return err->status;
    }
    w.ids = malloc(n * sizeof *w.ids);
    w.rows = malloc(n * d * sizeof *w.rows);
    if (!w.ids || !w.rows) {
        rc = gm_fail(err, GM_EXHAUSTED, "no memory for %zu rows", n);
    } else {
        memcpy(w.ids, span->ids, n * sizeof *w.ids);
        memcpy(w.rows, rows, n * d * sizeof *w.rows);
        rc = gm_shard_arrived(&s->shard, &w, err);
    }
    gm_work_free(&w);
    return rc;
}

static enum gm_status on_hidden_rows(struct gm_shard_service *s, const ProtobufCMessage *body,
                                     const struct gm_msg *msg, struct gm_err *err)
{
    const Gm__HiddenRows *in = (const Gm__HiddenRows *)body;
    const size_t d = (size_t)gm_slice_config(s->shard.slice)->d_model;
    size_t rows = 0;
    if (s->shard.is_first || in->d_model != d)
        return gm_fail(err, GM_INVALID, "hidden rows of width %u came to a shard of width %zu",
                       in->d_model, d);
    for (size_t i = 0; i < in->n_spans; i++) {
        if (in->spans[i]->n_ids == 0 || in->spans[i]->n_ids > GM_BATCH_ROWS_MAX)
            return gm_fail(err, GM_INVALID, "a span of %zu rows, allowed are 1..%d",
                           in->spans[i]->n_ids, GM_BATCH_ROWS_MAX);
        if (in->spans[i]->has_drafts &&
            (in->spans[i]->drafts > GM_DRAFT_MAX || in->spans[i]->drafts >= in->spans[i]->n_ids))
            return gm_fail(err, GM_INVALID, "%u guesses among %zu rows, allowed are %d",
                           in->spans[i]->drafts, in->spans[i]->n_ids, GM_DRAFT_MAX);
        if (check_rows(s, in->spans[i]->pos, in->spans[i]->n_ids, err) != GM_OK)
            return err->status;
        rows += in->spans[i]->n_ids;
    }
    if (msg->payload_len != rows * d * sizeof(float))
        return gm_fail(err, GM_INVALID, "%zu hidden rows came with %zu bytes", rows,
                       msg->payload_len);
    const float *at = (const float *)(const void *)msg->payload;
    enum gm_status rc = GM_OK;
    for (size_t i = 0; i < in->n_spans; i++) { /* one turn's failure is none of the others */
        struct gm_err why = GM_ERR_NONE;
        if (arrive(s, in->spans[i], at, d, &why) != GM_OK)
            rc = gm_fail(err, why.status, "%s", why.text);
        at += in->spans[i]->n_ids * d;
    }
    return rc;
}

static enum gm_status on_chosen(struct gm_shard_service *s, const ProtobufCMessage *body,
                                const struct gm_msg *msg, struct gm_err *err)
{
    const Gm__Chosen *in = (const Gm__Chosen *)body;
    (void)msg;
    if (check_rows(s, in->pos, 1, err) != GM_OK)
        return err->status;
    return gm_shard_chosen(&s->shard, in->ticket, (int32_t)in->pos, in->id, err);
}

static enum gm_status on_chunk_done(struct gm_shard_service *s, const ProtobufCMessage *body,
                                    const struct gm_msg *msg, struct gm_err *err)
{
    (void)msg;
    (void)err;
    gm_shard_chunk_done(&s->shard, ((const Gm__ChunkDone *)body)->ticket);
    return GM_OK;
}

static enum gm_status on_more(struct gm_shard_service *s, const ProtobufCMessage *body,
                              const struct gm_msg *msg, struct gm_err *err)
{
    const Gm__More *in = (const Gm__More *)body;
    (void)msg;
    if (in->k > INT32_MAX)
        return gm_fail(err, GM_INVALID, "%u candidates asked", in->k);
    if (check_rows(s, in->pos, 1, err) != GM_OK)
        return err->status;
    gm_shard_more(&s->shard, in->ticket, (int32_t)in->pos, (int32_t)in->k);
    return GM_OK;
}

static const struct handler {
    Gm__Kind kind;
    const ProtobufCMessageDescriptor *desc;
    enum gm_status (*run)(struct gm_shard_service *, const ProtobufCMessage *,
                          const struct gm_msg *, struct gm_err *);
} handlers[] = {
    { GM__KIND__TOKEN_ROWS, &gm__token_rows__descriptor, on_token_rows },
    { GM__KIND__HIDDEN_ROWS, &gm__hidden_rows__descriptor, on_hidden_rows },
    { GM__KIND__CHOSEN, &gm__chosen__descriptor, on_chosen },
    { GM__KIND__CHUNK_DONE, &gm__chunk_done__descriptor, on_chunk_done },
    { GM__KIND__MORE, &gm__more__descriptor, on_more },
};

enum gm_status gm_shard_on_message(void *self, const struct gm_msg *msg, struct gm_err *err)
{
    struct gm_shard_service *s = self;
    if (!s->open)
        return gm_fail(err, GM_UNAVAILABLE, "%s", s->failed[0] ? s->failed : s->why);
    if (msg->env->kind == GM__KIND__CHOSEN || msg->env->kind == GM__KIND__HIDDEN_ROWS)
        gm_slice_wake(s->shard.slice);
    for (size_t i = 0; i < sizeof handlers / sizeof handlers[0]; i++) {
        if (handlers[i].kind != msg->env->kind)
            continue;
        ProtobufCMessage *body = gm_msg_unpack(msg, handlers[i].desc, err);
        if (!body)
            return err->status;
        enum gm_status rc = handlers[i].run(s, body, msg, err);
        protobuf_c_message_free_unpacked(body, NULL);
        s->more = true;
        return rc;
    }
    return gm_fail(err, GM_UNSUPPORTED, "a shard takes no message of kind %d", (int)msg->env->kind);
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* What a row of logits has to do with, into *p; the rest of it stays as by default. */
static void sampling_from(struct gm_sampling *p, const Gm__Sampling *in)
{
    p->temperature = in->has_temperature ? in->temperature : p->temperature;
    p->top_k = in->has_top_k ? in->top_k : p->top_k;
    p->repeat_penalty = in->has_repeat_penalty ? in->repeat_penalty : p->repeat_penalty;
    p->presence_penalty = in->has_presence_penalty ? in->presence_penalty : 0.0f;
    p->frequency_penalty = in->has_frequency_penalty ? in->frequency_penalty : 0.0f;
    p->n_bias = (uint32_t)in->n_bias;
    for (uint32_t i = 0; i < p->n_bias; i++)
        p->bias[i] = (struct gm_bias){ in->bias[i]->id, in->bias[i]->value };
}

/* Checked here too: a NaN in a rule would reach the logits of the turn, and an endless list every
 * one of its tokens. The arrays of *r stand until the next call. */
static enum gm_status rules_from(struct gm_row_rules *r, const Gm__ReserveRequest *in,
                                 struct gm_err *err)
{
    static struct gm_sampling p; /* large; one thread */
    static int32_t bias_ids[GM_BIAS_MAX];
    static float bias_values[GM_BIAS_MAX];
    const size_t n_bias = in->sampling ? in->sampling->n_bias : 0;
    if (n_bias > GM_BIAS_MAX || in->n_banned > GM_BANNED_MAX ||
        (in->has_top_n && in->top_n > GM_LOGPROBS_MAX))
        return gm_fail(err, GM_INVALID,
                       "at most %d biased tokens, %d forbidden ones and %d log-probabilities",
                       GM_BIAS_MAX, GM_BANNED_MAX, GM_LOGPROBS_MAX);
    gm_sampling_default(&p);
    if (in->sampling)
        sampling_from(&p, in->sampling);
    if (gm_sampling_check(&p, err) != GM_OK)
        return err->status;
    for (size_t i = 0; i < n_bias; i++) {
        bias_ids[i] = p.bias[i].id;
        bias_values[i] = p.bias[i].value;
    }
    *r = (struct gm_row_rules){ .temperature = p.temperature,
                                .top_k = p.top_k,
                                .repeat_penalty = p.repeat_penalty,
                                .presence = p.presence_penalty,
                                .frequency = p.frequency_penalty,
                                .n_bias = (int32_t)n_bias,
                                .n_banned = (int32_t)in->n_banned,
                                .bias_ids = bias_ids,
                                .bias_values = bias_values,
                                .banned = in->banned,
                                .top_n = in->has_top_n ? (int32_t)in->top_n : 0 };
    return GM_OK;
}

static bool peer_used(const void *ctx, const struct gm_peer *peer)
{
    const struct gm_shard *s = ctx;
    for (size_t i = 0; i < s->tickets.n; i++) {
        const struct gm_ticket *t = s->tickets.entries[i].value;
        if (t->next == peer || t->home == peer || t->first == peer)
            return true;
    }
    return false;
}

/* The processes that the request names. */
static enum gm_status peers_from(struct gm_shard_service *s, struct gm_reserve *r,
                                 const Gm__ReserveRequest *in, struct gm_err *err)
{
    if (!in->next || !in->home || !in->first)
        return gm_fail(err, GM_INVALID,
                       "a turn needs the endpoints of what comes next, its home and shard 0");
    gm_bus_room(s->base.bus, TICKET_PEERS, peer_used, &s->shard);
    if (!(r->next = gm_bus_peer(s->base.bus, in->next, err)) ||
        !(r->home = gm_bus_peer(s->base.bus, in->home, err)) ||
        !(r->first = gm_bus_peer(s->base.bus, in->first, err)))
        return err->status;
    return GM_OK;
}

static int64_t deadline_from(const Gm__ReserveRequest *in)
{
    const uint64_t left = in->has_deadline_us ? in->deadline_us : 0;
    return left > 0 ? gm_now_us() + (int64_t)(left < DEADLINE_US_MAX ? left : DEADLINE_US_MAX) : 0;
}

static enum gm_status reserve(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                              struct gm_err *err)
{
    struct gm_shard_service *s = self;
    const Gm__ReserveRequest *in = (const Gm__ReserveRequest *)request;
    struct gm_reserve r = { .ticket = in->ticket,
                            .session = in->session,
                            .ids = in->ids,
                            .n_ids = (int32_t)in->n_ids,
                            .positions = (int32_t)in->positions,
                            .prompt_len = (int32_t)in->prompt_len,
                            .score = in->has_score && in->score,
                            .ephemeral = in->has_ephemeral && in->ephemeral,
                            .order = in->has_order ? in->order : 0,
                            .every = in->has_every ? (int32_t)in->every : 1,
                            .numerics = in->numerics,
                            .deadline_us = deadline_from(in) };
    if (!s->open)
        return gm_fail(err, GM_UNAVAILABLE, "%s", s->failed[0] ? s->failed : s->why);
    if (in->positions > (uint32_t)s->context || in->n_ids > in->positions)
        return gm_fail(err, GM_PRECONDITION,
                       "%u positions are more than the %d of this pipeline; start it with a larger "
                       "--context",
                       in->positions, s->context);
    if (in->prompt_len > in->n_ids)
        return gm_fail(err, GM_INVALID, "a prompt of %u tokens among %zu", in->prompt_len,
                       in->n_ids);
    int32_t have = 0, rewind_min = 0;
    enum gm_status rc = rules_from(&r.rules, in, err);
    if (rc == GM_OK)
        rc = peers_from(s, &r, in, err);
    if (rc == GM_OK)
        rc = gm_shard_reserve(&s->shard, &r, &have, &rewind_min, err);
    if (rc != GM_OK)
        return rc;
    Gm__ReserveReply reply = GM__RESERVE_REPLY__INIT;
    reply.have = (uint32_t)have;
    reply.rewind_min = (uint32_t)rewind_min;
    reply.boot = gm_bus_boot(s->base.bus);
    return gm_rpc_reply(stream, &reply.base);
}

static enum gm_status release(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                              struct gm_err *err)
{
    struct gm_shard_service *s = self;
    const Gm__ReleaseRequest *in = (const Gm__ReleaseRequest *)request;
    const Gm__Empty reply = GM__EMPTY__INIT;
    (void)err;
    if (s->open)
        gm_shard_release(&s->shard, in->ticket, in->has_keep && in->keep);
    return gm_rpc_reply(stream, &reply.base);
}

static enum gm_status forget(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                             struct gm_err *err)
{
    struct gm_shard_service *s = self;
    const Gm__Empty reply = GM__EMPTY__INIT;
    (void)err;
    if (s->open)
        gm_shard_forget(&s->shard, ((const Gm__ForgetRequest *)request)->session);
    return gm_rpc_reply(stream, &reply.base);
}

const struct gm_method gm_shard_methods[] = {
    { "Shard.Reserve", &gm__reserve_request__descriptor, reserve },
    { "Shard.Release", &gm__release_request__descriptor, release },
    { "Shard.Forget", &gm__forget_request__descriptor, forget },
    { NULL, NULL, NULL },
};
