/* answer_response.c - the response object and the events of its stream.
 *
 * Owns:      the shape of both: one message with one part of text.
 * Does not:  keep responses, or choose ids and sequence numbers.
 * Source:    OpenAI's API reference (responses, streaming events).
 */
#include "services/gateway/answer.h"

#include <string.h>

#include "services/gateway/answer_put.h"

static const char *state_name(enum gm_response_state state)
{
    switch (state) {
    case GM_RESPONSE_RUNNING:
        return "in_progress";
    case GM_RESPONSE_COMPLETED:
        return "completed";
    case GM_RESPONSE_INCOMPLETE:
        return "incomplete";
    case GM_RESPONSE_CANCELLED:
        return "cancelled";
    case GM_RESPONSE_FAILED:
        break;
    }
    return "failed";
}

static const char *item_state(const struct gm_response *r)
{
    if (r->state == GM_RESPONSE_RUNNING || r->state == GM_RESPONSE_COMPLETED)
        return state_name(r->state);
    return "incomplete";
}

/* ---- the message ----------------------------------------------------------------------------- */

static void put_logprobs(struct gm_put *p, const struct gm_response *r)
{
    gm_put_key(p, "logprobs");
    gm_put_tokens(p, r->vocab, r->tokens, r->logprobs && r->vocab ? r->n_tokens : 0);
}

/* The part of text; empty: as it is before its first piece. */
static void put_part(struct gm_put *p, const struct gm_response *r, bool empty)
{
    gm_put_text(p, "{\"type\":\"output_text\",\"annotations\":[]");
    if (empty)
        gm_put_text(p, ",\"logprobs\":[]");
    else
        put_logprobs(p, r);
    gm_put_key(p, "text");
    gm_put_string(p, r->text, empty ? 0 : r->text_len);
    gm_put_text(p, "}");
}

static void put_item(struct gm_put *p, const struct gm_response *r, bool empty)
{
    gm_put_text(p, "{");
    gm_put_field(p, "id", r->item_id);
    gm_put_field(p, "type", "message");
    gm_put_field(p, "status", empty ? "in_progress" : item_state(r));
    gm_put_field(p, "role", "assistant");
    gm_put_key(p, "content");
    gm_put_text(p, "[");
    if (!empty)
        put_part(p, r, false);
    gm_put_text(p, "]}");
}

/* ---- the response ---------------------------------------------------------------------------- */

static void put_usage(struct gm_put *p, const struct gm_usage *u)
{
    gm_put_key(p, "usage");
    if (!u) {
        gm_put_text(p, "null");
        return;
    }
    gm_put_text(p, "{");
    gm_put_count(p, "input_tokens", u->prompt);
    gm_put_format(p, ",\"input_tokens_details\":{\"cached_tokens\":%u,\"cache_write_tokens\":0}",
                  u->cached);
    gm_put_count(p, "output_tokens", u->completion);
    gm_put_text(p, ",\"output_tokens_details\":{\"reasoning_tokens\":0}");
    gm_put_count(p, "total_tokens", (int64_t)u->prompt + u->completion);
    gm_put_text(p, "}");
}

static void put_outcome(struct gm_put *p, const struct gm_response *r)
{
    gm_put_field(p, "status", state_name(r->state));
    gm_put_text(p, ",\"background\":false,\"completed_at\":");
    if (r->state == GM_RESPONSE_COMPLETED)
        gm_put_format(p, "%lld", (long long)r->completed);
    else
        gm_put_text(p, "null");
    gm_put_key(p, "error");
    if (r->state == GM_RESPONSE_FAILED) {
        gm_put_text(p, "{");
        gm_put_field(p, "code", r->error_code ? r->error_code : "server_error");
        gm_put_field(p, "message", r->error_message ? r->error_message : "");
        gm_put_text(p, "}");
    } else {
        gm_put_text(p, "null");
    }
    gm_put_key(p, "incomplete_details");
    gm_put_text(p,
                r->state == GM_RESPONSE_INCOMPLETE ? "{\"reason\":\"max_output_tokens\"}" : "null");
}

/* What was asked, as it took effect. */
static void put_request(struct gm_put *p, const struct gm_response *r)
{
    const bool named = r->metadata && gm_put_is_json(r->metadata, strlen(r->metadata), '{');
    gm_put_field(p, "previous_response_id", r->previous);
    gm_put_field(p, "prompt_cache_key", r->prompt_cache_key);
    gm_put_text(p, ",\"reasoning\":{\"effort\":null,\"summary\":null}");
    gm_put_field(p, "safety_identifier", r->safety_identifier);
    gm_put_field(p, "service_tier", r->service_tier ? r->service_tier : "default");
    gm_put_bool(p, "store", r->store);
    gm_put_key(p, "temperature");
    gm_put_short(p, r->temperature, "null");
    gm_put_text(p, ",\"text\":{\"format\":{\"type\":\"text\"}},\"tool_choice\":\"auto\"");
    gm_put_text(p, ",\"tools\":[]");
    gm_put_count(p, "top_logprobs", r->top_logprobs);
    gm_put_key(p, "top_p");
    gm_put_short(p, r->top_p, "null");
    gm_put_field(p, "truncation", r->truncation ? r->truncation : "disabled");
    put_usage(p, r->usage);
    gm_put_field(p, "user", r->user);
    gm_put_key(p, "metadata");
    gm_put_text(p, named ? r->metadata : "{}");
    gm_put_optional(p, "session", r->session);
}

static void put_response(struct gm_put *p, const struct gm_response *r, bool has_item)
{
    gm_put_text(p, "{");
    gm_put_field(p, "id", r->id);
    gm_put_field(p, "object", "response");
    gm_put_count(p, "created_at", r->created);
    put_outcome(p, r);
    gm_put_key(p, "instructions");
    if (r->instructions)
        gm_put_string(p, r->instructions, r->instructions_len);
    else
        gm_put_text(p, "null");
    gm_put_key(p, "max_output_tokens");
    if (r->max_output_tokens)
        gm_put_format(p, "%u", r->max_output_tokens);
    else
        gm_put_text(p, "null");
    gm_put_text(p, ",\"max_tool_calls\":null");
    gm_put_field(p, "model", r->model);
    gm_put_key(p, "output");
    gm_put_text(p, "[");
    if (has_item)
        put_item(p, r, false);
    gm_put_text(p, "]");
    gm_put_bool(p, "parallel_tool_calls", r->parallel_tool_calls);
    put_request(p, r);
    gm_put_text(p, "}");
}

enum gm_status gm_answer_response(struct gm_buf *b, const struct gm_response *r, struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    put_response(&p, r, r->has_item);
    return gm_put_end(&p);
}

/* ---- events ---------------------------------------------------------------------------------- */

const char *gm_response_event_name(const struct gm_response *r, enum gm_response_event kind)
{
    static const char *const names[] = {
        [GM_EVENT_CREATED] = "response.created",
        [GM_EVENT_IN_PROGRESS] = "response.in_progress",
        [GM_EVENT_ITEM_ADDED] = "response.output_item.added",
        [GM_EVENT_PART_ADDED] = "response.content_part.added",
        [GM_EVENT_TEXT_DELTA] = "response.output_text.delta",
        [GM_EVENT_TEXT_DONE] = "response.output_text.done",
        [GM_EVENT_PART_DONE] = "response.content_part.done",
        [GM_EVENT_ITEM_DONE] = "response.output_item.done",
    };
    if (kind != GM_EVENT_ENDED)
        return names[kind];
    return r->state == GM_RESPONSE_COMPLETED    ? "response.completed"
           : r->state == GM_RESPONSE_INCOMPLETE ? "response.incomplete"
                                                : "response.failed";
}

/* Which item and part the event is about. */
static void put_place(struct gm_put *p, const struct gm_response *r, bool part)
{
    if (part)
        gm_put_field(p, "item_id", r->item_id);
    gm_put_text(p, ",\"output_index\":0");
    if (part)
        gm_put_text(p, ",\"content_index\":0");
}

static void put_delta(struct gm_put *p, const struct gm_response *r, const struct gm_choice *c)
{
    gm_put_key(p, "delta");
    gm_put_string(p, c->text, c->text_len);
    gm_put_key(p, "logprobs");
    gm_put_tokens(p, r->vocab, c->tokens, c->logprobs && r->vocab ? c->n_tokens : 0);
}

enum gm_status gm_answer_response_event(struct gm_buf *b, const struct gm_response *r,
                                        enum gm_response_event kind, const struct gm_choice *choice,
                                        uint32_t sequence, struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    gm_put_text(&p, "{");
    gm_put_field(&p, "type", gm_response_event_name(r, kind));
    gm_put_count(&p, "sequence_number", sequence);
    if (kind == GM_EVENT_CREATED || kind == GM_EVENT_IN_PROGRESS || kind == GM_EVENT_ENDED) {
        gm_put_key(&p, "response");
        put_response(&p, r, kind == GM_EVENT_ENDED && r->has_item);
    } else if (kind == GM_EVENT_ITEM_ADDED || kind == GM_EVENT_ITEM_DONE) {
        put_place(&p, r, false);
        gm_put_key(&p, "item");
        put_item(&p, r, kind == GM_EVENT_ITEM_ADDED);
    } else {
        put_place(&p, r, true);
        if (kind == GM_EVENT_TEXT_DELTA) {
            put_delta(&p, r, choice);
        } else if (kind == GM_EVENT_TEXT_DONE) {
            gm_put_key(&p, "text");
            gm_put_string(&p, r->text, r->text_len);
            put_logprobs(&p, r);
        } else {
            gm_put_key(&p, "part");
            put_part(&p, r, kind == GM_EVENT_PART_ADDED);
        }
    }
    gm_put_text(&p, "}");
    return gm_put_end(&p);
}
