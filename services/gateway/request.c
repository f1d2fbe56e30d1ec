/* request.c - a body into a request: size, UTF-8, JSON, then each parameter by the table.
 *
 * Owns:      the order of the checks, the life of the parsed JSON, what readers share.
 * Does not:  know single parameters: params.c names them, the read_*.c files read them.
 */
#include "services/gateway/read.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void gm_request_limits_default(struct gm_request_limits *limits)
{
    *limits = (struct gm_request_limits){
        .bytes = GM_REQUEST_BYTES_MAX,
        .nodes = GM_REQUEST_NODES_MAX,
        .messages = GM_REQUEST_MESSAGES_MAX,
        .prompts = GM_REQUEST_PROMPTS_MAX,
        .prompt_bytes = GM_REQUEST_PROMPT_BYTES_MAX,
        .n = GM_REQUEST_N_MAX,
    };
}

bool gm_request_id_ok(const char *id, size_t len)
{
    if (len < 1 || len > GM_REQUEST_ID_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = id[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && !(c >= '0' && c <= '9') && c != '.' && c != '_' && c != '-')
            return false;
    }
    return true;
}

/* ---- what readers share ---------------------------------------------------------------------- */

bool gm_read_no_memory(struct gm_reading *in)
{
    return gm_problem_set(in->why, 500, "out_of_memory", NULL,
                          "no memory for the request; try again later");
}

void gm_read_name(char *out, size_t cap, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(out, cap, format, args);
    va_end(args);
}

bool gm_json_whole(const json_t *value, int64_t *out)
{
    static const double whole_max = 9007199254740992.0; /* 2^53: above it reals have gaps */
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    double v = json_real_value(value);
    if (!json_is_real(value) || fabs(v) >= whole_max || floor(v) != v)
        return false;
    *out = (int64_t)v;
    return true;
}

bool gm_read_whole(struct gm_reading *in, const char *name, const json_t *value, int64_t range[2],
                   int64_t *out)
{
    if (!gm_json_whole(value, out))
        return gm_problem_set(in->why, 400, "invalid_type", name, "%s must be a whole number",
                              name);
    if (*out >= range[0] && *out <= range[1])
        return true;
    return gm_problem_set(in->why, 400, "invalid_value", name, "%s is %lld; give %lld to %lld",
                          name, (long long)*out, (long long)range[0], (long long)range[1]);
}

char *gm_read_copy(struct gm_reading *in, const json_t *text, size_t *len)
{
    size_t n = json_string_length(text);
    char *copy = malloc(n + 1);
    if (copy == NULL) {
        gm_read_no_memory(in);
        return NULL;
    }
    memcpy(copy, json_string_value(text), n);
    copy[n] = '\0';
    *len = n;
    return copy;
}

char *gm_read_dump(struct gm_reading *in, const json_t *value, size_t *len)
{
    char *text = json_dumps(value, JSON_COMPACT);
    if (text == NULL)
        gm_read_no_memory(in);
    else
        *len = strlen(text);
    return text;
}

/* ---- one parameter --------------------------------------------------------------------------- */

static unsigned type_of(const json_t *value)
{
    int64_t whole;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return GM_JSON_OBJECT;
    case JSON_ARRAY:
        return GM_JSON_ARRAY;
    case JSON_STRING:
        return GM_JSON_TEXT;
    case JSON_TRUE:
    case JSON_FALSE:
        return GM_JSON_BOOL;
    case JSON_INTEGER:
    case JSON_REAL:
        return gm_json_whole(value, &whole) ? GM_JSON_NUMBER | GM_JSON_INTEGER : GM_JSON_NUMBER;
    default:
        return 0;
    }
}

/* Whether the value is one of the texts parted by '|'. */
static bool is_listed(const json_t *value, const char *only)
{
    bool found = false;
    while (*only != '\0' && !found) {
        size_t n = strcspn(only, "|");
        json_t *each = json_loadb(only, n, JSON_DECODE_ANY, NULL);
        found = each != NULL && json_equal(each, value);
        json_decref(each);
        only += n + (only[n] == '|');
    }
    return found;
}

static bool read_param(struct gm_reading *in, const struct gm_param *row, json_t *value)
{
    char words[96];
    if (row->use == GM_PARAM_REFUSED)
        return gm_problem_set(in->why, 400, "unsupported_parameter", row->name,
                              "%s is not supported: %s", row->name, row->doc);
    unsigned is = type_of(value);
    if ((is & row->types) == 0)
        return gm_problem_set(in->why, 400, "invalid_type", row->name, "%s must be %s", row->name,
                              gm_param_types(row->types, words, sizeof words));
    if (row->only != NULL && !is_listed(value, row->only))
        return gm_problem_set(in->why, 400, "unsupported_value", row->name,
                              "this value of %s is not supported; leave it out, or give %s",
                              row->name, row->only);
    return row->read == NULL || row->read(in, row->name, value);
}

static bool refuse_unknown(struct gm_reading *in)
{
    const char *key;
    json_t *value;
    json_object_foreach(in->root, key, value)
    {
        if (json_is_null(value) || gm_param_find(in->r->api, key) != NULL)
            continue;
        const char *near = gm_param_near(in->r->api, key);
        return gm_problem_set(in->why, 400, "unknown_parameter", key,
                              "\"%.*s\" is no parameter that this server knows%s%s%s", GM_SHOWN_MAX,
                              key, near != NULL ? "; did you mean \"" : "",
                              near != NULL ? near : "", near != NULL ? "\"?" : "");
    }
    return true;
}

static bool read_all(struct gm_reading *in)
{
    if (!refuse_unknown(in))
        return false;
    for (size_t i = 0; i < gm_params_n; i++) {
        const struct gm_param *row = &gm_params[i];
        if ((row->apis & in->r->api) == 0)
            continue;
        json_t *value = json_object_get(in->root, row->name);
        if (value == NULL || json_is_null(value)) {
            if (row->required)
                return gm_problem_set(in->why, 400, "missing_required_parameter", row->name,
                                      "%s is missing; give it", row->name);
            continue;
        }
        if (!read_param(in, row, value))
            return false;
    }
    return gm_read_check(in);
}

/* ---- the body -------------------------------------------------------------------------------- */

static json_t *load(const char *body, size_t len, const struct gm_request_limits *limits,
                    struct gm_problem *why)
{
    json_error_t error;
    if (len > limits->bytes) {
        gm_problem_set(why, 413, "body_too_large", NULL, "the body has %zu bytes; at most %zu fit",
                       len, limits->bytes);
        return NULL;
    }
    size_t bad = gm_utf8_bad(body, len);
    if (bad != len) {
        gm_problem_set(why, 400, "invalid_utf8", NULL, "the body is not UTF-8 at byte %zu", bad);
        return NULL;
    }
    if (!gm_scan_json(body, len, limits->nodes, why))
        return NULL;
    json_t *root = json_loadb(body, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (root == NULL) {
        gm_problem_set(why, 400, "invalid_json", NULL, "the body is no JSON object: %s (byte %d)",
                       error.text, error.position);
        return NULL;
    }
    if (json_is_object(root))
        return root;
    json_decref(root);
    gm_problem_set(why, 400, "invalid_json", NULL, "the body must be a JSON object");
    return NULL;
}

bool gm_request_parse(struct gm_request *r, enum gm_api api, const char *body, size_t len,
                      const struct gm_request_limits *limits, struct gm_problem *why)
{
    memset(r, 0, sizeof *r);
    memset(why, 0, sizeof *why);
    r->api = api;
    r->n = 1;
    r->store = true;
    r->every = 1;
    gm_sampling_default(&r->sampling);
    struct gm_reading in = { .r = r, .limits = limits, .why = why, .top_logprobs = -1 };
    in.root = load(body != NULL ? body : "", len, limits, why);
    bool ok = in.root != NULL && read_all(&in);
    json_decref(in.root);
    if (!ok)
        gm_request_free(r);
    return ok;
}

void gm_request_free(struct gm_request *r)
{
    for (size_t i = 0; i < r->n_prompts; i++) {
        free(r->prompts[i].text);
        free(r->prompts[i].ids);
    }
    free(r->prompts);
    free(r->messages);
    free(r->instructions);
    free(r->metadata);
    memset(r, 0, sizeof *r);
}

/* ---- the whole conversation ------------------------------------------------------------------ */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* What stands between the brackets of an array's text, with a comma before it when it is not the
 * first in `out`. */
static enum gm_status append_inner(struct gm_buf *out, const char *text, size_t n,
                                   struct gm_err *err)
{
    while (n > 0 && is_blank(text[n - 1]))
        n--;
    while (n > 0 && is_blank(text[0])) {
        text++;
        n--;
    }
    if (n < 2 || text[0] != '[' || text[n - 1] != ']')
        return gm_fail(err, GM_INVALID, "the stored messages are no JSON array");
    text++;
    n -= 2;
    while (n > 0 && is_blank(text[0])) {
        text++;
        n--;
    }
    if (n == 0)
        return GM_OK;
    enum gm_status rc = GM_OK;
    if (out->data[out->len - 1] == '}')
        rc = gm_buf_append_text(out, ",", err);
    return rc == GM_OK ? gm_buf_append(out, text, n, err) : rc;
}

enum gm_status gm_request_messages(const struct gm_request *r, const char *history, size_t n,
                                   struct gm_buf *out, struct gm_err *err)
{
    enum gm_status rc = gm_buf_append_text(out, "[", err);
    if (rc == GM_OK && r->instructions != NULL) {
        rc = gm_buf_append_text(out, "{\"role\":\"system\",\"content\":", err);
        if (rc == GM_OK)
            rc = gm_buf_append_json(out, r->instructions, r->instructions_len, err);
        if (rc == GM_OK)
            rc = gm_buf_append_text(out, "}", err);
    }
    if (rc == GM_OK && n > 0)
        rc = append_inner(out, history, n, err);
    if (rc == GM_OK && r->messages != NULL)
        rc = append_inner(out, r->messages, r->messages_len, err);
    return rc == GM_OK ? gm_buf_append_text(out, "]", err) : rc;
}

/* The text of a content: itself, or its first part. */
static const char *content_text(const json_t *content)
{
    if (json_is_array(content))
        content = json_object_get(json_array_get(content, 0), "text");
    return json_string_value(content);
}

size_t gm_request_title(const struct gm_request *r, char out[GM_TITLE_BYTES_MAX + 1])
{
    json_t *all = r->messages ? json_loadb(r->messages, r->messages_len, JSON_ALLOW_NUL, NULL) : NULL;
    const char *text = NULL;
    size_t n = 0;
    for (size_t i = 0; !text && i < json_array_size(all); i++) {
        const json_t *m = json_array_get(all, i);
        const char *role = json_string_value(json_object_get(m, "role"));
        if (role && strcmp(role, "user") == 0)
            text = content_text(json_object_get(m, "content"));
    }
    text = text ? text + strspn(text, " \t\r\n") : "";
    n = strcspn(text, "\r\n");
    n = n < GM_TITLE_BYTES_MAX ? n : GM_TITLE_BYTES_MAX;
    n = gm_utf8_bad(text, n); /* a character that is cut goes */
    memcpy(out, text, n);
    out[n] = 0;
    json_decref(all);
    return n;
}
