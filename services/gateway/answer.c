/* answer.c - errors, frames of a stream, chat completions, text completions and models.
 *
 * Owns:      the shape of those objects.
 * Does not:  know responses (answer_response.c) or Gemline's own objects (answer_own.c).
 * Source:    OpenAI's API reference (chat completions, completions, models, errors); timings as
 *            llama.cpp's server names them; events as in the HTML standard, 9.2.
 */
#include "services/gateway/answer.h"

#include <stdio.h>
#include <string.h>

#include "services/gateway/answer_put.h"

/* ---- errors and frames ----------------------------------------------------------------------- */

const char *gm_answer_error_type(int http)
{
    static const struct {
        int http;
        const char *type;
    } types[] = {
        { 401, "authentication_error" }, { 403, "permission_error" }, { 404, "not_found_error" },
        { 408, "timeout_error" },        { 409, "conflict_error" },   { 429, "rate_limit_error" },
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].http == http)
            return types[i].type;
    return http >= 500 ? "server_error" : "invalid_request_error";
}

static const char *unless_empty(const char *text)
{
    return text && text[0] ? text : NULL;
}

enum gm_status gm_answer_error(struct gm_buf *b, const struct gm_answer_problem *q,
                               struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    const char *type = unless_empty(q->type);
    gm_put_text(&p, "{\"error\":{");
    gm_put_field(&p, "message", q->message ? q->message : "");
    gm_put_field(&p, "type", type ? type : gm_answer_error_type(q->http));
    gm_put_field(&p, "param", unless_empty(q->param));
    gm_put_field(&p, "code", unless_empty(q->code));
    gm_put_text(&p, "}}");
    return gm_put_end(&p);
}

enum gm_status gm_sse_event(struct gm_buf *b, const char *name, int64_t id, const char *json,
                            size_t n, struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    if (name) {
        gm_put_text(&p, "event: ");
        gm_put_text(&p, name);
        gm_put_text(&p, "\n");
    }
    if (id >= 0)
        gm_put_format(&p, "id: %lld\n", (long long)id);
    size_t at = 0;
    do {
        size_t end = at;
        while (end < n && json[end] != '\n' && json[end] != '\r')
            end++;
        gm_put_text(&p, "data: ");
        gm_put_bytes(&p, json + at, end - at);
        gm_put_text(&p, "\n");
        at = end + 1;
    } while (at <= n);
    gm_put_text(&p, "\n");
    return gm_put_end(&p);
}

size_t gm_answer_cut(const char *text, size_t n)
{
    size_t at = 0, room = GM_EVENT_TEXT_MAX;
    while (at < n) {
        uint32_t code = 0xFFFD;
        const int len = gm_utf8_next(text + at, n - at, &code);
        const size_t step = len > 0 ? (size_t)len : len < 0 ? (size_t)-len : n - at;
        const bool plain = len > 0 && code >= 0x20 && code < 0x7F;
        const size_t bytes = !plain                        ? (len > 0 && code > 0xFFFF ? 12 : 6)
                             : code == '"' || code == '\\' ? 2
                                                           : 1;
        if (bytes > room)
            break;
        room -= bytes;
        at += step;
    }
    return at;
}

/* ---- parts ----------------------------------------------------------------------------------- */

static void put_usage(struct gm_put *p, const struct gm_usage *u)
{
    gm_put_key(p, "usage");
    gm_put_text(p, "{");
    gm_put_count(p, "prompt_tokens", u->prompt);
    gm_put_count(p, "completion_tokens", u->completion);
    gm_put_count(p, "total_tokens", (int64_t)u->prompt + u->completion);
    gm_put_key(p, "prompt_tokens_details");
    gm_put_format(p, "{\"cached_tokens\":%u}}", u->cached);
}

/* The time of `n` things in ms: for one, and how many a second. */
static void put_rate(struct gm_put *p, const char *name, uint32_t n, double ms)
{
    char key[64];
    snprintf(key, sizeof key, "%s_n", name);
    gm_put_count(p, key, n);
    snprintf(key, sizeof key, "%s_ms", name);
    gm_put_key(p, key);
    gm_put_number(p, ms, "0");
    snprintf(key, sizeof key, "%s_per_token_ms", name);
    gm_put_key(p, key);
    gm_put_number(p, n ? ms / n : 0, "0");
    snprintf(key, sizeof key, "%s_per_second", name);
    gm_put_key(p, key);
    gm_put_number(p, ms > 0 ? 1000.0 * n / ms : 0, "0");
}

static void put_timings(struct gm_put *p, const struct gm_timings *t)
{
    if (!t)
        return;
    gm_put_key(p, "timings");
    gm_put_text(p, "{");
    gm_put_count(p, "cache_n", t->cache_n);
    put_rate(p, "prompt", t->prompt_n, t->prompt_ms);
    put_rate(p, "predicted", t->predicted_n, t->predicted_ms);
    gm_put_key(p, "ttft_ms");
    gm_put_number(p, t->ttft_ms, "0");
    gm_put_text(p, "}");
}

static void put_head(struct gm_put *p, const struct gm_answer_meta *m, const char *object)
{
    gm_put_text(p, "{");
    gm_put_field(p, "id", m->id);
    gm_put_field(p, "object", object);
    gm_put_count(p, "created", m->created);
    gm_put_field(p, "model", m->model);
    gm_put_field(p, "system_fingerprint", m->fingerprint);
    gm_put_optional(p, "service_tier", m->service_tier);
    gm_put_optional(p, "session", m->session);
}

/* ---- text completions: log-probabilities in the old form ------------------------------------- */

/* A token's name in the old form: its text, or "bytes:\xNN..." where that is no whole text. */
static void put_old_name(struct gm_put *p, const struct gm_vocab *v, int32_t id)
{
    char name[8 + 4 * GM_PIECE_BYTES_MAX];
    size_t n;
    const char *bytes = gm_put_token_bytes(v, id, &n);
    if (gm_utf8_bad(bytes, n) == n || n > GM_PIECE_BYTES_MAX) {
        gm_put_string(p, bytes, n);
        return;
    }
    int len = snprintf(name, sizeof name, "bytes:");
    for (size_t i = 0; i < n; i++)
        len += snprintf(name + len, sizeof name - (size_t)len, "\\x%02x",
                        (unsigned)(unsigned char)bytes[i]);
    gm_put_string(p, name, (size_t)len);
}

static bool same_name(const struct gm_vocab *v, int32_t a, int32_t b)
{
    size_t na, nb;
    const char *pa = gm_put_token_bytes(v, a, &na);
    const char *pb = gm_put_token_bytes(v, b, &nb);
    return na == nb && memcmp(pa, pb, na) == 0;
}

/* A map has each name once. The token itself stands for its name, else the best one of a name. */
static bool is_listed(const struct gm_vocab *v, const struct gm_answer_token *t, uint32_t at)
{
    if (t->top[at].id != t->id && same_name(v, t->top[at].id, t->id))
        return false;
    for (uint32_t k = 0; k < at; k++)
        if (same_name(v, t->top[k].id, t->top[at].id))
            return false;
    return true;
}

static void put_top_map(struct gm_put *p, const struct gm_vocab *v, const struct gm_answer_token *t)
{
    bool itself = false;
    gm_put_comma(p);
    if (!t->has_logprob) {
        gm_put_text(p, "null");
        return;
    }
    gm_put_text(p, "{");
    for (uint32_t k = 0; k < t->n_top; k++) {
        if (t->top[k].id == t->id ? itself : !is_listed(v, t, k))
            continue;
        itself |= t->top[k].id == t->id;
        gm_put_comma(p);
        put_old_name(p, v, t->top[k].id);
        gm_put_text(p, ":");
        gm_put_logprob(p, t->top[k].logprob);
    }
    if (!itself) {
        gm_put_comma(p);
        put_old_name(p, v, t->id);
        gm_put_text(p, ":");
        gm_put_logprob(p, t->logprob);
    }
    gm_put_text(p, "}");
}

/* Where each token's text begins, in characters; goes on in *at. */
static void put_offsets(struct gm_put *p, const struct gm_vocab *v, const struct gm_choice *c,
                        struct gm_text_at *at)
{
    char out[GM_DETOK_BYTES_MAX];
    gm_put_key(p, "text_offset");
    gm_put_text(p, "[");
    for (size_t i = 0; i < c->n_tokens; i++) {
        gm_put_format(p, i ? ",%u" : "%u", at->characters);
        const size_t n = gm_detok_push(&at->detok, v, c->tokens[i].id, out);
        for (size_t k = 0; k < n; k++)
            at->characters += ((unsigned char)out[k] & 0xC0) != 0x80;
    }
    gm_put_text(p, "]");
}

static void put_old_logprobs(struct gm_put *p, const struct gm_vocab *v, const struct gm_choice *c)
{
    struct gm_text_at begin = { .characters = 0 };
    gm_put_text(p, "{");
    gm_put_key(p, "tokens");
    gm_put_text(p, "[");
    for (size_t i = 0; i < c->n_tokens; i++) {
        gm_put_comma(p);
        put_old_name(p, v, c->tokens[i].id);
    }
    gm_put_text(p, "]");
    gm_put_key(p, "token_logprobs");
    gm_put_text(p, "[");
    for (size_t i = 0; i < c->n_tokens; i++) {
        gm_put_comma(p);
        if (c->tokens[i].has_logprob)
            gm_put_logprob(p, c->tokens[i].logprob);
        else
            gm_put_text(p, "null");
    }
    gm_put_text(p, "]");
    gm_put_key(p, "top_logprobs");
    gm_put_text(p, "[");
    for (size_t i = 0; p->rc == GM_OK && i < c->n_tokens; i++)
        put_top_map(p, v, &c->tokens[i]);
    gm_put_text(p, "]");
    put_offsets(p, v, c, c->at ? c->at : &begin);
    gm_put_text(p, "}");
}

/* ---- choices --------------------------------------------------------------------------------- */

/* "logprobs" and "finish_reason", and the end of the choice. */
static void put_choice_end(struct gm_put *p, const struct gm_answer_meta *m,
                           const struct gm_choice *c, const char *finish)
{
    gm_put_key(p, "logprobs");
    if (!c->logprobs || !m->vocab) {
        gm_put_text(p, "null");
    } else if (m->form == GM_ANSWER_CHAT) {
        gm_put_text(p, "{\"content\":");
        gm_put_tokens(p, m->vocab, c->tokens, c->n_tokens);
        gm_put_text(p, ",\"refusal\":null}");
    } else {
        put_old_logprobs(p, m->vocab, c);
    }
    gm_put_field(p, "finish_reason", finish);
    gm_put_text(p, "}");
}

static void put_choice(struct gm_put *p, const struct gm_answer_meta *m, const struct gm_choice *c)
{
    gm_put_comma(p);
    gm_put_text(p, "{");
    gm_put_count(p, "index", c->index);
    if (m->form == GM_ANSWER_CHAT) {
        gm_put_key(p, "message");
        gm_put_text(p, "{\"role\":\"assistant\",\"content\":");
        gm_put_string(p, c->text, c->text_len);
        gm_put_text(p, ",\"refusal\":null}");
    } else {
        gm_put_key(p, "text");
        gm_put_string(p, c->text, c->text_len);
    }
    put_choice_end(p, m, c, c->finish);
}

enum gm_status gm_answer_whole(struct gm_buf *b, const struct gm_answer_meta *m,
                               const struct gm_choice *choices, size_t n,
                               const struct gm_totals *totals, struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    put_head(&p, m, m->form == GM_ANSWER_CHAT ? "chat.completion" : "text_completion");
    gm_put_key(&p, "choices");
    gm_put_text(&p, "[");
    for (size_t i = 0; p.rc == GM_OK && i < n; i++)
        put_choice(&p, m, &choices[i]);
    gm_put_text(&p, "]");
    put_usage(&p, totals->usage);
    put_timings(&p, totals->timings);
    gm_put_text(&p, "}");
    return gm_put_end(&p);
}

static const char *chunk_object(const struct gm_answer_meta *m)
{
    return m->form == GM_ANSWER_CHAT ? "chat.completion.chunk" : "text_completion";
}

/* What a chunk adds to a chat's message. */
static void put_delta(struct gm_put *p, enum gm_chunk kind, const struct gm_choice *c)
{
    gm_put_key(p, "delta");
    if (kind == GM_CHUNK_FIRST) {
        gm_put_text(p, "{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}");
    } else if (kind == GM_CHUNK_LAST) {
        gm_put_text(p, "{}");
    } else {
        gm_put_text(p, "{\"content\":");
        gm_put_string(p, c->text, c->text_len);
        gm_put_text(p, "}");
    }
}

enum gm_status gm_answer_chunk(struct gm_buf *b, const struct gm_answer_meta *m, enum gm_chunk kind,
                               const struct gm_choice *choice, const struct gm_timings *timings,
                               struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    struct gm_choice c = *choice;
    put_head(&p, m, chunk_object(m));
    gm_put_key(&p, "choices");
    gm_put_text(&p, "[{");
    gm_put_count(&p, "index", c.index);
    if (m->form == GM_ANSWER_CHAT) {
        put_delta(&p, kind, &c);
        c.logprobs &= kind == GM_CHUNK_TEXT;
    } else {
        gm_put_key(&p, "text");
        gm_put_string(&p, c.text, c.text_len);
        c.logprobs &= c.n_tokens > 0;
    }
    put_choice_end(&p, m, &c, kind == GM_CHUNK_LAST ? c.finish : NULL);
    gm_put_text(&p, "]");
    if (m->include_usage)
        gm_put_text(&p, ",\"usage\":null");
    put_timings(&p, timings);
    gm_put_text(&p, "}");
    return gm_put_end(&p);
}

enum gm_status gm_answer_usage_chunk(struct gm_buf *b, const struct gm_answer_meta *m,
                                     const struct gm_totals *totals, struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    put_head(&p, m, chunk_object(m));
    gm_put_text(&p, ",\"choices\":[]");
    put_usage(&p, totals->usage);
    put_timings(&p, totals->timings);
    gm_put_text(&p, "}");
    return gm_put_end(&p);
}

/* ---- models ---------------------------------------------------------------------------------- */

static void put_model(struct gm_put *p, const struct gm_model_info *m)
{
    gm_put_comma(p);
    gm_put_text(p, "{");
    gm_put_field(p, "id", m->id);
    gm_put_field(p, "object", "model");
    gm_put_count(p, "created", m->created);
    gm_put_field(p, "owned_by", m->owned_by);
    gm_put_count(p, "max_model_len", m->max_model_len);
    gm_put_key(p, "meta");
    gm_put_text(p, "{");
    gm_put_count(p, "n_vocab", m->vocab);
    gm_put_count(p, "n_ctx", m->max_model_len);
    gm_put_optional(p, "numerics", m->numerics);
    gm_put_text(p, "}}");
}

enum gm_status gm_answer_model(struct gm_buf *b, const struct gm_model_info *m, struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    put_model(&p, m);
    return gm_put_end(&p);
}

enum gm_status gm_answer_models(struct gm_buf *b, const struct gm_model_info *models, size_t n,
                                struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    gm_put_text(&p, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < n; i++)
        put_model(&p, &models[i]);
    gm_put_text(&p, "]}");
    return gm_put_end(&p);
}
