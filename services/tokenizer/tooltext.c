/* tooltext.c - tools as the model reads and writes them: prompt, blocks, one call's line.
 *
 * Owns:      the protocol text, the blocks of the built-in tools, the placeholders of parameters.
 * Does not:  run tools, find calls in an answer, or place the prompt in a turn (turns.c).
 * Source:    the one-shot JSON format of google-deepmind/gemma 3.3.0 (gm/tools/_manager.py), with
 *            placeholders made from a JSON schema instead of a written example.
 */
#include "services/tokenizer/tokenizer.h"

#include <jansson.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <wctype.h>

enum { SHOWN_MAX = 60 }; /* bytes of a wrong name shown in a sentence */

/* Where text goes. After the first failure nothing more is written and rc keeps it. */
struct sink {
    struct gm_buf *buf;
    struct gm_err *err;
    enum gm_status rc;
};

static const char prompt_start[] =
    "You are a helpful assistant that can use tools.\n"
    "If you need to use a tool, output it in the specified format.\n"
    "IMPORTANT: Do NOT write `[Tool result: ...]` !!! Instead end your turn and\n"
    "let the user talk.\n"
    "\n"
    "\n"
    "Available tools:\n"
    "\n";
static const char prompt_end[] = "\nNow, answer the following:\n\n";

/* Built-in tools: `rest` follows the description's line. */
static const struct {
    const char *name;
    const char *description;
    const char *rest;
} builtins[] = {
    { "calculator", "Perform mathematical calculations.",
      "Call format: {\"tool_name\": \"calculator\", \"expression\": \"<MATH_EXPRESSION>\"}\n"
      "Example:\n"
      "User: What is 25 times 4 plus 10?\n"
      "Assistant:\n"
      "Thought: I need to calculate 25 * 4 + 10.\n"
      "{\"tool_name\": \"calculator\", \"expression\": \"25 * 4 + 10\"}\n"
      "[Tool result: 110]\n"
      "The result is 110.\n" },
    { "fileexplorer", "File explorer tool.",
      "Call format: {\"tool_name\": \"fileexplorer\", \"method\": \"ONEOF(cat, ls)\", "
      "\"path\": \"<PATH>\"}\n"
      "Example:\n"
      "User: What's the content of /tmp/foo.txt?\n"
      "Assistant:\n"
      "Thought: I need to `cat /tmp/foo.txt`.\n"
      "{\"tool_name\": \"fileexplorer\", \"method\": \"cat\", \"path\": \"/tmp/foo.txt\"}\n"
      "[Tool result: ...]\n"
      "Here is the content of the file: ...\n" },
    { "offlinetoolsearch",
      "Search and register new tools. Once a tool has been searched, it can be used directly "
      "afterwards.",
      "Call format: {\"tool_name\": \"offlinetoolsearch\", \"query\": \"<SEARCH TAGS>\"}\n"
      "Example:\n"
      "User: Is it sunny in Paris?\n"
      "Assistant:\n"
      "Thought: I need a weather tool to answer this question.\n"
      "{\"tool_name\": \"offlinetoolsearch\", \"query\": \"weather\"}\n"
      "[Tool result: Found 1 tool(s) with the following specs: [...]]\n"
      "Now I can call the weather tool, to answer the user question.\n" },
};

/* ---- text ------------------------------------------------------------------------------------ */

static void put_bytes(struct sink *out, const char *bytes, size_t n)
{
    if (out->rc == GM_OK)
        out->rc = gm_buf_append(out->buf, bytes, n, out->err);
}

static void put(struct sink *out, const char *text)
{
    put_bytes(out, text, strlen(text));
}

/* As a JSON string, ASCII only. */
static void put_json(struct sink *out, const char *text)
{
    if (out->rc == GM_OK)
        out->rc = gm_buf_append_json(out->buf, text, strlen(text), out->err);
}

/* ---- placeholders ---------------------------------------------------------------------------- */

/* A name in capitals, by Unicode's one-to-one rules whatever the process's locale is. JSON text is
 * valid UTF-8, so every step finds a character.                                                 */
static void put_capitals(struct sink *out, const char *name)
{
    locale_t unicode = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    size_t len = strlen(name);
    int used = 1;
    for (size_t at = 0; at < len && used > 0; at += (size_t)used) {
        uint32_t code = 0;
        char text[4];
        used = gm_utf8_next(name + at, len - at, &code);
        if (used <= 0)
            break;
        if (unicode != (locale_t)0)
            code = (uint32_t)towupper_l((wint_t)code, unicode);
        else if (code >= 'a' && code <= 'z')
            code -= 'a' - 'A';
        put_bytes(out, text, (size_t)gm_utf8_put(code, text));
    }
    if (unicode != (locale_t)0)
        freelocale(unicode);
}

/* A value of an enum as plain text: a string as it is, all else as JSON. */
static void put_choice(struct sink *out, const json_t *value)
{
    if (json_is_string(value)) {
        put_bytes(out, json_string_value(value), json_string_length(value));
        return;
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    if (text != NULL)
        put(out, text);
    else if (out->rc == GM_OK)
        out->rc = gm_fail(out->err, GM_EXHAUSTED, "no memory for an enum's value");
    free(text);
}

/* The schema's type; "string" when it has none. Of several types the first that is not null. */
static const char *type_of(const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type");
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *one = json_string_value(json_array_get(type, i));
        if (one != NULL && strcmp(one, "null") != 0)
            return one;
    }
    return json_is_string(type) ? json_string_value(type) : "string";
}

static void put_placeholder(struct sink *out, const char *name, const json_t *schema, bool optional)
{
    const json_t *choices = json_object_get(schema, "enum");
    const char *type = type_of(schema);
    if (json_array_size(choices) > 0) {
        put(out, "ONEOF(");
        for (size_t i = 0; i < json_array_size(choices); i++) {
            put(out, i > 0 ? ", " : "");
            put_choice(out, json_array_get(choices, i));
        }
        put(out, optional ? ")?" : ")");
        return;
    }
    put(out, "<");
    put_capitals(out, name);
    if (strcmp(type, "string") != 0) {
        put(out, ":");
        put(out, type);
    }
    put(out, optional ? "?>" : ">");
}

/* ---- one tool -------------------------------------------------------------------------------- */

static bool name_listed(const json_t *list, const char *name)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *one = json_string_value(json_array_get(list, i));
        if (one != NULL && strcmp(one, name) == 0)
            return true;
    }
    return false;
}

static void put_parameters(struct sink *out, const json_t *parameters)
{
    json_t *properties = json_object_get(parameters, "properties");
    const json_t *required = json_object_get(parameters, "required");
    struct gm_buf text = GM_BUF(GM_TOOL_TEXT_BYTES_MAX);
    struct sink placeholder = { &text, out->err, GM_OK };
    const char *name;
    json_t *schema;
    json_object_foreach(properties, name, schema)
    {
        gm_buf_clear(&text);
        put_placeholder(&placeholder, name, schema, !name_listed(required, name));
        put(out, ", ");
        put_json(out, name);
        put(out, ": ");
        put_json(out, gm_buf_text(&text));
    }
    if (out->rc == GM_OK)
        out->rc = placeholder.rc;
    gm_buf_free(&text);
}

static void put_block(struct sink *out, const json_t *function)
{
    const char *name = json_string_value(json_object_get(function, "name"));
    const json_t *description = json_object_get(function, "description");
    const char *text = json_is_string(description) ? json_string_value(description) : "";
    put(out, "**");
    put(out, name);
    put(out, "**:\n\nDescription: ");
    put_bytes(out, text, json_string_length(description));
    put(out, "\n");
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++) {
        if (strcmp(name, builtins[i].name) == 0 && strcmp(text, builtins[i].description) == 0) {
            put(out, builtins[i].rest);
            return;
        }
    }
    put(out, "Call format: {\"tool_name\": ");
    put_json(out, name);
    put_parameters(out, json_object_get(function, "parameters"));
    put(out, "}\n");
}

/* ---- reading the list ------------------------------------------------------------------------ */

static bool null_or(const json_t *value, bool right)
{
    return value == NULL || json_is_null(value) || right;
}

static bool tool_name_good(const char *name)
{
    size_t len = name != NULL ? strlen(name) : 0;
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)name[i] < 0x20)
            return false;
    }
    return len > 0 && len <= GM_TOOL_NAME_BYTES_MAX;
}

static enum gm_status check_tool(const json_t *tools, size_t i, struct gm_err *err)
{
    const json_t *tool = json_array_get(tools, i);
    const json_t *type = json_object_get(tool, "type");
    const json_t *function = json_object_get(tool, "function");
    if (type != NULL && (!json_is_string(type) || strcmp(json_string_value(type), "function") != 0))
        return gm_fail(err, GM_UNSUPPORTED, "tools[%zu] is no function; only functions are", i);
    const char *name = json_string_value(json_object_get(function, "name"));
    if (!tool_name_good(name))
        return gm_fail(err, GM_INVALID,
                       "tools[%zu].function.name must be text of 1 to %d bytes on one line", i,
                       GM_TOOL_NAME_BYTES_MAX);
    const json_t *text = json_object_get(function, "description");
    const json_t *parameters = json_object_get(function, "parameters");
    const json_t *properties = json_object_get(parameters, "properties");
    const json_t *required = json_object_get(parameters, "required");
    if (!null_or(text, json_is_string(text)) || !null_or(parameters, json_is_object(parameters)) ||
        !null_or(properties, json_is_object(properties)) ||
        !null_or(required, json_is_array(required)))
        return gm_fail(err, GM_INVALID,
                       "tools[%zu] (\"%.*s\"): description must be text, parameters an object with "
                       "properties (object) and required (array)",
                       i, SHOWN_MAX, name);
    if (json_object_get(properties, "tool_name") != NULL)
        return gm_fail(err, GM_INVALID,
                       "tools[%zu] (\"%.*s\") has a parameter tool_name, which stands for the tool "
                       "itself; rename it",
                       i, SHOWN_MAX, name);
    for (size_t j = 0; j < i; j++) {
        const json_t *other = json_object_get(json_array_get(tools, j), "function");
        if (strcmp(name, json_string_value(json_object_get(other, "name"))) == 0)
            return gm_fail(err, GM_INVALID, "two tools are named \"%.*s\"; rename one", SHOWN_MAX,
                           name);
    }
    return GM_OK;
}

/* *tools: a new reference to an array of checked tools, NULL when none are offered. */
static enum gm_status read_tools(const char *json, size_t len, json_t **tools, struct gm_err *err)
{
    json_error_t why;
    *tools = NULL;
    if (json == NULL || len == 0)
        return GM_OK;
    if (len > GM_TOOLS_BYTES_MAX)
        return gm_fail(err, GM_EXHAUSTED, "the tools have %zu bytes of JSON; at most %d fit", len,
                       GM_TOOLS_BYTES_MAX);
    size_t flags = JSON_ALLOW_NUL | JSON_DECODE_ANY;
    json_t *root = json_loadb(json, len, flags, &why);
    if (root == NULL && json_error_code(&why) == json_error_numeric_overflow)
        root = json_loadb(json, len, flags | JSON_DECODE_INT_AS_REAL, &why);
    if (root == NULL)
        return gm_fail(err, GM_INVALID, "tools is not JSON: %s (byte %d)", why.text, why.position);
    enum gm_status rc = GM_OK;
    size_t n = json_array_size(root);
    if (!null_or(root, json_is_array(root)))
        rc = gm_fail(err, GM_INVALID, "tools must be an array of tools");
    else if (n > GM_TOOLS_MAX)
        rc = gm_fail(err, GM_EXHAUSTED, "%zu tools are offered; at most %d fit", n, GM_TOOLS_MAX);
    for (size_t i = 0; i < n && rc == GM_OK; i++)
        rc = check_tool(root, i, err);
    if (rc == GM_OK && n > 0)
        *tools = root;
    else
        json_decref(root);
    return rc;
}

static void put_blocks(struct sink *out, const json_t *tools)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        put(out, i > 0 ? "\n" : "");
        put_block(out, json_object_get(json_array_get(tools, i), "function"));
    }
}

static enum gm_status put_all(struct gm_buf *buf, const char *json, size_t len, bool prompt,
                              struct gm_err *err)
{
    struct sink out = { buf, err, GM_OK };
    size_t before = buf->len;
    json_t *tools = NULL;
    enum gm_status rc = read_tools(json, len, &tools, err);
    if (rc != GM_OK || tools == NULL)
        return rc;
    put(&out, prompt ? prompt_start : "");
    put_blocks(&out, tools);
    put(&out, prompt ? prompt_end : "");
    if (out.rc != GM_OK)
        buf->len = before;
    json_decref(tools);
    return out.rc;
}

enum gm_status gm_tooltext_blocks(const char *json, size_t len, struct gm_buf *out,
                                  struct gm_err *err)
{
    return put_all(out, json, len, false, err);
}

enum gm_status gm_tooltext_prompt(const char *json, size_t len, struct gm_buf *out,
                                  struct gm_err *err)
{
    return put_all(out, json, len, true, err);
}
