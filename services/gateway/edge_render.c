/* edge_render.c - what the client of a turn hears: one JSON answer, or events as tokens come.
 *
 * Owns:      the order of chunks and events, and how an error in the middle of a stream is told.
 * Does not:  know the JSON of an answer (answer.h) or run turns (edge_turn.c).
 */
#include <stdlib.h>
#include <string.h>

#include "services/gateway/edge.h"

enum {
    EVENT_JSON_MAX = GM_HTTP_EVENT_BYTES_MAX - 4096, /* the last events of a response hold all */
    EVENT_TOKENS_MAX = 8,      /* tokens with their log-probabilities in one event */
    EVENT_TOKENS_BYTES = 3072, /* about so many bytes of them */
    TOKEN_JSON_BYTES = 96,     /* of a token, or an alternative of it */
};

static struct gm_answer_meta meta_of(const struct gm_job *j)
{
    return (struct gm_answer_meta){ .form = j->req.api == GM_API_COMPLETION ? GM_ANSWER_TEXT
                                                                            : GM_ANSWER_CHAT,
                                    .id = j->id,
                                    .created = j->created_s,
                                    .model = j->g->model,
                                    .fingerprint = j->g->fingerprint,
                                    .session = j->req.session[0] ? j->req.session : NULL,
                                    .vocab = &j->g->vocab,
                                    .include_usage = j->req.include_usage };
}

static struct gm_usage usage_of(const struct gm_job *j)
{
    struct gm_usage u = { 0, 0, 0 };
    for (uint32_t i = 0; i < j->n_runs; i++) {
        const struct gm_run *r = &j->runs[i];
        if (r->choice == 0) { /* a prompt counts once, however many choices it has */
            u.prompt += r->prompt_tokens;
            u.cached += r->cached_tokens;
        }
        u.completion += r->n;
    }
    return u;
}

static struct gm_timings timings_of(const struct gm_job *j, const struct gm_usage *u)
{
    int64_t first = 0, last = 0;
    for (uint32_t i = 0; i < j->n_runs; i++) {
        const struct gm_run *r = &j->runs[i];
        if (r->first_us && (!first || r->first_us < first))
            first = r->first_us;
        if (r->last_us > last)
            last = r->last_us;
    }
    const double ttft = first ? (double)(first - j->begun_us) / 1e3 : 0;
    return (struct gm_timings){ .cache_n = u->cached,
                                .prompt_n = u->prompt - u->cached,
                                .predicted_n = u->completion,
                                .prompt_ms = ttft,
                                .predicted_ms = first ? (double)(last - first) / 1e3 : 0,
                                .ttft_ms = ttft };
}

/* ---- events -----------------------------------------------------------------------------------
 */

/* One event with the JSON, which is emptied. id < 0: none. */
static void send_event(struct gm_job *j, const char *name, int64_t id, struct gm_buf *json)
{
    struct gm_buf frame = GM_BUF(GM_HTTP_EVENT_BYTES_MAX);
    if (j->x && gm_sse_event(&frame, name, id, gm_buf_text(json), json->len, NULL) == GM_OK)
        gm_exchange_event(j->x, gm_buf_text(&frame), frame.len);
    gm_buf_free(&frame);
    gm_buf_clear(json);
}

static void begin_stream(struct gm_job *j)
{
    if (j->streaming || !j->x)
        return;
    j->streaming = true;
    gm_exchange_stream(j->x);
}

/* The stream ends here; the turn goes on, and the job with it. */
static void too_large(struct gm_job *j)
{
    struct gm_problem why;
    memset(&why, 0, sizeof why);
    gm_problem_set(&why, 500, "answer_too_large", NULL,
                   "the answer is larger than an event may be; ask for fewer log-probabilities");
    gm_render_error(j, &why);
}

static void send_response_event(struct gm_job *j, enum gm_response_event kind,
                                const struct gm_choice *choice)
{
    struct gm_buf json = GM_BUF(EVENT_JSON_MAX);
    struct gm_response r;
    if (gm_response_fill(j, &r) == GM_OK &&
        gm_answer_response_event(&json, &r, kind, choice, j->sequence, NULL) == GM_OK) {
        j->sequence++;
        send_event(j, gm_response_event_name(&r, kind), -1, &json);
    } else {
        too_large(j);
    }
    gm_buf_free(&json);
}

static void send_chunk(struct gm_run *r, enum gm_chunk kind, const struct gm_choice *choice)
{
    struct gm_job *j = r->job;
    const struct gm_answer_meta meta = meta_of(j);
    struct gm_buf json = GM_BUF(EVENT_JSON_MAX);
    if (j->req.api == GM_API_RESPONSE) {
        send_response_event(j, GM_EVENT_TEXT_DELTA, choice);
        return;
    }
    const struct gm_usage u = usage_of(j);
    const struct gm_timings t = timings_of(j, &u);
    const bool last = kind == GM_CHUNK_LAST && j->n_ended == j->n_runs;
    if (gm_answer_chunk(&json, &meta, kind, choice, last ? &t : NULL, NULL) == GM_OK)
        send_event(j, NULL, j->n_runs == 1 ? (int64_t)r->n : -1, &json);
    else
        too_large(j);
    gm_buf_free(&json);
}

/* ---- text and tokens in events of bounded size ------------------------------------------------
 */

/* What is to be sent; its text and its tokens need not end together. */
struct rest {
    const char *text;
    size_t len;
    const struct gm_answer_token *tokens;
    size_t n;
    bool logprobs;
};

/* How many tokens an event takes with their alternatives; at least one of n > 0. */
static size_t fitting(const struct rest *s)
{
    size_t k = 0, bytes = 0;
    while (k < s->n && k < EVENT_TOKENS_MAX) {
        bytes += TOKEN_JSON_BYTES * (1 + (size_t)s->tokens[k].n_top);
        if (k > 0 && bytes > EVENT_TOKENS_BYTES)
            break;
        k++;
    }
    return k;
}

/* The text of the first k tokens alone: they are decoded again. */
static size_t text_of(const struct gm_job *j, const struct rest *s, size_t k)
{
    size_t n = 0;
    for (size_t i = 0; i < k; i++) {
        size_t len;
        gm_vocab_piece(&j->g->vocab, s->tokens[i].id, &len);
        n += len;
    }
    n = n > s->len ? s->len : n;
    while (n > 0 && n < s->len && ((uint8_t)s->text[n] & 0xc0) == 0x80)
        n--;
    return n;
}

static void send_rest(struct gm_run *r, struct rest s)
{
    while (s.len > 0 || s.n > 0) {
        const size_t tokens = fitting(&s), most = gm_answer_cut(s.text, s.len);
        const size_t own = tokens < s.n ? text_of(r->job, &s, tokens) : most;
        const size_t n = own < most ? own : most;
        const struct gm_choice c = { .index = r->index,
                                     .text = s.text,
                                     .text_len = n,
                                     .logprobs = s.logprobs,
                                     .tokens = s.tokens,
                                     .n_tokens = tokens,
                                     .at = &r->at };
        send_chunk(r, GM_CHUNK_TEXT, &c);
        s.text += n;
        s.len -= n;
        s.n -= tokens;
        if (s.n > 0)
            s.tokens += tokens;
    }
}

/* What was not sent yet. */
static void send_more(struct gm_run *r)
{
    const struct gm_job *j = r->job;
    const struct rest s = { .text = gm_buf_text(&r->text) + r->told,
                            .len = r->text.len - r->told,
                            .tokens = r->n_tokens ? r->tokens + r->tokens_told : NULL,
                            .n = r->n_tokens - r->tokens_told,
                            .logprobs = j->req.sampling.logprobs >= 0 && j->req.api != 0 };
    r->told = r->text.len;
    r->tokens_told = r->n_tokens;
    send_rest(r, s);
}

/* The prompt that completions with echo begin with. */
static void send_echo(struct gm_run *r)
{
    struct gm_job *j = r->job;
    struct rest s = { .n = 0 };
    struct gm_buf text = GM_BUF(GM_JSON_BYTES_MAX);
    if (!j->req.echo)
        return;
    s.n = gm_echo_tokens(j, r->prompt, &s.tokens);
    s.logprobs = s.n > 0;
    if (gm_echo_text(j, r->prompt, &text) == GM_OK) {
        s.text = gm_buf_text(&text);
        s.len = text.len;
        send_rest(r, s);
    } else {
        too_large(j);
    }
    gm_buf_free(&text);
}

void gm_render_started(struct gm_run *r)
{
    struct gm_job *j = r->job;
    const struct gm_choice c = { .index = r->index, .text = "", .at = &r->at };
    if (!j->req.stream)
        return;
    begin_stream(j);
    if (j->req.api == GM_API_RESPONSE) {
        for (enum gm_response_event e = GM_EVENT_CREATED; e <= GM_EVENT_PART_ADDED; e++)
            send_response_event(j, e, NULL);
    } else if (j->req.api == GM_API_COMPLETION) {
        send_echo(r);
    } else {
        send_chunk(r, GM_CHUNK_FIRST, &c);
    }
}

void gm_render_tokens(struct gm_run *r)
{
    if (r->job->req.stream)
        send_more(r);
}

void gm_render_ended(struct gm_run *r)
{
    struct gm_job *j = r->job;
    const struct gm_choice c = { .index = r->index, .text = "", .finish = r->finish, .at = &r->at };
    if (!j->req.stream)
        return;
    begin_stream(j);
    send_more(r);
    if (j->req.api == GM_API_RESPONSE)
        for (enum gm_response_event e = GM_EVENT_TEXT_DONE; e <= GM_EVENT_ITEM_DONE; e++)
            send_response_event(j, e, NULL);
    else
        send_chunk(r, GM_CHUNK_LAST, &c);
}

/* ---- the end ----------------------------------------------------------------------------------
 */

static void end_stream(struct gm_job *j)
{
    const struct gm_usage u = usage_of(j);
    const struct gm_timings t = timings_of(j, &u);
    const struct gm_totals totals = { &u, &t };
    const struct gm_answer_meta meta = meta_of(j);
    struct gm_buf json = GM_BUF(EVENT_JSON_MAX);
    if (j->req.include_usage && gm_answer_usage_chunk(&json, &meta, &totals, NULL) == GM_OK)
        send_event(j, NULL, -1, &json);
    gm_buf_free(&json);
    if (j->x) {
        gm_exchange_event(j->x, GM_SSE_DONE, sizeof GM_SSE_DONE - 1);
        gm_exchange_end(j->x, false);
    }
    gm_job_end(j);
}

/* A choice with its echo; the tokens are joined into *joined (owned by the caller). */
static enum gm_status choice_of(const struct gm_run *r, struct gm_choice *c, struct gm_buf *text,
                                struct gm_answer_token **joined)
{
    const struct gm_job *j = r->job;
    const struct gm_answer_token *echo = NULL;
    const bool logprobs = j->req.sampling.logprobs >= 0;
    *c = (struct gm_choice){ .index = r->index,
                             .text = gm_buf_text(&r->text),
                             .text_len = r->text.len,
                             .finish = r->finish,
                             .logprobs = logprobs,
                             .tokens = r->tokens,
                             .n_tokens = r->n_tokens };
    if (!j->req.echo)
        return GM_OK;
    const size_t n = gm_echo_tokens(j, r->prompt, &echo);
    *text = GM_BUF(GM_JSON_BYTES_MAX);
    enum gm_status rc = gm_echo_text(j, r->prompt, text);
    if (rc == GM_OK)
        rc = gm_buf_append(text, gm_buf_text(&r->text), r->text.len, NULL);
    if (rc == GM_OK && !(*joined = calloc(n + r->n_tokens + 1, sizeof **joined)))
        rc = GM_EXHAUSTED;
    if (rc != GM_OK)
        return rc;
    if (n > 0)
        memcpy(*joined, echo, n * sizeof **joined);
    if (r->n_tokens > 0)
        memcpy(*joined + n, r->tokens, r->n_tokens * sizeof **joined);
    c->text = gm_buf_text(text);
    c->text_len = text->len;
    c->tokens = *joined;
    c->n_tokens = n + r->n_tokens;
    return GM_OK;
}

static enum gm_status put_whole(struct gm_job *j, struct gm_buf *json)
{
    const struct gm_usage u = usage_of(j);
    const struct gm_timings t = timings_of(j, &u);
    const struct gm_totals totals = { &u, &t };
    const struct gm_answer_meta meta = meta_of(j);
    struct gm_choice *choices = calloc(j->n_runs, sizeof *choices);
    struct gm_buf *texts = calloc(j->n_runs, sizeof *texts);
    struct gm_answer_token **joined = calloc(j->n_runs, sizeof *joined);
    enum gm_status rc = choices && texts && joined ? GM_OK : GM_EXHAUSTED;
    for (uint32_t i = 0; rc == GM_OK && i < j->n_runs; i++)
        rc = choice_of(&j->runs[i], &choices[i], &texts[i], &joined[i]);
    if (rc == GM_OK)
        rc = gm_answer_whole(json, &meta, choices, j->n_runs, &totals, NULL);
    for (uint32_t i = 0; texts && joined && i < j->n_runs; i++) {
        gm_buf_free(&texts[i]);
        free(joined[i]);
    }
    free(joined);
    free(texts);
    free(choices);
    return rc;
}

void gm_render_done(struct gm_job *j)
{
    struct gm_buf json = GM_BUF(GM_JSON_BYTES_MAX);
    struct gm_err err = GM_ERR_NONE;
    if (j->req.api == GM_API_RESPONSE) {
        gm_response_done(j);
        return;
    }
    if (j->req.stream) {
        end_stream(j);
    } else if (put_whole(j, &json) == GM_OK) {
        gm_job_json(j, 200, &json);
    } else {
        gm_buf_free(&json);
        gm_fail(&err, GM_EXHAUSTED, "no memory for the answer; ask for less at once");
        gm_job_fail_err(j, &err);
    }
}

void gm_render_event(struct gm_job *j, enum gm_response_event kind)
{
    send_response_event(j, kind, NULL);
}

void gm_render_error(struct gm_job *j, const struct gm_problem *why)
{
    const struct gm_answer_problem p = { why->http, why->type, why->param, why->code, why->text };
    struct gm_buf json = GM_BUF(EVENT_JSON_MAX);
    if (gm_answer_error(&json, &p, NULL) == GM_OK)
        send_event(j, NULL, -1, &json);
    gm_buf_free(&json);
    if (j->x)
        gm_exchange_end(j->x, true);
}
