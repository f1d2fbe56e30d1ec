/* load_client.c - one client of `gemline load`: its conversation, turn by turn.
 *
 * Owns:      the history, the events of the stream that runs, the times of its pieces.
 * Does not:  decide when a turn is asked (load.c), or wait.
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "services/cli/load.h"

void gm_client_begin(struct gm_load_client *c, struct gm_load *load, uint32_t index)
{
    *c = (struct gm_load_client){ .load = load, .index = index };
    gm_link_begin(&c->link, load->epoll, c, GM_LOAD_LINK_CLIENT);
    c->history.max = c->asked.max = c->answer.max = GM_LOAD_HISTORY_MAX;
}

void gm_client_free(struct gm_load_client *c)
{
    gm_link_shut(&c->link);
    gm_sse_free(&c->sse);
    gm_buf_free(&c->history);
    gm_buf_free(&c->asked);
    gm_buf_free(&c->answer);
}

static void say_first(char to[GM_LOAD_SAY_MAX], const char *text)
{
    if (to[0])
        return;
    snprintf(to, GM_LOAD_SAY_MAX, "%s", text);
    for (char *at = to; *at; at++)
        if ((unsigned char)*at < ' ')
            *at = ' ';
    to[gm_utf8_bad(to, strlen(to))] = 0; /* not in the middle of a character */
}

/* Back to an empty conversation. */
static void forget(struct gm_load_client *c)
{
    gm_buf_clear(&c->history);
    c->turn = 0;
}

void gm_client_fail(struct gm_load_client *c, const char *why)
{
    struct gm_load *load = c->load;
    load->counts.failed++;
    say_first(load->counts.failed_say, why);
    gm_link_shut(&c->link);
    forget(c);
    c->wake_us = gm_now_us() + GM_LOAD_AGAIN_MS * 1000;
    gm_load_over(c);
}

/* ---- asking ---------------------------------------------------------------------------------- */
/* A text as the inside of a JSON string. */
static enum gm_status put_inside(struct gm_buf *out, const struct gm_buf *text, struct gm_err *err)
{
    const size_t at = out->len;
    enum gm_status rc = gm_buf_append_json(out, gm_buf_text(text), text->len, err);
    if (rc != GM_OK)
        return rc;
    memmove(out->data + at, out->data + at + 1, out->len - at - 2);
    out->len -= 2;
    out->data[out->len] = 0;
    return GM_OK;
}

/* One message, or for completions the text alone. */
static enum gm_status put_turn(const struct gm_load *load, const char *role, bool first,
                               const struct gm_buf *text, struct gm_buf *out, struct gm_err *err)
{
    if (load->o->api == GM_LOAD_COMPLETION)
        return put_inside(out, text, err);
    enum gm_status rc =
        gm_buf_printf(out, err, "%s{\"role\": \"%s\", \"content\": \"", first ? "" : ", ", role);
    if (rc == GM_OK)
        rc = put_inside(out, text, err);
    return rc == GM_OK ? gm_buf_append_text(out, "\"}", err) : rc;
}

static enum gm_status send_turn(struct gm_load_client *c, struct gm_err *err)
{
    struct gm_load *load = c->load;
    gm_sse_begin(&c->sse);
    gm_buf_clear(&c->answer);
    c->first_us = c->last_us = 0;
    c->chunks = c->made = c->prompt_tokens = c->cached_tokens = 0;
    c->counted = c->ended = false;
    enum gm_status rc = gm_load_body(load, c, err);
    if (rc == GM_OK)
        rc = gm_link_ask(&c->link, &load->target,
                         load->o->api == GM_LOAD_CHAT ? "/v1/chat/completions" : "/v1/completions",
                         &load->body, err);
    return rc;
}

void gm_client_ask(struct gm_load_client *c, int64_t from_us)
{
    struct gm_load *load = c->load;
    struct gm_err err = GM_ERR_NONE;
    struct gm_buf text = GM_BUF(GM_LOAD_HISTORY_MAX);
    const int64_t now = gm_now_us();
    c->is = GM_CLIENT_RUNNING;
    c->from_us = from_us;
    c->again = false;
    load->running++;
    load->counts.issued++;
    if (load->running > load->counts.running_most)
        load->counts.running_most = load->running;
    if (load->counts.began_us == 0)
        load->counts.began_us = from_us;
    gm_series_add(&load->counts.late, (double)(now - from_us) / 1e3);
    if (c->turn == 0) /* closed loop: numbers by client, so that they do not hang on the timing */
        c->conversation = load->o->rate > 0 ? load->conversations++
                                            : ((uint64_t)c->index << 32) + c->conversations++;
    gm_buf_clear(&c->asked);
    enum gm_status rc = gm_load_prompt(load, c->conversation, c->turn, &text, &err);
    if (rc == GM_OK && load->o->api == GM_LOAD_COMPLETION && c->turn > 0)
        rc = gm_buf_append_text(&c->asked, " ", &err);
    if (rc == GM_OK)
        rc = put_turn(load, "user", c->turn == 0, &text, &c->asked, &err);
    gm_buf_free(&text);
    if (rc == GM_OK)
        rc = send_turn(c, &err);
    if (rc != GM_OK)
        gm_client_fail(c, err.text);
}

/* ---- the stream ------------------------------------------------------------------------------ */
static uint64_t number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_integer(value) && json_integer_value(value) > 0
               ? (uint64_t)json_integer_value(value)
               : 0;
}

/* A piece of the answer's text came. */
static enum gm_status take_text(struct gm_load_client *c, const json_t *text, struct gm_err *err)
{
    if (json_string_length(text) == 0)
        return GM_OK;
    const int64_t now = gm_now_us();
    if (c->first_us == 0)
        c->first_us = now;
    else
        gm_series_add(&c->load->counts.gap, (double)(now - c->last_us) / 1e3);
    c->last_us = now;
    c->chunks++;
    return gm_buf_append(&c->answer, json_string_value(text), json_string_length(text), err);
}

/* {"error": {"message": ...}} or {"error": "..."}; NULL: there is none. */
static const char *error_of(const json_t *root)
{
    const json_t *error = json_object_get(root, "error");
    if (!error || json_is_null(error))
        return NULL;
    const char *text =
        json_string_value(json_is_object(error) ? json_object_get(error, "message") : error);
    return text ? text : "an error without a message";
}

static enum gm_status take_event(void *ctx, const char *bytes, size_t n, struct gm_err *err)
{
    struct gm_load_client *c = ctx;
    enum gm_status rc = GM_OK;
    if (n == 6 && memcmp(bytes, "[DONE]", 6) == 0) {
        c->ended = true;
        return GM_OK;
    }
    json_t *root = json_loadb(bytes, n, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(root)) {
        json_decref(root);
        return gm_fail(err, GM_DATA_LOSS, "an event of the stream is no JSON: %.60s", bytes);
    }
    const char *error = error_of(root);
    const json_t *usage = json_object_get(root, "usage");
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    const json_t *delta = json_object_get(choice, "delta");
    if (error)
        rc = gm_fail(err, GM_UNAVAILABLE, "%s", error);
    if (json_is_object(usage)) {
        c->counted = true;
        c->made = number(usage, "completion_tokens");
        c->prompt_tokens = number(usage, "prompt_tokens");
        c->cached_tokens = number(json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
    }
    if (rc == GM_OK)
        rc = take_text(
            c, delta ? json_object_get(delta, "content") : json_object_get(choice, "text"), err);
    json_decref(root);
    return rc;
}

static enum gm_status take_body(void *ctx, const char *bytes, size_t n, struct gm_err *err)
{
    struct gm_load_client *c = ctx;
    if (c->link.reply.status == 200)
        return gm_sse_feed(&c->sse, bytes, n, take_event, c, err);
    if (c->answer.len + n <= GM_LOAD_PROBLEM_MAX)
        return gm_buf_append(&c->answer, bytes, n, err);
    return GM_OK; /* a refusal's sentence stands at its beginning */
}

/* ---- the end of a turn ----------------------------------------------------------------------- */
static void refused(struct gm_load_client *c)
{
    struct gm_load *load = c->load;
    const struct gm_http_reply *reply = &c->link.reply;
    const int64_t now = gm_now_us(), hint = reply->retry_after_s;
    char text[GM_LOAD_SAY_MAX];
    json_t *root = json_loadb(gm_buf_text(&c->answer), c->answer.len, 0, NULL);
    const char *why = error_of(root);
    snprintf(text, sizeof text, "%d: %s", reply->status, why ? why : gm_buf_text(&c->answer));
    json_decref(root);
    say_first(load->counts.refused_say, text);
    gm_load_count_refusal(&load->counts, reply->status, (double)(now - c->from_us) / 1e3,
                          hint >= 0);
    if (reply->status != 429 && reply->status != 503)
        forget(c); /* the same turn again would be refused again */
    const int64_t wait = hint < 1 ? 1 : hint > GM_LOAD_PATIENCE_S ? GM_LOAD_PATIENCE_S : hint;
    c->wake_us = reply->status == 429 || reply->status == 503 ? now + wait * 1000000
                                                              : now + GM_LOAD_AGAIN_MS * 1000;
    gm_load_over(c);
}

static void answered(struct gm_load_client *c)
{
    struct gm_load *load = c->load;
    struct gm_load_counts *n = &load->counts;
    const int64_t now = gm_now_us();
    const uint64_t made = c->counted ? c->made : c->chunks;
    const double first = (double)(c->first_us - c->from_us) / 1e3;
    n->done++;
    n->tokens += made;
    n->prompt_tokens += c->prompt_tokens;
    n->cached_tokens += c->cached_tokens;
    *(c->counted ? &n->by_usage : &n->by_chunks) += 1;
    n->ended_us = now;
    gm_series_add(&n->first, first);
    if (c->turn > 0)
        gm_series_add(&n->first_later, first);
    gm_series_add(&n->answer, (double)(now - c->from_us) / 1e3);
    if (made > 1 && c->last_us > c->first_us)
        gm_series_add(&n->rate, (double)(made - 1) * 1e6 / (double)(c->last_us - c->first_us));
    if (++c->turn < load->o->turns) {
        if (gm_buf_append(&c->history, gm_buf_text(&c->asked), c->asked.len, NULL) != GM_OK ||
            put_turn(load, "assistant", false, &c->answer, &c->history, NULL) != GM_OK)
            forget(c); /* as long as a conversation can be: the next one begins */
    } else {
        forget(c);
    }
    c->wake_us = now;
    gm_load_over(c);
}

void gm_client_ready(struct gm_load_client *c, uint32_t events)
{
    struct gm_load *load = c->load;
    struct gm_err err = GM_ERR_NONE;
    const bool connecting = c->link.is == GM_LINK_CONNECTING;
    const enum gm_status rc = gm_link_ready(&c->link, events, take_body, c, &err);
    if (connecting && c->link.is == GM_LINK_OPEN)
        load->gone_us = 0;
    if (c->is != GM_CLIENT_RUNNING || (rc == GM_OK && c->link.busy))
        return;
    if (rc != GM_OK && c->link.stale && !c->again) {
        c->again = true;
        if (send_turn(c, &err) != GM_OK)
            gm_client_fail(c, err.text);
        return;
    }
    if (rc != GM_OK) {
        if (c->link.refused && load->gone_us == 0)
            load->gone_us = gm_now_us();
        gm_client_fail(c, err.text);
    } else if (c->link.reply.status != 200) {
        refused(c);
    } else if (!c->ended || c->first_us == 0) {
        gm_client_fail(c, c->ended ? "an answer without text" : "a stream ended without [DONE]");
    } else {
        answered(c);
    }
}
