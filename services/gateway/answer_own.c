/* answer_own.c - Gemline's own objects: score, ids of a text, sessions.
 *
 * Owns:      the shape of those objects.
 * Does not:  know OpenAI's (answer.c, answer_response.c).
 */
#include "services/gateway/answer.h"

#include <math.h>
#include <string.h>

#include "services/gateway/answer_put.h"

/* ---- score ----------------------------------------------------------------------------------- */

/* The perplexity of the log-probabilities known; NAN when there are none. */
static double perplexity(const struct gm_score *s)
{
    double sum = 0;
    size_t n = 0;
    for (size_t i = 0; i + 1 < s->n; i++)
        if (s->rows[i].known && s->rows[i].has_logprob) {
            sum += s->rows[i].logprob;
            n++;
        }
    return n ? exp(-sum / (double)n) : (double)NAN;
}

static void put_score_top(struct gm_put *p, const struct gm_score *s, bool ids)
{
    gm_put_key(p, ids ? "top_ids" : "top_logprobs");
    gm_put_text(p, "[");
    for (size_t i = 0; p->rc == GM_OK && i < s->n; i++) {
        const struct gm_score_row *r = &s->rows[i];
        gm_put_comma(p);
        gm_put_text(p, r->known ? "[" : "null");
        for (uint32_t k = 0; r->known && k < r->n_top; k++) {
            gm_put_comma(p);
            if (ids)
                gm_put_format(p, "%d", r->top[k].id);
            else
                gm_put_number(p, (double)r->top[k].logprob, "null");
        }
        if (r->known)
            gm_put_text(p, "]");
    }
    gm_put_text(p, "]");
}

static void put_score(struct gm_put *p, size_t index, const struct gm_score *s)
{
    gm_put_comma(p);
    gm_put_text(p, "{");
    gm_put_count(p, "index", (int64_t)index);
    gm_put_key(p, "logprobs");
    gm_put_text(p, "[");
    for (size_t i = 0; p->rc == GM_OK && i + 1 < s->n; i++) {
        const struct gm_score_row *r = &s->rows[i];
        gm_put_comma(p);
        gm_put_number(p, r->known && r->has_logprob ? r->logprob : (double)NAN, "null");
    }
    gm_put_text(p, "]");
    put_score_top(p, s, true);
    put_score_top(p, s, false);
    gm_put_key(p, "perplexity");
    gm_put_number(p, perplexity(s), "null");
    gm_put_text(p, "}");
}

enum gm_status gm_answer_score(struct gm_buf *b, const char *model, const struct gm_score *texts,
                               size_t n, struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    size_t tokens = 0;
    gm_put_text(&p, "{");
    gm_put_field(&p, "object", "list");
    gm_put_field(&p, "model", model);
    gm_put_key(&p, "data");
    gm_put_text(&p, "[");
    for (size_t i = 0; p.rc == GM_OK && i < n; i++) {
        put_score(&p, i, &texts[i]);
        tokens += texts[i].n;
    }
    gm_put_format(&p, "],\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu}}", tokens, tokens);
    return gm_put_end(&p);
}

/* ---- tokenize, detokenize -------------------------------------------------------------------- */

enum gm_status gm_answer_tokens(struct gm_buf *b, const int32_t *ids, size_t n,
                                uint32_t max_model_len, const struct gm_vocab *strings,
                                struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    gm_put_text(&p, "{\"tokens\":[");
    for (size_t i = 0; p.rc == GM_OK && i < n; i++)
        gm_put_format(&p, i ? ",%d" : "%d", ids[i]);
    gm_put_text(&p, "]");
    gm_put_count(&p, "count", (int64_t)n);
    gm_put_count(&p, "max_model_len", max_model_len);
    if (strings) {
        gm_put_key(&p, "token_strs");
        gm_put_text(&p, "[");
        for (size_t i = 0; p.rc == GM_OK && i < n; i++) {
            size_t len;
            const char *bytes = gm_put_token_bytes(strings, ids[i], &len);
            gm_put_comma(&p);
            gm_put_string(&p, bytes, len);
        }
        gm_put_text(&p, "]");
    }
    gm_put_text(&p, "}");
    return gm_put_end(&p);
}

enum gm_status gm_answer_text(struct gm_buf *b, const char *text, size_t n, struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    gm_put_text(&p, "{\"text\":");
    gm_put_string(&p, text, n);
    gm_put_text(&p, "}");
    return gm_put_end(&p);
}

/* ---- sessions -------------------------------------------------------------------------------- */

static void put_turn(struct gm_put *p, const struct gm_turn_info *t, bool raw)
{
    gm_put_comma(p);
    gm_put_text(p, "{");
    gm_put_field(p, "id", t->turn);
    gm_put_key(p, "messages");
    if (!t->messages) {
        gm_put_text(p, "[]");
    } else if (!raw && gm_put_is_json(t->messages, t->messages_len, '[')) {
        /* as it was sent: no number and no string is rewritten */
        gm_put_bytes(p, t->messages, t->messages_len);
    } else {
        gm_put_text(p, "[{\"role\":\"user\",\"content\":");
        gm_put_string(p, t->messages, t->messages_len);
        gm_put_text(p, "}]");
    }
    gm_put_key(p, "answer");
    gm_put_text(p, "{\"role\":\"assistant\",\"content\":");
    gm_put_string(p, t->answer, t->answer_len);
    gm_put_text(p, "}");
    gm_put_field(p, "finish_reason", t->finish);
    gm_put_count(p, "prompt_tokens", t->prompt_tokens);
    gm_put_count(p, "completion_tokens", t->completion_tokens);
    if (t->wall_ms)
        gm_put_count(p, "wall_ms", (int64_t)t->wall_ms);
    gm_put_text(p, "}");
}

static void put_session(struct gm_put *p, const struct gm_session_info *s, bool turns)
{
    gm_put_comma(p);
    gm_put_text(p, "{");
    gm_put_field(p, "id", s->id);
    gm_put_field(p, "object", "session");
    gm_put_count(p, "created_at", (int64_t)(s->created_ms / 1000));
    gm_put_count(p, "touched_at", (int64_t)(s->touched_ms / 1000));
    gm_put_count(p, "tokens", s->tokens);
    gm_put_count(p, "turn_count", s->n_turns);
    if (s->title) {
        gm_put_key(p, "title");
        gm_put_string(p, s->title, s->title_len);
    }
    gm_put_bool(p, "busy", s->busy);
    gm_put_bool(p, "raw", s->raw);
    if (turns) {
        gm_put_key(p, "turns");
        gm_put_text(p, "[");
        for (uint32_t i = 0; p->rc == GM_OK && i < s->n_turns; i++)
            put_turn(p, &s->turns[i], s->raw);
        gm_put_text(p, "]");
    }
    gm_put_text(p, "}");
}

enum gm_status gm_answer_session(struct gm_buf *b, const struct gm_session_info *s,
                                 struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    put_session(&p, s, true);
    return gm_put_end(&p);
}

enum gm_status gm_answer_sessions(struct gm_buf *b, const struct gm_session_info *list, size_t n,
                                  struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    gm_put_text(&p, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; p.rc == GM_OK && i < n; i++)
        put_session(&p, &list[i], false);
    gm_put_text(&p, "]}");
    return gm_put_end(&p);
}

enum gm_status gm_answer_deleted(struct gm_buf *b, const char *id, const char *object,
                                 struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    gm_put_text(&p, "{");
    gm_put_field(&p, "id", id);
    gm_put_field(&p, "object", object);
    gm_put_text(&p, ",\"deleted\":true}");
    return gm_put_end(&p);
}
