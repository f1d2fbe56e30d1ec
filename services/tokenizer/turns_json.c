/* turns_json.c - OpenAI's messages as JSON text into the plain structs of the template.
 *
 * Owns:      the parsed JSON, the joined content parts and the arrays, until the ids are made.
 * Does not:  decide which order of messages is right (turns.c) or read the tools (tooltext.c).
 * Source:    the messages of OpenAI's chat completions: role, content, tool_calls, tool_call_id.
 */
#include "services/tokenizer/tokenizer.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN_MAX = 60 }; /* bytes of a wrong value shown in a sentence */

/* The messages of one request. */
struct parsed {
    json_t *root;
    struct gm_message *messages; /* n */
    struct gm_tool_call *calls;  /* all messages' calls, one after the other */
    size_t n;
    size_t n_calls;
    struct gm_buf *joined; /* n: text of a message whose content has parts */
};

static const char *const role_names[GM_ROLES] = {
    [GM_ROLE_SYSTEM] = "system",       [GM_ROLE_DEVELOPER] = "developer", [GM_ROLE_USER] = "user",
    [GM_ROLE_ASSISTANT] = "assistant", [GM_ROLE_TOOL] = "tool",
};

static void close_parsed(struct parsed *p)
{
    for (size_t i = 0; i < p->n && p->joined != NULL; i++)
        gm_buf_free(&p->joined[i]);
    free(p->joined);
    free(p->messages);
    free(p->calls);
    json_decref(p->root);
}

/* ---- one message ----------------------------------------------------------------------------- */

static enum gm_status read_role(const json_t *message, size_t at, enum gm_role *role,
                                struct gm_err *err)
{
    const char *name = json_string_value(json_object_get(message, "role"));
    for (int i = 0; i < GM_ROLES && name != NULL; i++) {
        if (strcmp(name, role_names[i]) == 0) {
            *role = (enum gm_role)i;
            return GM_OK;
        }
    }
    return gm_fail(err, GM_INVALID,
                   "messages[%zu].role is \"%.*s\"; roles are system, developer, user, assistant "
                   "and tool",
                   at, SHOWN_MAX, name != NULL ? name : "");
}

static enum gm_status join_parts(const json_t *parts, size_t at, struct gm_buf *out,
                                 struct gm_err *err)
{
    size_t n = json_array_size(parts);
    if (n > GM_MESSAGE_PARTS_MAX)
        return gm_fail(err, GM_EXHAUSTED, "messages[%zu] has %zu content parts; at most %d fit", at,
                       n, GM_MESSAGE_PARTS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        if (type == NULL)
            return gm_fail(err, GM_INVALID, "messages[%zu].content[%zu] has no type", at, i);
        if (strcmp(type, "text") != 0)
            return gm_fail(err, GM_UNSUPPORTED,
                           "messages[%zu].content[%zu] is of type \"%.*s\"; this model reads text "
                           "only",
                           at, i, SHOWN_MAX, type);
        if (!json_is_string(text))
            return gm_fail(err, GM_INVALID, "messages[%zu].content[%zu].text is no text", at, i);
        enum gm_status rc =
            gm_buf_append(out, json_string_value(text), json_string_length(text), err);
        if (rc != GM_OK)
            return rc;
    }
    return GM_OK;
}

static enum gm_status read_content(const json_t *message, size_t at, struct gm_message *m,
                                   struct gm_buf *joined, struct gm_err *err)
{
    const json_t *content = json_object_get(message, "content");
    m->text = "";
    m->text_len = 0;
    if (json_is_string(content)) {
        m->text = json_string_value(content);
        m->text_len = json_string_length(content);
        return GM_OK;
    }
    if (json_is_array(content)) {
        enum gm_status rc = join_parts(content, at, joined, err);
        m->text = gm_buf_text(joined);
        m->text_len = joined->len;
        return rc;
    }
    if ((content == NULL || json_is_null(content)) && m->role == GM_ROLE_ASSISTANT)
        return GM_OK;
    return gm_fail(err, GM_INVALID, "messages[%zu].content must be text or an array of parts", at);
}

static enum gm_status read_call(const json_t *call, size_t at, size_t i, struct gm_tool_call *out,
                                struct gm_err *err)
{
    const json_t *type = json_object_get(call, "type");
    const json_t *function = json_object_get(call, "function");
    const json_t *arguments = json_object_get(function, "arguments");
    if (type != NULL && (!json_is_string(type) || strcmp(json_string_value(type), "function") != 0))
        return gm_fail(err, GM_UNSUPPORTED, "messages[%zu].tool_calls[%zu] calls no function", at,
                       i);
    out->id = json_string_value(json_object_get(call, "id"));
    out->name = json_string_value(json_object_get(function, "name"));
    if (out->name == NULL)
        return gm_fail(err, GM_INVALID, "messages[%zu].tool_calls[%zu].function.name is missing",
                       at, i);
    if (!json_is_string(arguments))
        return gm_fail(err, GM_INVALID,
                       "messages[%zu].tool_calls[%zu].function.arguments must be JSON text", at, i);
    out->arguments = json_string_value(arguments);
    out->arguments_len = json_string_length(arguments);
    return GM_OK;
}

static enum gm_status read_calls(struct parsed *p, const json_t *message, size_t at,
                                 struct gm_err *err)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    struct gm_message *m = &p->messages[at];
    if (calls != NULL && !json_is_null(calls) && !json_is_array(calls))
        return gm_fail(err, GM_INVALID, "messages[%zu].tool_calls must be an array", at);
    m->calls = p->calls + p->n_calls;
    m->n_calls = json_array_size(calls);
    p->n_calls += m->n_calls;
    for (size_t i = 0; i < m->n_calls; i++) {
        struct gm_tool_call *call = p->calls + (p->n_calls - m->n_calls) + i;
        enum gm_status rc = read_call(json_array_get(calls, i), at, i, call, err);
        if (rc != GM_OK)
            return rc;
    }
    return GM_OK;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static enum gm_status make_room(struct parsed *p, struct gm_err *err)
{
    size_t n_calls = 0;
    p->n = json_array_size(p->root);
    if (p->n > GM_MESSAGES_MAX)
        return gm_fail(err, GM_EXHAUSTED, "the conversation has %zu messages; at most %d fit", p->n,
                       GM_MESSAGES_MAX);
    for (size_t i = 0; i < p->n; i++) {
        size_t more = json_array_size(json_object_get(json_array_get(p->root, i), "tool_calls"));
        if (more > GM_TOOL_CALLS_MAX)
            return gm_fail(err, GM_EXHAUSTED, "messages[%zu] has %zu calls; at most %d fit", i,
                           more, GM_TOOL_CALLS_MAX);
        n_calls += more;
    }
    p->messages = calloc(p->n + 1, sizeof *p->messages);
    p->joined = calloc(p->n + 1, sizeof *p->joined);
    p->calls = calloc(n_calls + 1, sizeof *p->calls);
    if (p->messages == NULL || p->joined == NULL || p->calls == NULL)
        return gm_fail(err, GM_EXHAUSTED, "no memory for %zu messages", p->n);
    for (size_t i = 0; i < p->n; i++)
        p->joined[i] = GM_BUF(GM_ENCODE_BYTES_MAX);
    return GM_OK;
}

static enum gm_status read_message(struct parsed *p, size_t at, struct gm_err *err)
{
    const json_t *message = json_array_get(p->root, at);
    struct gm_message *m = &p->messages[at];
    enum gm_status rc = read_role(message, at, &m->role, err);
    if (rc == GM_OK)
        rc = read_content(message, at, m, &p->joined[at], err);
    if (rc == GM_OK)
        rc = read_calls(p, message, at, err);
    m->tool_call_id = json_string_value(json_object_get(message, "tool_call_id"));
    return rc;
}

enum gm_status gm_turns_from_json(const struct gm_tokenizer *tok, const struct gm_turns_json *in,
                                  struct gm_ids *ids, struct gm_err *err)
{
    json_error_t why;
    struct parsed p = { 0 };
    if (in->messages == NULL || in->messages_len == 0)
        return gm_fail(err, GM_INVALID, "the conversation has no message; send one");
    if (in->messages_len > GM_MESSAGES_BYTES_MAX)
        return gm_fail(err, GM_EXHAUSTED, "the messages have %zu bytes of JSON; at most %d fit",
                       in->messages_len, GM_MESSAGES_BYTES_MAX);
    size_t flags = JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL;
    p.root = json_loadb(in->messages, in->messages_len, flags, &why);
    if (p.root == NULL)
        return gm_fail(err, GM_INVALID, "messages is not JSON: %s (byte %d)", why.text,
                       why.position);
    enum gm_status rc = GM_OK;
    if (!json_is_array(p.root))
        rc = gm_fail(err, GM_INVALID, "messages must be an array");
    if (rc == GM_OK)
        rc = make_room(&p, err);
    for (size_t i = 0; i < p.n && rc == GM_OK; i++)
        rc = read_message(&p, i, err);
    if (rc == GM_OK) {
        const struct gm_turns turns = { p.messages, p.n, in->tools, in->tools_len, in->continued };
        rc = gm_turns_encode(tok, &turns, ids, err);
    }
    close_parsed(&p);
    return rc;
}
