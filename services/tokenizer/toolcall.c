/* toolcall.c - one call as the model writes it, from a name and the arguments' JSON text.
 *
 * Owns:      the line {"tool_name": "NAME", "PARAM": value, ...}.
 * Does not:  read numbers or strings: they stay as the client wrote them, only the white space
 *            between the parts becomes that of Python's json.dumps (", " and ": ").
 * Source:    RFC 8259 for the text of JSON.
 */
#include "services/tokenizer/tokenizer.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN_MAX = 60 }; /* bytes of a name shown in a sentence */

/* Checks that text is a JSON object without tool_name. *empty: it has no members. */
static enum gm_status check_arguments(const char *name, const char *text, size_t len, bool *empty,
                                      struct gm_err *err)
{
    json_error_t why;
    if (len > GM_CALL_ARGUMENTS_MAX)
        return gm_fail(err, GM_EXHAUSTED,
                       "the arguments of \"%.*s\" have %zu bytes; at most %d fit", SHOWN_MAX, name,
                       len, GM_CALL_ARGUMENTS_MAX);
    json_t *root = json_loadb(text, len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &why);
    if (root == NULL)
        return gm_fail(err, GM_INVALID, "the arguments of \"%.*s\" are not JSON: %s (byte %d)",
                       SHOWN_MAX, name, why.text, why.position);
    enum gm_status rc = GM_OK;
    if (!json_is_object(root))
        rc = gm_fail(err, GM_INVALID, "the arguments of \"%.*s\" must be a JSON object", SHOWN_MAX,
                     name);
    else if (json_object_get(root, "tool_name") != NULL)
        rc = gm_fail(err, GM_INVALID,
                     "the arguments of \"%.*s\" hold tool_name; it belongs to the call, leave it "
                     "out",
                     SHOWN_MAX, name);
    *empty = json_object_size(root) == 0;
    json_decref(root);
    return rc;
}

/* Bytes of the JSON string that starts at text[0] == '"', with both quotes. The text is valid. */
static size_t string_length(const char *text, size_t len)
{
    size_t at = 1;
    while (at < len && text[at] != '"')
        at += text[at] == '\\' ? 2 : 1;
    return at < len ? at + 1 : len;
}

/* Copies valid JSON without its white space; ", " and ": " stand between the parts. */
static enum gm_status put_respaced(struct gm_buf *out, const char *text, size_t len,
                                   struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    for (size_t at = 0; at < len && rc == GM_OK;) {
        size_t part = text[at] == '"' ? string_length(text + at, len - at) : 1;
        bool blank = text[at] == ' ' || text[at] == '\t' || text[at] == '\n' || text[at] == '\r';
        if (!blank)
            rc = gm_buf_append(out, text + at, part, err);
        if (rc == GM_OK && (text[at] == ',' || text[at] == ':'))
            rc = gm_buf_append(out, " ", 1, err);
        at += part;
    }
    return rc;
}

/* A name with its quotes, non-ASCII characters as they are. */
static enum gm_status put_name(struct gm_buf *out, const char *name, struct gm_err *err)
{
    json_t *value = json_string(name);
    char *text = value != NULL ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
    enum gm_status rc = text != NULL ? gm_buf_append_text(out, text, err)
                                     : gm_fail(err, GM_INVALID, "a tool's name is not UTF-8");
    free(text);
    json_decref(value);
    return rc;
}

enum gm_status gm_tooltext_call(const char *name, const char *arguments, size_t arguments_len,
                                struct gm_buf *out, struct gm_err *err)
{
    size_t name_len = name != NULL ? strlen(name) : 0;
    bool empty = true;
    if (name_len == 0 || name_len > GM_TOOL_NAME_BYTES_MAX)
        return gm_fail(err, GM_INVALID, "a tool call needs a name of 1 to %d bytes",
                       GM_TOOL_NAME_BYTES_MAX);
    enum gm_status rc = GM_OK;
    if (arguments_len > 0)
        rc = check_arguments(name, arguments, arguments_len, &empty, err);
    if (rc == GM_OK)
        rc = gm_buf_append_text(out, "{\"tool_name\": ", err);
    if (rc == GM_OK)
        rc = put_name(out, name, err);
    if (rc != GM_OK)
        return rc;
    if (empty)
        return gm_buf_append_text(out, "}", err);
    const char *open = memchr(arguments, '{', arguments_len);
    size_t from = (size_t)(open - arguments) + 1;
    rc = gm_buf_append_text(out, ", ", err);
    if (rc == GM_OK)
        rc = put_respaced(out, arguments + from, arguments_len - from, err);
    return rc;
}
