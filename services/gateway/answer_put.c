/* answer_put.c - strings, numbers and tokens in JSON, one after the other.
 *
 * Owns:      the form of numbers and of a token's text and bytes.
 * Does not:  know where they stand.
 */
#include "services/gateway/answer_put.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT_MAX = 256, NUMBER_MAX = 40 };

struct gm_put gm_put_begin(struct gm_buf *b, struct gm_err *err)
{
    return (struct gm_put){ b, err, GM_OK, b->len };
}

enum gm_status gm_put_end(struct gm_put *p)
{
    if (p->rc != GM_OK && p->b->len > p->start) {
        p->b->len = p->start;
        p->b->data[p->start] = '\0';
    }
    return p->rc;
}

void gm_put_bytes(struct gm_put *p, const char *bytes, size_t n)
{
    if (p->rc == GM_OK)
        p->rc = gm_buf_append(p->b, bytes, n, p->err);
}

void gm_put_text(struct gm_put *p, const char *text)
{
    gm_put_bytes(p, text, strlen(text));
}

void gm_put_format(struct gm_put *p, const char *format, ...)
{
    char text[FORMAT_MAX];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text) {
        if (p->rc == GM_OK)
            p->rc = gm_fail(p->err, GM_INTERNAL, "a part of an answer has more than %d bytes",
                            FORMAT_MAX - 1);
        return;
    }
    gm_put_bytes(p, text, (size_t)n);
}

void gm_put_string(struct gm_put *p, const char *bytes, size_t n)
{
    if (p->rc == GM_OK)
        p->rc = gm_buf_append_json(p->b, bytes, n, p->err);
}

void gm_put_comma(struct gm_put *p)
{
    const char last = p->b->len > p->start ? p->b->data[p->b->len - 1] : '{';
    if (last != '{' && last != '[')
        gm_put_bytes(p, ",", 1);
}

void gm_put_key(struct gm_put *p, const char *key)
{
    gm_put_comma(p);
    gm_put_bytes(p, "\"", 1);
    gm_put_text(p, key);
    gm_put_bytes(p, "\":", 2);
}

void gm_put_field(struct gm_put *p, const char *key, const char *text)
{
    gm_put_key(p, key);
    if (text)
        gm_put_string(p, text, strlen(text));
    else
        gm_put_text(p, "null");
}

void gm_put_optional(struct gm_put *p, const char *key, const char *text)
{
    if (text)
        gm_put_field(p, key, text);
}

void gm_put_count(struct gm_put *p, const char *key, int64_t value)
{
    gm_put_key(p, key);
    gm_put_format(p, "%lld", (long long)value);
}

void gm_put_bool(struct gm_put *p, const char *key, bool value)
{
    gm_put_key(p, key);
    gm_put_text(p, value ? "true" : "false");
}

size_t gm_number_point(char *text, size_t n)
{
    size_t kept = 0;
    bool gap = false; /* a locale's point may have several bytes */
    for (size_t i = 0; i < n; i++) {
        const bool plain = memchr("0123456789+-e", text[i], 13) != NULL;
        if (plain || !gap)
            text[kept++] = plain ? text[i] : '.';
        gap = !plain;
    }
    return kept;
}

void gm_put_digits(struct gm_put *p, double value, int digits, const char *other)
{
    char text[NUMBER_MAX];
    if (!isfinite(value)) {
        gm_put_text(p, other);
        return;
    }
    const int n = snprintf(text, sizeof text, "%.*g", digits, value);
    gm_put_bytes(p, text, gm_number_point(text, (size_t)n));
}

void gm_put_number(struct gm_put *p, double value, const char *other)
{
    gm_put_digits(p, value, GM_FLOAT_DIGITS, other);
}

void gm_put_short(struct gm_put *p, float value, const char *other)
{
    char text[NUMBER_MAX];
    int digits = 1;
    for (; digits < GM_FLOAT_DIGITS; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    gm_put_digits(p, (double)value, digits, other);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

void gm_put_logprob(struct gm_put *p, float value)
{
    gm_put_number(p, (double)value, "-9999.0");
}

const char *gm_put_token_bytes(const struct gm_vocab *v, int32_t id, size_t *len)
{
    return gm_vocab_is_control(v, id) ? gm_vocab_name(v, id, len) : gm_vocab_piece(v, id, len);
}

/* "token", "logprob" and "bytes" of one id, the object left open. */
static void put_token(struct gm_put *p, const struct gm_vocab *v, int32_t id, float logprob)
{
    size_t n;
    const char *bytes = gm_put_token_bytes(v, id, &n);
    gm_put_comma(p);
    gm_put_text(p, "{");
    gm_put_key(p, "token");
    gm_put_string(p, bytes, n);
    gm_put_key(p, "logprob");
    gm_put_logprob(p, logprob);
    gm_put_key(p, "bytes");
    gm_put_text(p, "[");
    for (size_t i = 0; i < n; i++)
        gm_put_format(p, i ? ",%u" : "%u", (unsigned)(unsigned char)bytes[i]);
    gm_put_text(p, "]");
}

void gm_put_tokens(struct gm_put *p, const struct gm_vocab *v, const struct gm_answer_token *tokens,
                   size_t n)
{
    gm_put_text(p, "[");
    for (size_t i = 0; p->rc == GM_OK && i < n; i++) {
        const struct gm_answer_token *t = &tokens[i];
        put_token(p, v, t->id, t->has_logprob ? t->logprob : -INFINITY);
        gm_put_key(p, "top_logprobs");
        gm_put_text(p, "[");
        for (uint32_t k = 0; k < t->n_top; k++) {
            put_token(p, v, t->top[k].id, t->top[k].logprob);
            gm_put_text(p, "}");
        }
        gm_put_text(p, "]}");
    }
    gm_put_text(p, "]");
}

bool gm_put_is_json(const char *bytes, size_t n, char open)
{
    json_t *value = json_loadb(bytes, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    const bool fits = open == '[' ? json_is_array(value) : json_is_object(value);
    json_decref(value);
    return fits;
}
