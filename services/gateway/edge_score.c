/* edge_score.c - given tokens: their log-probabilities, their texts, and texts as tokens.
 *
 * Owns:      struct gm_scoring: prompts made into ids and scored one after the other, for /v1/score
 *            and for completions that echo their prompt.
 * Does not:  run turns (edge_turn.c).
 */
#include <stdlib.h>
#include <string.h>

#include "services/gateway/edge.h"

enum { CREDIT = GM_STREAM_CREDIT };

/* One text of a request. */
struct scored {
    int32_t *ids; /* owned */
    size_t n;
    struct gm_score_row *rows;      /* owned, [n]; NULL: not scored */
    struct gm_answer_token *tokens; /* owned, [n]; made from rows for an echo */
};

struct gm_scoring {
    size_t n, at; /* texts; the one being worked on */
    struct scored *texts;
    bool rows; /* log-probabilities are wanted, not ids alone */
    uint32_t top, every;
    bool admitted;
    uint64_t call; /* the open stream; 0: none */
    uint32_t used; /* items since credit was given */
    void (*then)(struct gm_job *j);
};

void gm_scoring_free(struct gm_job *j)
{
    struct gm_scoring *s = j->scoring;
    if (!s)
        return;
    j->scoring = NULL;
    if (s->call)
        gm_rpc_cancel(j->g->base.rpc, s->call);
    if (s->admitted)
        gm_admission_end(&j->g->admission, gm_now_ms());
    for (size_t i = 0; i < s->n; i++) {
        for (size_t k = 0; s->texts[i].rows && k < s->texts[i].n; k++)
            free((void *)(uintptr_t)s->texts[i].rows[k].top);
        free(s->texts[i].rows);
        free(s->texts[i].tokens);
        free(s->texts[i].ids);
    }
    free(s->texts);
    free(s);
}

static void next_text(struct gm_job *j);

static void no_memory(struct gm_job *j)
{
    struct gm_err err = GM_ERR_NONE;
    gm_fail(&err, GM_EXHAUSTED, "no memory for the log-probabilities; send less at once");
    gm_job_fail_err(j, &err);
}

/* ---- rows -------------------------------------------------------------------------------------
 */

struct stream {
    struct gm_gateway *g;
    uint64_t serial;
};

static bool take_row(struct scored *t, const Gm__ScoreRow *in)
{
    if (in->pos >= t->n)
        return true;
    struct gm_score_row *row = &t->rows[in->pos];
    struct gm_top *top = in->n_top > 0 && !row->top ? malloc(in->n_top * sizeof *top) : NULL;
    if (in->n_top > 0 && !top)
        return row->top != NULL;
    for (size_t i = 0; i < in->n_top; i++)
        top[i] = (struct gm_top){ in->top[i]->id, in->top[i]->logprob };
    *row = (struct gm_score_row){ .known = true,
                                  .has_logprob = in->has_next_logprob,
                                  .logprob = in->next_logprob,
                                  .n_top = (uint32_t)in->n_top,
                                  .top = top };
    return true;
}

static void on_rows(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct stream *st = ctx;
    struct gm_job *j = gm_job_of(st->g, st->serial);
    struct gm_scoring *s = j ? j->scoring : NULL;
    const Gm__ScoreEvent *e = (const Gm__ScoreEvent *)body;
    if (done) {
        free(st);
        if (!s)
            return;
        s->call = 0;
        if (err->status != GM_OK) {
            gm_job_fail_err(j, err);
        } else {
            s->at++;
            next_text(j);
        }
        return;
    }
    bool good = s != NULL;
    for (size_t i = 0; good && e && i < e->n_rows; i++)
        good = take_row(&s->texts[s->at], e->rows[i]);
    if (s && !good) {
        no_memory(j);
    } else if (s && ++s->used >= CREDIT / 2) {
        gm_rpc_credit(j->g->base.rpc, s->call, s->used);
        s->used = 0;
    }
}

static void ask_rows(struct gm_job *j)
{
    struct gm_gateway *g = j->g;
    struct gm_scoring *s = j->scoring;
    struct scored *t = &s->texts[s->at];
    struct gm_err err = GM_ERR_NONE;
    Gm__ScoreRequest r = GM__SCORE_REQUEST__INIT;
    struct stream *st = malloc(sizeof *st);
    t->rows = calloc(t->n, sizeof *t->rows);
    if (!st || !t->rows) {
        free(st);
        no_memory(j);
        return;
    }
    *st = (struct stream){ g, j->serial };
    r.n_ids = t->n;
    r.ids = t->ids;
    r.has_top_n = r.has_every = 1;
    r.top_n = s->top;
    r.every = s->every;
    s->used = 0;
    struct gm_peer *peer = gm_bus_peer(g->base.bus, g->orchestrator, &err);
    if (peer)
        s->call = gm_rpc_call_with(g->base.rpc,
                                   &(struct gm_call){ peer, "Orchestrator.Score", &r.base,
                                                      &gm__score_event__descriptor, 0, CREDIT,
                                                      on_rows, st },
                                   &(struct gm_call_more){ .traceparent = j->trace }, &err);
    if (!s->call) {
        free(st);
        gm_job_fail_err(j, &err);
    }
}

/* ---- ids --------------------------------------------------------------------------------------
 */

static bool put_ids(struct scored *t, const int32_t *ids, size_t n)
{
    t->ids = malloc((n + 1) * sizeof *ids);
    if (!t->ids)
        return false;
    if (n > 0)
        memcpy(t->ids, ids, n * sizeof *ids);
    t->n = n;
    return true;
}

static void with_ids(struct gm_job *j)
{
    struct gm_scoring *s = j->scoring;
    struct gm_err err = GM_ERR_NONE;
    const struct scored *t = &s->texts[s->at];
    if (t->n == 0 || t->n > j->g->context) {
        gm_detailed(
            &err, GM_DETAIL_CONTEXT,
            gm_fail(&err, GM_PRECONDITION,
                    "text %zu has %zu tokens, and the context is 1 to %u; send less, or start the "
                    "pipeline with a larger --context",
                    s->at, t->n, j->g->context));
        gm_job_fail_err(j, &err);
    } else if (s->rows) {
        ask_rows(j);
    } else {
        s->at++;
        next_text(j);
    }
}

static void on_encoded(struct gm_job *j, const ProtobufCMessage *body, const struct gm_err *err)
{
    const Gm__IdsReply *r = (const Gm__IdsReply *)body;
    if (!r)
        gm_job_fail_err(j, err);
    else if (!put_ids(&j->scoring->texts[j->scoring->at], r->ids, r->n_ids))
        no_memory(j);
    else
        with_ids(j);
}

/* Encodes a text with <bos>, as a raw turn does. */
static void encode(struct gm_job *j, const struct gm_prompt *p, bool bos, gm_job_answer *answer)
{
    Gm__EncodeRequest r = GM__ENCODE_REQUEST__INIT;
    r.text = (ProtobufCBinaryData){ p->text_len, (uint8_t *)p->text };
    r.has_bos = 1;
    r.bos = bos;
    (void)gm_job_call(j, &(struct gm_job_call){ "tokenizer", "Tokenizer.Encode", &r.base,
                                                &gm__ids_reply__descriptor, answer, 0, 0 });
}

static void next_text(struct gm_job *j)
{
    struct gm_scoring *s = j->scoring;
    if (s->at == s->n) {
        s->then(j);
        return;
    }
    const struct gm_prompt *p = &j->req.prompts[s->at];
    if (!p->ids)
        encode(j, p, true, on_encoded);
    else if (!put_ids(&s->texts[s->at], p->ids, p->n_ids))
        no_memory(j);
    else
        with_ids(j);
}

/* Takes a place beside the turns, then goes through the texts. */
static void begin(struct gm_job *j, bool rows, uint32_t top, uint32_t every,
                  void (*then)(struct gm_job *j))
{
    struct gm_problem why;
    long retry_s = 1;
    memset(&why, 0, sizeof why);
    struct gm_scoring *s = calloc(1, sizeof *s);
    j->scoring = s;
    if (s)
        s->texts = calloc(j->req.n_prompts, sizeof *s->texts);
    if (!s || !s->texts) {
        no_memory(j);
        return;
    }
    if (rows && gm_admission_ask(&j->g->admission, 1, gm_now_ms(), &retry_s) != GM_ADMIT_RUN) {
        gm_problem_set(&why, 429, "rate_limit_exceeded", NULL,
                       "the server has no room for more requests; try again in %ld s", retry_s);
        why.retry_s = retry_s;
        gm_job_fail(j, &why);
        return;
    }
    s->n = j->req.n_prompts;
    s->rows = rows;
    s->top = top;
    s->every = every > 0 ? every : 1;
    s->then = then;
    s->admitted = rows;
    if (rows)
        gm_admission_run(&j->g->admission, 1);
    next_text(j);
}

/* ---- /v1/score --------------------------------------------------------------------------------
 */

static void answer_score(struct gm_job *j)
{
    const struct gm_scoring *s = j->scoring;
    struct gm_buf json = GM_BUF(GM_JSON_BYTES_MAX);
    struct gm_score *texts = calloc(s->n + 1, sizeof *texts);
    for (size_t i = 0; texts && i < s->n; i++)
        texts[i] = (struct gm_score){ s->texts[i].rows, s->texts[i].n };
    const enum gm_status rc =
        texts ? gm_answer_score(&json, j->g->model, texts, s->n, NULL) : GM_EXHAUSTED;
    free(texts);
    if (rc == GM_OK) {
        gm_job_json(j, 200, &json);
        return;
    }
    gm_buf_free(&json);
    no_memory(j);
}

void gm_score_begin(struct gm_job *j)
{
    begin(j, true, (uint32_t)j->req.top, (uint32_t)j->req.every, answer_score);
}

/* ---- completions that echo --------------------------------------------------------------------
 */

/* Token i was predicted by row i - 1; the first by none. */
static bool make_tokens(struct scored *t)
{
    t->tokens = calloc(t->n, sizeof *t->tokens);
    for (size_t i = 0; t->tokens && i < t->n; i++) {
        const struct gm_score_row *row = i > 0 ? &t->rows[i - 1] : NULL;
        t->tokens[i].id = t->ids[i];
        if (!row)
            continue;
        t->tokens[i].has_logprob = row->has_logprob;
        t->tokens[i].logprob = (float)row->logprob;
        t->tokens[i].n_top = row->n_top;
        t->tokens[i].top = row->top;
    }
    return t->tokens != NULL;
}

static void release_place(struct gm_job *j)
{
    if (j->scoring->admitted)
        gm_admission_end(&j->g->admission, gm_now_ms());
    j->scoring->admitted = false;
}

static void echo_known(struct gm_job *j)
{
    struct gm_scoring *s = j->scoring;
    release_place(j);
    for (size_t i = 0; s->rows && i < s->n; i++)
        if (!make_tokens(&s->texts[i])) {
            no_memory(j);
            return;
        }
    if (!j->req.no_answer) {
        gm_turns_admit(j);
        return;
    }
    for (uint32_t i = 0; i < j->n_runs; i++) {
        struct gm_run *r = &j->runs[i];
        r->prompt_tokens = (uint32_t)s->texts[r->prompt].n;
        r->finish = "length";
        gm_render_started(r);
        r->ended = true;
        j->n_ended++;
        gm_render_ended(r);
    }
    gm_render_done(j);
}

void gm_echo_begin(struct gm_job *j)
{
    const bool rows = j->req.echo && j->req.sampling.logprobs >= 0;
    if (rows || j->req.no_answer)
        begin(j, rows, rows ? (uint32_t)j->req.sampling.logprobs : 0, 1, echo_known);
    else
        gm_turns_admit(j);
}

size_t gm_echo_tokens(const struct gm_job *j, uint32_t prompt, const struct gm_answer_token **out)
{
    const struct gm_scoring *s = j->scoring;
    *out = s && prompt < s->n ? s->texts[prompt].tokens : NULL;
    return *out ? s->texts[prompt].n : 0;
}

enum gm_status gm_echo_text(const struct gm_job *j, uint32_t prompt, struct gm_buf *out)
{
    const struct gm_prompt *p = &j->req.prompts[prompt];
    if (!p->ids)
        return gm_buf_append(out, p->text, p->text_len, NULL);
    return gm_vocab_decode(&j->g->vocab, p->ids, p->n_ids, out, NULL);
}

/* ---- tokens and texts -------------------------------------------------------------------------
 */

static void on_tokens(struct gm_job *j, const ProtobufCMessage *body, const struct gm_err *err)
{
    const Gm__IdsReply *r = (const Gm__IdsReply *)body;
    struct gm_buf json = GM_BUF(GM_JSON_BYTES_MAX);
    if (!r) {
        gm_job_fail_err(j, err);
    } else if (gm_answer_tokens(&json, r->ids, r->n_ids, j->g->context,
                                j->req.pieces ? &j->g->vocab : NULL, NULL) == GM_OK) {
        gm_job_json(j, 200, &json);
    } else {
        gm_buf_free(&json);
        no_memory(j);
    }
}

void gm_tokenize_begin(struct gm_job *j)
{
    Gm__TurnRequest r = GM__TURN_REQUEST__INIT;
    if (!j->req.messages) {
        encode(j, &j->req.prompts[0], j->req.add_special, on_tokens);
        return;
    }
    r.has_messages = 1;
    r.messages = (ProtobufCBinaryData){ j->req.messages_len, (uint8_t *)j->req.messages };
    (void)gm_job_call(j, &(struct gm_job_call){ "tokenizer", "Tokenizer.EncodeTurn", &r.base,
                                                &gm__ids_reply__descriptor, on_tokens, 0, 0 });
}

void gm_detokenize_begin(struct gm_job *j)
{
    const struct gm_prompt *p = &j->req.prompts[0];
    struct gm_buf text = GM_BUF(GM_JSON_BYTES_MAX), json = GM_BUF(GM_JSON_BYTES_MAX);
    enum gm_status rc = gm_vocab_decode(&j->g->vocab, p->ids, p->n_ids, &text, NULL);
    if (rc == GM_OK)
        rc = gm_answer_text(&json, gm_buf_text(&text), text.len, NULL);
    gm_buf_free(&text);
    if (rc == GM_OK) {
        gm_job_json(j, 200, &json);
        return;
    }
    gm_buf_free(&json);
    no_memory(j);
}
