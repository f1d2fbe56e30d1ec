/* json.c - the strict JSON reader: recursive descent with a depth limit into one array of nodes.
 *
 * Owns:      the nodes (an array that grows) and one block for all decoded texts.
 * Does not:  accept comments, trailing commas, NaN, or anything else beyond RFC 8259.
 */
#include "common/model/json.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/text.h"

enum { NODES_FIRST = 64 };

struct gm_json {
    struct gm_json_node *nodes; /* [0] is the root */
    uint32_t n, cap;
    char *texts; /* decoded texts are never longer than their source */
};

struct reader {
    struct gm_json *json;
    const char *bytes;
    size_t n, at;
    char *texts;
    struct gm_err *err;
};

static enum gm_status wrong(struct reader *r, const char *what)
{
    return gm_fail(r->err, GM_INVALID, "the JSON text is wrong at byte %zu: %s", r->at, what);
}

static int peek(const struct reader *r)
{
    return r->at < r->n ? (unsigned char)r->bytes[r->at] : -1;
}

static void skip_space(struct reader *r)
{
    while (r->at < r->n && memchr(" \t\r\n", r->bytes[r->at], 4))
        r->at++;
}

static enum gm_status add_node(struct reader *r, uint32_t *number)
{
    struct gm_json *j = r->json;
    if (j->n == j->cap) {
        uint32_t cap = j->cap ? j->cap * 2 : NODES_FIRST;
        if (cap > GM_JSON_NODES_MAX)
            return gm_fail(r->err, GM_EXHAUSTED, "the JSON text has more than %d values",
                           (int)GM_JSON_NODES_MAX);
        struct gm_json_node *nodes = realloc(j->nodes, cap * sizeof *nodes);
        if (!nodes)
            return gm_fail(r->err, GM_EXHAUSTED, "no memory for a JSON text");
        j->nodes = nodes;
        j->cap = cap;
    }
    memset(&j->nodes[j->n], 0, sizeof j->nodes[0]);
    *number = j->n++;
    return GM_OK;
}

/* ---- texts -----------------------------------------------------------------------------------
 */

static enum gm_status read_hex4(struct reader *r, uint32_t *code)
{
    static const char digits[] = "0123456789abcdef";
    *code = 0;
    for (int i = 0; i < 4; i++) {
        int c = peek(r);
        const char *digit = c > 0 ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
        if (!digit)
            return wrong(r, "expected four hexadecimal digits");
        *code = *code * 16 + (uint32_t)(digit - digits);
        r->at++;
    }
    return GM_OK;
}

/* Behind "\u": a character, from two halves where it needs them. */
static enum gm_status read_unicode(struct reader *r)
{
    uint32_t code, low;
    enum gm_status st = read_hex4(r, &code);
    if (st != GM_OK)
        return st;
    if (code >= 0xd800 && code < 0xdc00) {
        if (r->n - r->at < 2 || r->bytes[r->at] != '\\' || r->bytes[r->at + 1] != 'u')
            return wrong(r, "half of a surrogate pair");
        r->at += 2;
        st = read_hex4(r, &low);
        if (st != GM_OK)
            return st;
        if (low < 0xdc00 || low > 0xdfff)
            return wrong(r, "half of a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    char utf8[4];
    int bytes = gm_utf8_put(code, utf8);
    if (bytes == 0 || code == 0)
        return wrong(r, "an escape that is no character");
    memcpy(r->texts, utf8, (size_t)bytes);
    r->texts += bytes;
    return GM_OK;
}

static enum gm_status read_escape(struct reader *r)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = peek(r);
    r->at++;
    if (c == 'u')
        return read_unicode(r);
    const char *found = c > 0 ? strchr(from, c) : NULL;
    if (!found) {
        r->at--;
        return wrong(r, "an unknown escape");
    }
    *r->texts++ = to[found - from];
    return GM_OK;
}

static enum gm_status read_text(struct reader *r, const char **out)
{
    if (peek(r) != '"')
        return wrong(r, "expected a text in quotes");
    r->at++;
    *out = r->texts;
    for (;;) {
        size_t start = r->at;
        int c = peek(r);
        while (c >= 0x20 && c != '"' && c != '\\') {
            r->at++;
            c = peek(r);
        }
        size_t run = r->at - start;
        memcpy(r->texts, r->bytes + start, run);
        r->texts += run;
        if (c < 0x20)
            return wrong(r, c < 0 ? "the text does not end" : "a control character in a text");
        r->at++;
        if (c == '"')
            break;
        enum gm_status st = read_escape(r);
        if (st != GM_OK)
            return st;
    }
    *r->texts++ = '\0';
    return GM_OK;
}

/* ---- numbers and words -------------------------------------------------------------------------
 */

static size_t digits(struct reader *r)
{
    size_t start = r->at;
    while (peek(r) >= '0' && peek(r) <= '9')
        r->at++;
    return r->at - start;
}

static enum gm_status read_number(struct reader *r, const char **out)
{
    size_t start = r->at;
    if (peek(r) == '-')
        r->at++;
    bool zero = peek(r) == '0';
    size_t whole = digits(r);
    if (whole == 0 || (zero && whole > 1))
        return wrong(r, "a malformed number");
    if (peek(r) == '.') {
        r->at++;
        if (digits(r) == 0)
            return wrong(r, "a malformed number");
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        r->at++;
        if (peek(r) == '+' || peek(r) == '-')
            r->at++;
        if (digits(r) == 0)
            return wrong(r, "a malformed number");
    }
    size_t len = r->at - start;
    if (len > GM_JSON_NUMBER_MAX)
        return wrong(r, "a number of too many digits");
    *out = r->texts;
    memcpy(r->texts, r->bytes + start, len);
    r->texts[len] = '\0';
    r->texts += len + 1;
    return GM_OK;
}

static enum gm_status read_word(struct reader *r, enum gm_json_kind *kind)
{
    static const struct {
        const char *word;
        enum gm_json_kind kind;
    } words[] = { { "null", GM_JSON_NULL }, { "true", GM_JSON_TRUE }, { "false", GM_JSON_FALSE } };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t len = strlen(words[i].word);
        if (r->n - r->at >= len && memcmp(r->bytes + r->at, words[i].word, len) == 0) {
            r->at += len;
            *kind = words[i].kind;
            return GM_OK;
        }
    }
    return wrong(r, "expected a value");
}

/* ---- values ----------------------------------------------------------------------------------
 */

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static enum gm_status check_keys(struct reader *r, uint32_t object)
{
    const struct gm_json_node *nodes = r->json->nodes;
    uint32_t n = nodes[object].n, used = 0;
    if (n < 2)
        return GM_OK;
    const char **keys = malloc(n * sizeof *keys);
    if (!keys)
        return gm_fail(r->err, GM_EXHAUSTED, "no memory for a JSON text");
    for (uint32_t i = nodes[object].first; i; i = nodes[i].next)
        keys[used++] = nodes[i].key;
    qsort(keys, used, sizeof *keys, compare_texts);
    enum gm_status st = GM_OK;
    for (uint32_t i = 1; i < used && st == GM_OK; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0)
            st = gm_fail(r->err, GM_INVALID, "the JSON text has the key \"%.80s\" twice", keys[i]);
    free(keys);
    return st;
}

static enum gm_status read_value(struct reader *r, int depth, const char *key, uint32_t *number);

/* Behind the opening bracket: elements or members up to `close`. */
static enum gm_status read_members(struct reader *r, int depth, uint32_t parent, char close)
{
    uint32_t last = 0;
    skip_space(r);
    if (peek(r) == close) {
        r->at++;
        return GM_OK;
    }
    for (;;) {
        const char *key = NULL;
        uint32_t child;
        skip_space(r);
        if (close == '}') {
            enum gm_status st = read_text(r, &key);
            if (st != GM_OK)
                return st;
            skip_space(r);
            if (peek(r) != ':')
                return wrong(r, "expected a colon");
            r->at++;
        }
        enum gm_status st = read_value(r, depth + 1, key, &child);
        if (st != GM_OK)
            return st;
        if (last)
            r->json->nodes[last].next = child;
        else
            r->json->nodes[parent].first = child;
        r->json->nodes[parent].n++;
        last = child;
        skip_space(r);
        int c = peek(r);
        r->at++;
        if (c == close)
            return close == '}' ? check_keys(r, parent) : GM_OK;
        if (c != ',') {
            r->at--;
            return wrong(r, "expected a comma or a closing bracket");
        }
    }
}

static enum gm_status read_value(struct reader *r, int depth, const char *key, uint32_t *number)
{
    enum gm_status st = add_node(r, number);
    if (st != GM_OK)
        return st;
    enum gm_json_kind kind = GM_JSON_NULL;
    const char *text = NULL;
    skip_space(r);
    int c = peek(r);
    if (c == '{' || c == '[') {
        if (depth >= GM_JSON_DEPTH_MAX)
            return wrong(r, "values are nested too deeply");
        r->json->nodes[*number].kind = c == '{' ? GM_JSON_OBJECT : GM_JSON_ARRAY;
        r->json->nodes[*number].key = key;
        r->at++;
        return read_members(r, depth, *number, c == '{' ? '}' : ']');
    }
    if (c == '"') {
        kind = GM_JSON_TEXT;
        st = read_text(r, &text);
    } else if (c == '-' || (c >= '0' && c <= '9')) {
        kind = GM_JSON_NUMBER;
        st = read_number(r, &text);
    } else {
        st = read_word(r, &kind);
    }
    struct gm_json_node *node = &r->json->nodes[*number];
    node->kind = kind;
    node->key = key;
    node->text = text;
    return st;
}

enum gm_status gm_json_parse(struct gm_json **out, const char *bytes, size_t n, struct gm_err *err)
{
    *out = NULL;
    if (n > GM_JSON_BYTES_MAX)
        return gm_fail(err, GM_EXHAUSTED, "the JSON text is longer than %zu bytes",
                       GM_JSON_BYTES_MAX);
    size_t bad = gm_utf8_bad(bytes, n);
    if (bad != n)
        return gm_fail(err, GM_INVALID, "the JSON text is not UTF-8 at byte %zu", bad);
    struct gm_json *json = calloc(1, sizeof *json);
    /* Every text has two quotes in the source and one ending 0 here; a number gains one byte but
     * is followed by a separator, except at the very end. */
    char *texts = malloc(n + 2);
    if (!json || !texts) {
        free(json);
        free(texts);
        return gm_fail(err, GM_EXHAUSTED, "no memory for a JSON text");
    }
    json->texts = texts;
    struct reader r = { json, bytes, n, 0, texts, err };
    uint32_t root;
    enum gm_status st = read_value(&r, 0, NULL, &root);
    skip_space(&r);
    if (st == GM_OK && r.at != n)
        st = wrong(&r, "there is more behind the value");
    if (st != GM_OK) {
        gm_json_free(&json);
        return st;
    }
    *out = json;
    return GM_OK;
}

void gm_json_free(struct gm_json **json)
{
    if (!*json)
        return;
    free((*json)->nodes);
    free((*json)->texts);
    free(*json);
    *json = NULL;
}

/* ---- access ----------------------------------------------------------------------------------
 */

const struct gm_json_node *gm_json_root(const struct gm_json *json)
{
    return &json->nodes[0];
}

const struct gm_json_node *gm_json_first(const struct gm_json *json, const struct gm_json_node *at)
{
    return at->first ? &json->nodes[at->first] : NULL;
}

const struct gm_json_node *gm_json_next(const struct gm_json *json, const struct gm_json_node *at)
{
    return at->next ? &json->nodes[at->next] : NULL;
}

const struct gm_json_node *gm_json_get(const struct gm_json *json, const struct gm_json_node *at,
                                       const char *key)
{
    if (at->kind != GM_JSON_OBJECT)
        return NULL;
    for (at = gm_json_first(json, at); at; at = gm_json_next(json, at))
        if (strcmp(at->key, key) == 0)
            return at;
    return NULL;
}

enum gm_status gm_json_int(const struct gm_json_node *at, int64_t min, int64_t max, int64_t *out,
                           struct gm_err *err)
{
    if (at->kind != GM_JSON_NUMBER)
        return gm_fail(err, GM_INVALID, "%.80s is no number", at->key ? at->key : "an element");
    return gm_parse_i64(at->text, min, max, out, err);
}

enum gm_status gm_json_real(const struct gm_json_node *at, double min, double max, double *out,
                            struct gm_err *err)
{
    if (at->kind != GM_JSON_NUMBER)
        return gm_fail(err, GM_INVALID, "%.80s is no number", at->key ? at->key : "an element");
    return gm_parse_f64(at->text, min, max, out, err);
}
