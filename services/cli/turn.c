/* turn.c - one turn: what is sent, what comes back as text, ids and times, and its JSON.
 *
 * Owns:      struct gm_answer.
 * Does not:  parse options (run.c, chat.c) or reconnect (common/net/client.h).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/cli.h"

enum { ANSWER_BYTES_MAX = 64 << 20, TURN_ID_DIGITS = 32, JSON_BYTES_MAX = 512 << 20 };

struct run {
    const struct gm_turn_options *o;
    const struct gm_vocab *vocab;
    struct gm_answer *a;
    struct gm_detok detok;
    int64_t sent_us, first_us, last_us;
    bool finished;
    struct gm_err err;
    bool metered; /* a progress line stands on the terminal */
};

/* [{"role":"system","content":...},{"role":"user","content":...}] */
static enum gm_status add_message(struct gm_buf *b, const char *role, const char *text, size_t n,
                                  struct gm_err *err)
{
    if (gm_buf_printf(b, err, "%s{\"role\":\"%s\",\"content\":", b->len > 1 ? "," : "", role) !=
            GM_OK ||
        gm_buf_append_json(b, text, n, err) != GM_OK)
        return err->status;
    return gm_buf_append_text(b, "}", err);
}

static enum gm_status make_messages(const struct gm_turn_options *o, const struct gm_buf *prompt,
                                    struct gm_buf *b, struct gm_err *err)
{
    const char *text = gm_buf_text(prompt);
    const size_t bad = gm_utf8_bad(text, prompt->len);
    if (bad != prompt->len)
        return gm_fail(err, GM_INVALID, "the prompt is no UTF-8 text: look at its byte %zu", bad);
    if (o->raw)
        return gm_buf_append(b, text, prompt->len, err);
    if (gm_buf_append_text(b, "[", err) != GM_OK)
        return err->status;
    if (o->system) {
        if (gm_utf8_bad(o->system, strlen(o->system)) != strlen(o->system))
            return gm_fail(err, GM_INVALID, "the system text is no UTF-8 text");
        if (add_message(b, "system", o->system, strlen(o->system), err) != GM_OK)
            return err->status;
    }
    if (add_message(b, "user", text, prompt->len, err) != GM_OK)
        return err->status;
    return gm_buf_append_text(b, "]", err);
}

static enum gm_status add_text(struct run *r, const char *bytes, size_t n)
{
    if (n == 0)
        return GM_OK;
    enum gm_status rc = gm_buf_append(&r->a->text, bytes, n, &r->err);
    if (rc == GM_OK && r->o->stream)
        rc = gm_cli_write(bytes, n, &r->err);
    return rc;
}

static enum gm_status keep_token(struct gm_answer *a, const Gm__Token *t, struct gm_err *err)
{
    if (a->n == a->cap) {
        const size_t cap = a->cap ? 2 * a->cap : 256;
        int32_t *ids = realloc(a->ids, cap * sizeof *ids);
        if (ids)
            a->ids = ids;
        Gm__Token **tokens = realloc(a->tokens, cap * sizeof *tokens);
        if (tokens)
            a->tokens = tokens;
        if (!ids || !tokens)
            return gm_fail(err, GM_EXHAUSTED, "no memory for the answer");
        a->cap = cap;
    }
    const size_t size = gm__token__get_packed_size(t);
    uint8_t *packed = malloc(size ? size : 1);
    if (!packed)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the answer");
    gm__token__pack(t, packed);
    Gm__Token *copy = gm__token__unpack(NULL, size, packed);
    free(packed);
    if (!copy)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the answer");
    a->tokens[a->n] = copy;
    a->ids[a->n++] = t->id;
    return GM_OK;
}

static enum gm_status take_token(struct run *r, const Gm__Token *t)
{
    char bytes[GM_DETOK_BYTES_MAX];
    r->last_us = gm_now_us();
    if (!r->first_us)
        r->first_us = r->last_us;
    if (!r->o->ignore_eos && gm_vocab_is_end(r->vocab, t->id))
        return GM_OK;
    const enum gm_status rc = keep_token(r->a, t, &r->err);
    return rc == GM_OK ? add_text(r, bytes, gm_detok_push(&r->detok, r->vocab, t->id, bytes)) : rc;
}

static bool on_item(void *ctx, const ProtobufCMessage *item)
{
    struct run *r = ctx;
    const Gm__TurnEvent *e = (const Gm__TurnEvent *)item;
    if (e->started) {
        snprintf(r->a->session, sizeof r->a->session, "%s", e->started->session);
        r->a->seed = e->started->seed;
        r->a->prompt_tokens = e->started->prompt_tokens;
        r->a->cached_tokens = e->started->cached_tokens;
    }
    if (e->progress && !r->first_us) {
        gm_cli_meter(e->progress->done, e->progress->total);
        r->metered = true;
    }
    if (r->metered && (e->n_tokens > 0 || e->finished)) {
        gm_cli_meter(0, 0);
        r->metered = false;
    }
    for (size_t i = 0; i < e->n_tokens && r->err.status == GM_OK; i++)
        (void)take_token(r, e->tokens[i]);
    if (e->finished) {
        r->finished = true;
        snprintf(r->a->reason, sizeof r->a->reason, "%s", e->finished->reason);
    }
    return r->err.status == GM_OK && !gm_stopping();
}

static bool on_idle(void *ctx)
{
    (void)ctx;
    return !gm_stopping();
}

static void set_times(struct run *r)
{
    if (!r->first_us)
        r->first_us = r->last_us = gm_now_us();
    r->a->prefill_ms = (double)(r->first_us - r->sent_us) / 1000.0;
    r->a->decode_ms = (double)(r->last_us - r->first_us) / 1000.0;
}

enum gm_status gm_turn_run(struct gm_conn *c, const struct gm_turn_options *o,
                           const struct gm_buf *prompt, struct gm_answer *a, struct gm_err *err)
{
    char turn[TURN_ID_DIGITS + 1], bytes[GM_DETOK_BYTES_MAX];
    struct gm_buf messages = GM_BUF(GM_BODY_BYTES_MAX);
    struct run r = { .o = o, .vocab = &c->vocab, .a = a, .err = GM_ERR_NONE };
    Gm__StartRequest q = GM__START_REQUEST__INIT;
    memset(a, 0, sizeof *a);
    a->text = GM_BUF(ANSWER_BYTES_MAX);
    gm_random_id(turn, TURN_ID_DIGITS);
    q.turn = turn;
    q.session = (char *)o->session;
    q.sampling = o->sampling;
    q.has_raw = 1;
    q.raw = o->raw;
    q.has_retry = o->retry;
    q.retry = o->retry;
    if (!o->retry) {
        if (make_messages(o, prompt, &messages, err) != GM_OK) {
            gm_buf_free(&messages);
            return err->status;
        }
        q.has_messages = 1;
        q.messages.data = (uint8_t *)messages.data;
        q.messages.len = messages.len;
    }
    r.sent_us = gm_now_us();
    enum gm_status rc = gm_client_turn(c->client, &q, o->timeout_ms, on_item, on_idle, &r, err);
    gm_buf_free(&messages);
    set_times(&r);
    const size_t n = gm_detok_flush(&r.detok, bytes);
    if (r.err.status == GM_OK)
        (void)add_text(&r, bytes, n);
    if (r.err.status != GM_OK) {
        *err = r.err;
        return err->status;
    }
    if (rc == GM_OK && !r.finished)
        return gm_fail(err, GM_INTERNAL, "the answer ended without a reason; see gemline status");
    return rc;
}

void gm_answer_free(struct gm_answer *a)
{
    for (size_t i = 0; i < a->n; i++)
        gm__token__free_unpacked(a->tokens[i], NULL);
    free(a->tokens);
    free(a->ids);
    gm_buf_free(&a->text);
    memset(a, 0, sizeof *a);
}

/* ---- JSON -------------------------------------------------------------------------------------
 */
static enum gm_status put_number(struct gm_buf *b, double value, struct gm_err *err)
{
    return isfinite(value) ? gm_buf_printf(b, err, "%.9g", value)
                           : gm_buf_append_text(b, "null", err);
}

static enum gm_status put_logprob(struct gm_buf *b, const Gm__Token *t, const struct gm_vocab *v,
                                  struct gm_err *err)
{
    size_t n;
    const char *name = gm_vocab_name(v, t->id, &n);
    enum gm_status rc = gm_buf_printf(b, err, "{\"id\": %d, \"token\": ", t->id);
    if (rc == GM_OK)
        rc = gm_buf_append_json(b, name, n, err);
    if (rc == GM_OK)
        rc = gm_buf_append_text(b, ", \"logprob\": ", err);
    if (rc == GM_OK)
        rc = put_number(b, (double)t->logprob, err);
    if (rc == GM_OK)
        rc = gm_buf_append_text(b, ", \"top\": [", err);
    for (size_t i = 0; rc == GM_OK && i < t->n_top; i++) {
        rc = gm_buf_printf(b, err, "%s{\"id\": %d, \"logprob\": ", i ? ", " : "", t->top[i]->id);
        if (rc == GM_OK)
            rc = put_number(b, (double)t->top[i]->logprob, err);
        if (rc == GM_OK)
            rc = gm_buf_append_text(b, "}", err);
    }
    return rc == GM_OK ? gm_buf_append_text(b, "]}", err) : rc;
}

enum gm_status gm_answer_json(const struct gm_answer *a, const struct gm_vocab *v,
                              struct gm_buf *out, struct gm_err *err)
{
    *out = GM_BUF(JSON_BYTES_MAX);
    enum gm_status rc = gm_buf_append_text(out, "{\"text\": ", err);
    if (rc == GM_OK)
        rc = gm_buf_append_json(out, gm_buf_text(&a->text), a->text.len, err);
    if (rc == GM_OK)
        rc = gm_buf_append_text(out, ", \"ids\": [", err);
    for (size_t i = 0; rc == GM_OK && i < a->n; i++)
        rc = gm_buf_printf(out, err, "%s%d", i ? ", " : "", a->ids[i]);
    if (rc == GM_OK)
        rc = gm_buf_printf(out, err,
                           "], \"finish_reason\": \"%s\", \"session\": \"%s\", \"seed\": %llu, "
                           "\"usage\": {\"prompt_tokens\": %u, \"cached_tokens\": %u, "
                           "\"completion_tokens\": %zu}, ",
                           a->reason, a->session, (unsigned long long)a->seed, a->prompt_tokens,
                           a->cached_tokens, a->n);
    if (rc == GM_OK)
        rc = gm_buf_printf(out, err,
                           "\"timings\": {\"prefill_ms\": %.3f, \"decode_ms\": %.3f, "
                           "\"ttft_ms\": %.3f}, \"logprobs\": [",
                           a->prefill_ms, a->decode_ms, a->prefill_ms);
    for (size_t i = 0, n = 0; rc == GM_OK && i < a->n; i++) {
        if (!a->tokens[i]->has_logprob)
            continue;
        if (n++)
            rc = gm_buf_append_text(out, ", ", err);
        if (rc == GM_OK)
            rc = put_logprob(out, a->tokens[i], v, err);
    }
    return rc == GM_OK ? gm_buf_append_text(out, "]}\n", err) : rc;
}
