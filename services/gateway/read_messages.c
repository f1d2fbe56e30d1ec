/* read_messages.c - readers of conversations: chat's messages, and responses' input made into them.
 *
 * Owns:      the shape of a message: its fields, roles, content parts and calls.
 * Does not:  decide which order of roles is right: the tokenizer's template does.
 * Source:    OpenAI's chat completions and responses, as the official Python client types them.
 */
#include "services/gateway/read.h"

#include <stdlib.h>
#include <string.h>

/* What is being read, for sentences: "messages[3]". */
struct spot {
    struct gm_reading *in;
    bool input; /* an item of responses' input, not a message */
    char text[64];
};

static const char *const roles[] = { "system", "developer", "user", "assistant", "tool" };
enum { ROLES_N = 5, INPUT_ROLES_N = 4 };

/* Refuses; the parameter is the spot with `more` behind it. */
static bool wrong(const struct spot *s, const char *more, const char *code, const char *sentence)
{
    char param[sizeof s->in->why->param];
    gm_read_name(param, sizeof param, "%s%s", s->text, more);
    return gm_problem_set(s->in->why, 400, code, param, "%s %s", param, sentence);
}

static bool is_one_of(const char *word, const char *const *list)
{
    while (*list != NULL && strcmp(*list, word) != 0)
        list++;
    return *list != NULL;
}

/* A text without 0 bytes, for what is handled as a C string later. */
static bool is_plain(const json_t *value)
{
    return json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value);
}

/* Each field that is not null is one of `known`, or one of `dull`: those have no effect. */
static bool check_fields(const struct spot *s, const char *more, json_t *object,
                         const char *const *known, const char *const *dull)
{
    const char *key;
    json_t *value;
    char at[64];
    json_object_foreach(object, key, value)
    {
        if (json_is_null(value) || is_one_of(key, known) || is_one_of(key, dull))
            continue;
        gm_read_name(at, sizeof at, "%s.%.*s", more, GM_SHOWN_MAX, key);
        return wrong(s, at, "unknown_parameter", "is nothing that this server can act on");
    }
    return true;
}

/* ---- content --------------------------------------------------------------------------------- */

/* One content part; appends {"type": "text", "text": ...} to `out`. */
static bool add_part(const struct spot *s, size_t j, json_t *part, json_t *out)
{
    static const char *const known[] = { "type", "text", NULL };
    static const char *const dull[] = { "prompt_cache_breakpoint", "annotations", "logprobs",
                                        NULL };
    static const char *const none[] = { "prompt_cache_breakpoint", NULL };
    char at[48];
    gm_read_name(at, sizeof at, ".content[%zu]", j);
    const char *type = json_string_value(json_object_get(part, "type"));
    json_t *text = json_object_get(part, "text");
    if (!json_is_object(part) || type == NULL)
        return wrong(s, at, "invalid_type", "must be an object with a type");
    bool ours = s->input ? strcmp(type, "input_text") == 0 || strcmp(type, "output_text") == 0
                         : strcmp(type, "text") == 0;
    if (!ours) {
        char sentence[160];
        gm_read_name(sentence, sizeof sentence, "is of type \"%.*s\"; only text is served (%s)",
                     GM_SHOWN_MAX, type, s->input ? "input_text, output_text" : "text");
        return wrong(s, at, "unsupported_value", sentence);
    }
    if (!json_is_string(text))
        return wrong(s, at, "invalid_type", "has no text");
    if (!check_fields(s, at, part, known, s->input ? dull : none))
        return false;
    json_t *made = json_pack("{s:s, s:O}", "type", "text", "text", text);
    return json_array_append_new(out, made) == 0 || gm_read_no_memory(s->in);
}

/* The content of one message into made["content"]. */
static bool add_content(const struct spot *s, json_t *content, bool may_lack, json_t *made)
{
    if ((content == NULL || json_is_null(content)) && may_lack)
        return json_object_set_new(made, "content", json_null()) == 0 || gm_read_no_memory(s->in);
    if (json_is_string(content))
        return json_object_set(made, "content", content) == 0 || gm_read_no_memory(s->in);
    if (!json_is_array(content))
        return wrong(s, ".content", "invalid_type", "must be a text or an array of parts");
    size_t n = json_array_size(content);
    if (n < 1 || n > GM_REQUEST_PARTS_MAX)
        return wrong(s, ".content", "invalid_value", "must have 1 to 1024 parts");
    json_t *parts = json_array();
    if (parts == NULL || json_object_set_new(made, "content", parts) != 0)
        return gm_read_no_memory(s->in);
    for (size_t j = 0; j < n; j++)
        if (!add_part(s, j, json_array_get(content, j), parts))
            return false;
    return true;
}

/* ---- tool calls ------------------------------------------------------------------------------ */

static bool check_call(const struct spot *s, size_t j, json_t *call)
{
    static const char *const known[] = { "id", "type", "function", NULL };
    static const char *const inner[] = { "name", "arguments", NULL };
    static const char *const none[] = { NULL };
    static const char *const index[] = { "index", NULL };
    char at[48], at_function[64];
    gm_read_name(at, sizeof at, ".tool_calls[%zu]", j);
    gm_read_name(at_function, sizeof at_function, "%s.function", at);
    json_t *type = json_object_get(call, "type");
    json_t *id = json_object_get(call, "id");
    json_t *function = json_object_get(call, "function");
    if (!json_is_object(call))
        return wrong(s, at, "invalid_type", "must be an object");
    if (!json_is_string(type) || strcmp(json_string_value(type), "function") != 0)
        return wrong(s, at, "unsupported_value", "must be of type \"function\"");
    if (id != NULL && !is_plain(id))
        return wrong(s, at, "invalid_type", "has an id that is no text");
    if (!is_plain(json_object_get(function, "name")))
        return wrong(s, at_function, "invalid_type", "has no name");
    if (!json_is_string(json_object_get(function, "arguments")))
        return wrong(s, at_function, "invalid_type", "has no arguments: they are JSON as a text");
    return check_fields(s, at, call, known, index) &&
           check_fields(s, at_function, function, inner, none);
}

static bool add_calls(const struct spot *s, json_t *calls, json_t *made)
{
    size_t n = json_array_size(calls);
    if (!json_is_array(calls) || n < 1 || n > GM_REQUEST_CALLS_MAX)
        return wrong(s, ".tool_calls", "invalid_value", "must be an array of 1 to 64 calls");
    for (size_t j = 0; j < n; j++)
        if (!check_call(s, j, json_array_get(calls, j)))
            return false;
    return json_object_set(made, "tool_calls", calls) == 0 || gm_read_no_memory(s->in);
}

/* ---- one message ----------------------------------------------------------------------------- */

static bool read_role(const struct spot *s, json_t *message, const char **role)
{
    if (!json_is_object(message))
        return wrong(s, "", "invalid_type", "must be an object with role and content");
    const char *given = json_string_value(json_object_get(message, "role"));
    for (size_t i = 0; given != NULL && i < (s->input ? INPUT_ROLES_N : ROLES_N); i++) {
        if (strcmp(given, roles[i]) == 0) {
            *role = roles[i];
            return true;
        }
    }
    return wrong(s, ".role", "invalid_value",
                 s->input ? "must be system, developer, user or assistant"
                          : "must be system, developer, user, assistant or tool");
}

/* A field that is a text without 0 bytes goes into `made` as it is. */
static bool add_text(const struct spot *s, const char *name, json_t *value, json_t *made)
{
    char at[48];
    gm_read_name(at, sizeof at, ".%s", name);
    if (!is_plain(value))
        return wrong(s, at, "invalid_type", "must be a text");
    return json_object_set(made, name, value) == 0 || gm_read_no_memory(s->in);
}

static bool given(const json_t *value)
{
    return value != NULL && !json_is_null(value);
}

/* What is there besides role and content: of a message of chat. */
static bool add_rest(const struct spot *s, const char *role, json_t *message, json_t *made)
{
    json_t *calls = json_object_get(message, "tool_calls");
    json_t *id = json_object_get(message, "tool_call_id");
    json_t *name = json_object_get(message, "name");
    json_t *refusal = json_object_get(message, "refusal");
    if (given(refusal) && (!json_is_string(refusal) || json_string_length(refusal) > 0))
        return wrong(s, ".refusal", "unsupported_value",
                     "is not served; send what was said as content");
    if (given(calls) && strcmp(role, "assistant") != 0)
        return wrong(s, ".tool_calls", "invalid_value", "can only be the assistant's");
    if (given(id) && strcmp(role, "tool") != 0)
        return wrong(s, ".tool_call_id", "invalid_value", "can only be a tool's");
    if (given(name) && !add_text(s, "name", name, made))
        return false;
    if (given(id) && !add_text(s, "tool_call_id", id, made))
        return false;
    return !given(calls) || add_calls(s, calls, made);
}

static bool fill_message(const struct spot *s, json_t *message, json_t *made)
{
    static const char *const known[] = { "role",         "content", "name", "tool_calls",
                                         "tool_call_id", "refusal", NULL };
    static const char *const dull[] = { "annotations", NULL };
    const char *role = NULL;
    if (!read_role(s, message, &role) || !check_fields(s, "", message, known, dull))
        return false;
    if (json_object_set_new(made, "role", json_string(role)) != 0)
        return gm_read_no_memory(s->in);
    bool calls = strcmp(role, "assistant") == 0 && given(json_object_get(message, "tool_calls"));
    return add_content(s, json_object_get(message, "content"), calls, made) &&
           add_rest(s, role, message, made);
}

static bool fill_item(const struct spot *s, json_t *item, json_t *made)
{
    static const char *const known[] = { "role", "content", "type", NULL };
    static const char *const dull[] = { "id", "status", "phase", NULL };
    const json_t *type = json_object_get(item, "type");
    const char *role = NULL;
    if (given(type) && (!json_is_string(type) || strcmp(json_string_value(type), "message") != 0))
        return wrong(s, ".type", "unsupported_value", "must be \"message\": only text is served");
    if (!read_role(s, item, &role) || !check_fields(s, "", item, known, dull))
        return false;
    if (json_object_set_new(made, "role", json_string(role)) != 0)
        return gm_read_no_memory(s->in);
    return add_content(s, json_object_get(item, "content"), false, made);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static bool fill_all(struct gm_reading *in, const char *name, json_t *list, json_t *out)
{
    size_t n = json_array_size(list);
    if (n == 0)
        return gm_problem_set(in->why, 400, "empty_array", name, "%s is empty; send a message",
                              name);
    if (n > in->limits->messages)
        return gm_problem_set(in->why, 400, "array_above_max_length", name,
                              "%s has %zu messages; at most %zu fit", name, n,
                              in->limits->messages);
    for (size_t i = 0; i < n; i++) {
        struct spot s = { .in = in, .input = in->r->api == GM_API_RESPONSE };
        gm_read_name(s.text, sizeof s.text, "%s[%zu]", name, i);
        json_t *made = json_object();
        if (made == NULL || json_array_append_new(out, made) != 0)
            return gm_read_no_memory(in);
        json_t *from = json_array_get(list, i);
        if (!(s.input ? fill_item(&s, from, made) : fill_message(&s, from, made)))
            return false;
    }
    return true;
}

/* Takes the messages as text into the request. */
static bool keep(struct gm_reading *in, const json_t *messages)
{
    in->r->messages = gm_read_dump(in, messages, &in->r->messages_len);
    in->r->n_messages = json_array_size(messages);
    return in->r->messages != NULL;
}

static bool read_list(struct gm_reading *in, const char *name, json_t *list)
{
    if (in->text_of != NULL)
        return gm_problem_set(in->why, 400, "invalid_value", name,
                              "%s and %s are both given; give one of them", in->text_of, name);
    in->text_of = name;
    json_t *out = json_array();
    if (out == NULL)
        return gm_read_no_memory(in);
    bool ok = fill_all(in, name, list, out) && keep(in, out);
    json_decref(out);
    return ok;
}

bool gm_read_messages(struct gm_reading *in, const char *name, json_t *value)
{
    return read_list(in, name, value);
}

bool gm_read_input(struct gm_reading *in, const char *name, json_t *value)
{
    if (json_is_array(value))
        return read_list(in, name, value);
    in->text_of = name;
    json_t *out = json_pack("[{s:s, s:O}]", "role", "user", "content", value);
    if (out == NULL)
        return gm_read_no_memory(in);
    bool ok = keep(in, out);
    json_decref(out);
    return ok;
}

bool gm_read_instructions(struct gm_reading *in, const char *name, json_t *value)
{
    (void)name;
    in->r->instructions = gm_read_copy(in, value, &in->r->instructions_len);
    return in->r->instructions != NULL;
}
