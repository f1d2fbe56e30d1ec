/* turns.c - the chat template: a conversation in, the prompt's ids out.
 *
 * Owns:      the order of turns, what stands at the head of the first one, how messages of one
 *            side are joined, and which conversations are refused.
 * Does not:  read JSON messages (turns_json.c), word tools (tooltext.c), or split text (spm.cc).
 * Format:    <bos><start_of_turn>user\n{head}{text}<end_of_turn>\n<start_of_turn>model\n{answer}...
 *            Each piece between control tokens is encoded on its own. Every system text goes
 *            as "{text}\n\n" to the head of the next user turn; the tool prompt stands before it.
 */
#include "services/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

enum { SHOWN_MAX = 60 }; /* bytes of a client's name shown in a sentence */

static const char user_start[] = "user\n";
static const char model_start[] = "model\n";
static const char join[] = "\n\n";

enum side { SIDE_NONE, SIDE_USER, SIDE_MODEL };

/* The template at work. */
struct writer {
    const struct gm_tokenizer *tok;
    struct gm_ids *ids;
    struct gm_err *err;
    enum side side;     /* of the turn that is being collected */
    struct gm_buf text; /* that turn's text */
    struct gm_buf head; /* waits for the next user turn */
    int32_t start, end, newline;
};

/* ---- ids ------------------------------------------------------------------------------------- */

static enum gm_status need_special(const struct gm_tokenizer *tok, enum gm_special which,
                                   int32_t *id, struct gm_err *err)
{
    const char *name = which == GM_SPECIAL_NEWLINE ? "newline" : gm_special_text(which);
    *id = gm_vocab_special(gm_tokenizer_vocab(tok), which);
    if (*id >= 0)
        return GM_OK;
    return gm_fail(err, GM_PRECONDITION,
                   "the model's vocabulary has no %s token, which the chat template needs; use a "
                   "Gemma model or a prompt without template",
                   name);
}

static enum gm_status put_id(struct writer *w, int32_t id)
{
    return gm_ids_append(w->ids, &id, 1, w->err);
}

static enum gm_status put_text(struct writer *w, const char *text, size_t len)
{
    return gm_tokenizer_encode(w->tok, text, len, w->ids, w->err);
}

static enum gm_status put_end(struct writer *w)
{
    enum gm_status rc = put_id(w, w->end);
    return rc == GM_OK ? put_id(w, w->newline) : rc;
}

/* <start_of_turn> and the collected text of the user's or the model's turn. */
static enum gm_status put_turn(struct writer *w)
{
    enum gm_status rc = put_id(w, w->start);
    if (rc == GM_OK && w->side == SIDE_MODEL)
        rc = put_text(w, model_start, sizeof model_start - 1);
    if (rc == GM_OK)
        rc = put_text(w, gm_buf_text(&w->text), w->text.len);
    gm_buf_clear(&w->text);
    return rc;
}

/* ---- turns ----------------------------------------------------------------------------------- */

/* Text for one side: joined to the turn in work when that is the same side's, else a new turn. */
static enum gm_status turn_to(struct writer *w, enum side side)
{
    if (w->side == side)
        return gm_buf_append_text(&w->text, join, w->err);
    enum gm_status rc = GM_OK;
    if (w->side != SIDE_NONE) {
        rc = put_turn(w);
        if (rc == GM_OK)
            rc = put_end(w);
    }
    w->side = side;
    if (rc == GM_OK && side == SIDE_USER)
        rc = gm_buf_append_text(&w->text, user_start, w->err);
    return rc;
}

static enum gm_status user_turn(struct writer *w)
{
    enum gm_status rc = turn_to(w, SIDE_USER);
    if (rc == GM_OK)
        rc = gm_buf_append(&w->text, gm_buf_text(&w->head), w->head.len, w->err);
    gm_buf_clear(&w->head);
    return rc;
}

static enum gm_status add_system(struct writer *w, const struct gm_message *m)
{
    if (m->text_len == 0)
        return GM_OK;
    enum gm_status rc = gm_buf_append(&w->head, m->text, m->text_len, w->err);
    return rc == GM_OK ? gm_buf_append_text(&w->head, join, w->err) : rc;
}

static enum gm_status add_user(struct writer *w, const struct gm_message *m)
{
    enum gm_status rc = user_turn(w);
    return rc == GM_OK ? gm_buf_append(&w->text, m->text, m->text_len, w->err) : rc;
}

static enum gm_status add_result(struct writer *w, const struct gm_message *m)
{
    enum gm_status rc = user_turn(w);
    if (rc == GM_OK)
        rc = gm_buf_append_text(&w->text, "[Tool result: ", w->err);
    if (rc == GM_OK)
        rc = gm_buf_append(&w->text, m->text, m->text_len, w->err);
    return rc == GM_OK ? gm_buf_append_text(&w->text, "]", w->err) : rc;
}

/* The model's text and, when call is not NULL, the call's line after it. */
static enum gm_status add_model(struct writer *w, const char *text, size_t len,
                                const struct gm_tool_call *call)
{
    enum gm_status rc = turn_to(w, SIDE_MODEL);
    if (rc == GM_OK)
        rc = gm_buf_append(&w->text, text, len, w->err);
    if (rc == GM_OK && call != NULL && len > 0)
        rc = gm_buf_append_text(&w->text, "\n", w->err);
    if (rc == GM_OK && call != NULL)
        rc = gm_tooltext_call(call->name, call->arguments, call->arguments_len, &w->text, w->err);
    return rc;
}

/* ---- calls and their results ----------------------------------------------------------------- */

/* Number of the call that the result answers: by id, else the first without a result; -1: none. */
static int call_of(const struct gm_message *asked, const struct gm_message *result,
                   const struct gm_message *const *results)
{
    for (size_t c = 0; c < asked->n_calls; c++) {
        const char *id = asked->calls[c].id;
        bool mine =
            result->tool_call_id == NULL || id == NULL || strcmp(result->tool_call_id, id) == 0;
        if (mine && results[c] == NULL)
            return (int)c;
    }
    return -1;
}

/* Handles the assistant message *at with calls and the results after it; moves *at to the last. */
static enum gm_status add_calls(struct writer *w, const struct gm_turns *t, size_t *at)
{
    const struct gm_message *asked = &t->messages[*at];
    const struct gm_message *results[GM_TOOL_CALLS_MAX] = { NULL };
    size_t asked_at = *at;
    if (asked->n_calls > GM_TOOL_CALLS_MAX)
        return gm_fail(w->err, GM_EXHAUSTED, "messages[%zu] has %zu calls; at most %d fit", *at,
                       asked->n_calls, GM_TOOL_CALLS_MAX);
    while (*at + 1 < t->n && t->messages[*at + 1].role == GM_ROLE_TOOL) {
        const struct gm_message *result = &t->messages[++*at];
        int call = call_of(asked, result, results);
        if (call < 0)
            return gm_fail(w->err, GM_INVALID,
                           "messages[%zu] is a result for \"%.*s\", which is no open call of "
                           "messages[%zu]",
                           *at, SHOWN_MAX, result->tool_call_id != NULL ? result->tool_call_id : "",
                           asked_at);
        results[call] = result;
    }
    bool last_open = asked->n_calls == 1 && *at + 1 == t->n;
    enum gm_status rc = GM_OK;
    for (size_t c = 0; c < asked->n_calls && rc == GM_OK; c++) {
        if (results[c] == NULL && !last_open)
            return gm_fail(w->err, GM_INVALID,
                           "call %zu of messages[%zu] has no result; send one of role tool", c,
                           asked_at);
        rc = add_model(w, asked->text, c == 0 ? asked->text_len : 0, &asked->calls[c]);
        if (rc == GM_OK && results[c] != NULL)
            rc = add_result(w, results[c]);
    }
    return rc;
}

/* ---- conversations --------------------------------------------------------------------------- */

static enum gm_status add_message(struct writer *w, const struct gm_turns *t, size_t *at)
{
    const struct gm_message *m = &t->messages[*at];
    size_t bad = gm_utf8_bad(m->text, m->text_len);
    if (bad != m->text_len)
        return gm_fail(w->err, GM_INVALID, "messages[%zu] is not UTF-8 at byte %zu", *at, bad);
    if (m->n_calls > 0 && m->role != GM_ROLE_ASSISTANT)
        return gm_fail(w->err, GM_INVALID, "messages[%zu] has tool calls; only an assistant can",
                       *at);
    switch (m->role) {
    case GM_ROLE_SYSTEM:
    case GM_ROLE_DEVELOPER:
        return add_system(w, m);
    case GM_ROLE_USER:
        return add_user(w, m);
    case GM_ROLE_TOOL:
        if (t->continued && w->side != SIDE_MODEL)
            return add_result(w, m);
        return gm_fail(w->err, GM_INVALID, "messages[%zu] is a tool's result without a call", *at);
    case GM_ROLE_ASSISTANT:
        if (w->side == SIDE_NONE)
            return gm_fail(w->err, GM_INVALID,
                           "messages[%zu] is the assistant's; a user message must come first", *at);
        return m->n_calls > 0 ? add_calls(w, t, at) : add_model(w, m->text, m->text_len, NULL);
    default:
        return gm_fail(w->err, GM_INVALID, "messages[%zu] has no known role", *at);
    }
}

static enum gm_status add_all(struct writer *w, const struct gm_turns *t)
{
    enum gm_status rc = GM_OK;
    if (!t->continued)
        rc = gm_tooltext_prompt(t->tools, t->tools_len, &w->head, w->err);
    for (size_t at = 0; at < t->n && rc == GM_OK; at++)
        rc = add_message(w, t, &at);
    if (rc != GM_OK)
        return rc;
    if (w->side == SIDE_NONE)
        return gm_fail(w->err, GM_INVALID, "the conversation has no user message; send one");
    if (w->head.len > 0)
        return gm_fail(w->err, GM_INVALID,
                       "a system message stands last; a user message must follow it");
    return GM_OK;
}

/* The last turn: an assistant's stays open, after a user's the model's is opened. */
static enum gm_status finish(struct writer *w)
{
    enum side last = w->side;
    enum gm_status rc = put_turn(w);
    if (rc != GM_OK || last == SIDE_MODEL)
        return rc;
    rc = put_end(w);
    w->side = SIDE_MODEL;
    return rc == GM_OK ? put_turn(w) : rc;
}

static enum gm_status open_writer(struct writer *w, bool continued)
{
    int32_t bos = -1;
    enum gm_status rc = need_special(w->tok, GM_SPECIAL_START_OF_TURN, &w->start, w->err);
    if (rc == GM_OK)
        rc = need_special(w->tok, GM_SPECIAL_END_OF_TURN, &w->end, w->err);
    if (rc == GM_OK)
        rc = need_special(w->tok, GM_SPECIAL_NEWLINE, &w->newline, w->err);
    if (rc != GM_OK || continued)
        return rc;
    rc = need_special(w->tok, GM_SPECIAL_BOS, &bos, w->err);
    return rc == GM_OK ? put_id(w, bos) : rc;
}

enum gm_status gm_turns_encode(const struct gm_tokenizer *tok, const struct gm_turns *turns,
                               struct gm_ids *ids, struct gm_err *err)
{
    size_t before = ids->n;
    struct writer w = { .tok = tok,
                        .ids = ids,
                        .err = err,
                        .text = GM_BUF(GM_ENCODE_BYTES_MAX),
                        .head = GM_BUF(GM_ENCODE_BYTES_MAX) };
    if (turns->n > GM_MESSAGES_MAX)
        return gm_fail(err, GM_EXHAUSTED, "the conversation has %zu messages; at most %d fit",
                       turns->n, GM_MESSAGES_MAX);
    enum gm_status rc = open_writer(&w, turns->continued);
    if (rc == GM_OK)
        rc = add_all(&w, turns);
    if (rc == GM_OK)
        rc = finish(&w);
    if (rc != GM_OK)
        ids->n = before;
    gm_buf_free(&w.text);
    gm_buf_free(&w.head);
    return rc;
}

enum gm_status gm_turns_raw(const struct gm_tokenizer *tok, const char *text, size_t len,
                            bool continued, struct gm_ids *ids, struct gm_err *err)
{
    size_t before = ids->n;
    int32_t bos = -1;
    enum gm_status rc = GM_OK;
    if (!continued)
        rc = need_special(tok, GM_SPECIAL_BOS, &bos, err);
    if (rc == GM_OK && !continued)
        rc = gm_ids_append(ids, &bos, 1, err);
    if (rc == GM_OK)
        rc = gm_tokenizer_encode(tok, text, len, ids, err);
    if (rc != GM_OK)
        ids->n = before;
    return rc;
}

enum gm_status gm_turns_close(const struct gm_tokenizer *tok, struct gm_ids *ids,
                              struct gm_err *err)
{
    int32_t close[2] = { -1, -1 };
    enum gm_status rc = need_special(tok, GM_SPECIAL_END_OF_TURN, &close[0], err);
    if (rc == GM_OK)
        rc = need_special(tok, GM_SPECIAL_NEWLINE, &close[1], err);
    return rc == GM_OK ? gm_ids_append(ids, close, 2, err) : rc;
}
