/* text.c - the growing buffer, UTF-8, JSON escapes and strict numbers of text.h.
 *
 * Owns:      nothing between calls.
 * Does not:  use the process's locale: numbers are read in the C locale whatever was set.
 * Source:    UTF-8 from the Unicode Standard 15, table 3-7 and "maximal subparts" of chapter 3.9;
 *            JSON from RFC 8259, section 7.
 */
#include "common/base/text.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BUF_FIRST_BYTES = 64,   /* first allocation of a buffer */
    NUMBER_BYTES_MAX = 400, /* longest text read as a number; DBL_MAX in full has 309 digits */
    SHOWN_MAX = 60,         /* bytes of a wrong value shown in a sentence */
    WORD_MAX = 64,          /* longest word compared by gm_text_distance */
};

/* ---- growing buffer ------------------------------------------------------------------------ */

enum gm_status gm_buf_reserve(struct gm_buf *b, size_t extra, struct gm_err *err)
{
    if (b->len > b->max || extra > b->max - b->len || b->max == SIZE_MAX)
        return gm_fail(err, GM_EXHAUSTED, "%zu more bytes do not fit: %zu of at most %zu are used",
                       extra, b->len, b->max);
    size_t need = b->len + extra + 1;
    if (need <= b->cap)
        return GM_OK;
    size_t cap = b->cap < BUF_FIRST_BYTES ? BUF_FIRST_BYTES : b->cap;
    while (cap < need)
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    if (cap > b->max + 1)
        cap = b->max + 1;
    char *data = realloc(b->data, cap);
    if (data == NULL)
        return gm_fail(err, GM_EXHAUSTED, "out of memory for a buffer of %zu bytes", cap);
    b->data = data;
    b->cap = cap;
    b->data[b->len] = '\0';
    return GM_OK;
}

enum gm_status gm_buf_append(struct gm_buf *b, const void *bytes, size_t n, struct gm_err *err)
{
    enum gm_status rc = gm_buf_reserve(b, n, err);
    if (rc != GM_OK)
        return rc;
    if (n > 0)
        memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = '\0';
    return GM_OK;
}

enum gm_status gm_buf_append_text(struct gm_buf *b, const char *text, struct gm_err *err)
{
    return gm_buf_append(b, text, strlen(text), err);
}

enum gm_status gm_buf_printf(struct gm_buf *b, struct gm_err *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0)
        return gm_fail(err, GM_INVALID, "the text cannot be formatted: %s", strerror(errno));
    enum gm_status rc = gm_buf_reserve(b, (size_t)n, err);
    if (rc != GM_OK)
        return rc;
    va_start(args, format);
    (void)vsnprintf(b->data + b->len, (size_t)n + 1, format, args);
    va_end(args);
    b->len += (size_t)n;
    return GM_OK;
}

void gm_buf_drop(struct gm_buf *b, size_t n)
{
    if (n >= b->len) {
        gm_buf_clear(b);
        return;
    }
    memmove(b->data, b->data + n, b->len - n + 1);
    b->len -= n;
}

void gm_buf_clear(struct gm_buf *b)
{
    b->len = 0;
    if (b->data != NULL)
        b->data[0] = '\0';
}

void gm_buf_free(struct gm_buf *b)
{
    free(b->data);
    *b = GM_BUF(b->max);
}

const char *gm_buf_text(const struct gm_buf *b)
{
    return b->data == NULL ? "" : b->data;
}

/* ---- UTF-8 --------------------------------------------------------------------------------- */

/* Rows of table 3-7: leading bytes, length, allowed second byte. Later bytes are 80..BF. */
static const struct lead {
    uint8_t first, last, len, second_min, second_max, bits;
} leads[] = {
    { 0x00, 0x7F, 1, 0x00, 0x00, 0x7F }, { 0xC2, 0xDF, 2, 0x80, 0xBF, 0x1F },
    { 0xE0, 0xE0, 3, 0xA0, 0xBF, 0x0F }, { 0xE1, 0xEC, 3, 0x80, 0xBF, 0x0F },
    { 0xED, 0xED, 3, 0x80, 0x9F, 0x0F }, { 0xEE, 0xEF, 3, 0x80, 0xBF, 0x0F },
    { 0xF0, 0xF0, 4, 0x90, 0xBF, 0x07 }, { 0xF1, 0xF3, 4, 0x80, 0xBF, 0x07 },
    { 0xF4, 0xF4, 4, 0x80, 0x8F, 0x07 },
};

int gm_utf8_next(const void *bytes, size_t n, uint32_t *code)
{
    const uint8_t *p = bytes;
    if (n == 0)
        return 0;
    const struct lead *row = NULL;
    for (size_t i = 0; i < sizeof leads / sizeof leads[0] && row == NULL; i++)
        if (p[0] >= leads[i].first && p[0] <= leads[i].last)
            row = &leads[i];
    if (row == NULL)
        return -1;
    uint32_t value = p[0] & row->bits;
    for (int i = 1; i < row->len; i++) {
        if ((size_t)i >= n)
            return 0;
        uint8_t low = i == 1 ? row->second_min : 0x80;
        uint8_t high = i == 1 ? row->second_max : 0xBF;
        if (p[i] < low || p[i] > high)
            return -i;
        value = value << 6 | (p[i] & 0x3F);
    }
    if (code != NULL)
        *code = value;
    return row->len;
}

size_t gm_utf8_bad(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    size_t at = 0;
    while (at < n) {
        int len = p[at] < 0x80 ? 1 : gm_utf8_next(p + at, n - at, NULL);
        if (len <= 0)
            break;
        at += (size_t)len;
    }
    return at;
}

int gm_utf8_put(uint32_t code, char out[4])
{
    static const uint8_t marks[] = { 0, 0, 0xC0, 0xE0, 0xF0 };
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return 0;
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    int len = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    out[0] = (char)(marks[len] | code);
    return len;
}

/* ---- JSON ---------------------------------------------------------------------------------- */

/* Writes one character's escape into out (at least 13 bytes); returns its length. */
static int json_escape(uint32_t code, char *out)
{
    static const char plain[] = "\"\\\b\f\n\r\t";
    static const char letters[] = "\"\\bfnrt";
    const char *at = code != 0 && code < 0x80 ? strchr(plain, (int)code) : NULL;
    if (at != NULL) {
        out[0] = '\\';
        out[1] = letters[at - plain];
        return 2;
    }
    if (code >= 0x20 && code < 0x7F) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x10000)
        return snprintf(out, 13, "\\u%04x", (unsigned)code);
    code -= 0x10000;
    return snprintf(out, 13, "\\u%04x\\u%04x", (unsigned)(0xD800 + (code >> 10)),
                    (unsigned)(0xDC00 + (code & 0x3FF)));
}

enum gm_status gm_buf_append_json(struct gm_buf *b, const void *bytes, size_t n, struct gm_err *err)
{
    const uint8_t *p = bytes;
    size_t start = b->len;
    enum gm_status rc = gm_buf_append(b, "\"", 1, err);
    for (size_t at = 0; at < n && rc == GM_OK;) {
        uint32_t code = 0xFFFD;
        int len = gm_utf8_next(p + at, n - at, &code);
        size_t step = len > 0 ? (size_t)len : len < 0 ? (size_t)-len : n - at;
        char out[16];
        int wrote = json_escape(len > 0 ? code : 0xFFFD, out);
        rc = gm_buf_append(b, out, (size_t)wrote, err);
        at += step;
    }
    if (rc == GM_OK)
        rc = gm_buf_append(b, "\"", 1, err);
    if (rc != GM_OK) {
        b->len = start;
        if (b->data != NULL)
            b->data[start] = '\0';
    }
    return rc;
}

/* ---- strict numbers -------------------------------------------------------------------------- */

/* Reads digits only into *out. GM_INVALID: none or another character; GM_RANGE: too large. */
static enum gm_status digits_read(const char *text, size_t n, uint64_t *out)
{
    uint64_t value = 0;
    bool over = false;
    if (n == 0)
        return GM_INVALID;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return GM_INVALID;
        over |= __builtin_mul_overflow(value, UINT64_C(10), &value);
        over |= __builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value);
    }
    *out = value;
    return over ? GM_RANGE : GM_OK;
}

static enum gm_status not_a_number(const char *text, const char *what, struct gm_err *err)
{
    return gm_fail(err, GM_INVALID, "\"%.*s\" is not %s", SHOWN_MAX, text, what);
}

enum gm_status gm_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *out,
                            struct gm_err *err)
{
    uint64_t value = 0;
    bool minus = text[0] == '-';
    enum gm_status rc = digits_read(text + minus, strlen(text + minus), &value);
    if (rc == GM_INVALID)
        return not_a_number(text, "a whole number", err);
    if (rc != GM_OK || (minus && value != 0) || value < min || value > max)
        return gm_fail(err, GM_RANGE, "%.*s is not between %llu and %llu", SHOWN_MAX, text,
                       (unsigned long long)min, (unsigned long long)max);
    *out = value;
    return GM_OK;
}

enum gm_status gm_parse_i64(const char *text, int64_t min, int64_t max, int64_t *out,
                            struct gm_err *err)
{
    uint64_t size = 0;
    bool minus = text[0] == '-';
    enum gm_status rc = digits_read(text + minus, strlen(text + minus), &size);
    if (rc == GM_INVALID)
        return not_a_number(text, "a whole number", err);
    bool fits = rc == GM_OK && size <= (uint64_t)INT64_MAX + (minus ? 1 : 0);
    int64_t value = 0;
    if (fits)
        value = !minus ? (int64_t)size : size == 0 ? 0 : -(int64_t)(size - 1) - 1;
    if (!fits || value < min || value > max)
        return gm_fail(err, GM_RANGE, "%.*s is not between %lld and %lld", SHOWN_MAX, text,
                       (long long)min, (long long)max);
    *out = value;
    return GM_OK;
}

/* True for [-]digits[.digits][e[+-]digits] with at least one digit before the exponent. */
static bool is_decimal(const char *text)
{
    const char *p = text + (text[0] == '-');
    size_t whole = strspn(p, "0123456789");
    p += whole;
    size_t part = 0;
    if (*p == '.') {
        part = strspn(p + 1, "0123456789");
        p += 1 + part;
    }
    if (whole + part == 0)
        return false;
    if (*p == 'e' || *p == 'E') {
        p++;
        p += *p == '+' || *p == '-';
        size_t power = strspn(p, "0123456789");
        if (power == 0)
            return false;
        p += power;
    }
    return *p == '\0' && p - text <= NUMBER_BYTES_MAX;
}

enum gm_status gm_parse_f64(const char *text, double min, double max, double *out,
                            struct gm_err *err)
{
    if (!is_decimal(text))
        return not_a_number(text, "a number", err);
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* a static object of the C library */
    if (c == (locale_t)0)
        return gm_fail(err, GM_EXHAUSTED, "out of memory for reading a number");
    double value = strtod_l(text, NULL, c);
    freelocale(c);
    if (!isfinite(value) || !(value >= min && value <= max))
        return gm_fail(err, GM_RANGE, "%.*s is not between %g and %g", SHOWN_MAX, text, min, max);
    *out = value;
    return GM_OK;
}

enum gm_status gm_parse_duration_ms(const char *text, int64_t *out_ms, struct gm_err *err)
{
    static const struct unit {
        const char *name;
        uint64_t ms;
    } units[] = {
        { "", 1000 },   { "ms", 1 },      { "s", 1000 },
        { "m", 60000 }, { "h", 3600000 }, { "d", 86400000 },
    };
    size_t n = strspn(text, "0123456789");
    const struct unit *unit = NULL;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(text + n, units[i].name) == 0)
            unit = &units[i];
    uint64_t count = 0;
    enum gm_status rc = unit == NULL ? GM_INVALID : digits_read(text, n, &count);
    if (rc == GM_INVALID)
        return not_a_number(text, "a duration like 30, 250ms, 30s, 5m, 2h or 7d", err);
    uint64_t ms = 0;
    if (rc != GM_OK || __builtin_mul_overflow(count, unit->ms, &ms) || ms > INT64_MAX)
        return gm_fail(err, GM_RANGE, "the duration %.*s is too long", SHOWN_MAX, text);
    *out_ms = (int64_t)ms;
    return GM_OK;
}

size_t gm_text_distance(const char *a, const char *b, size_t limit)
{
    size_t na = strlen(a);
    size_t nb = strlen(b);
    size_t gap = na > nb ? na - nb : nb - na;
    if (na > WORD_MAX || nb > WORD_MAX || gap > limit)
        return limit + 1;
    size_t row[WORD_MAX + 1]; /* Wagner-Fischer, one row */
    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t corner = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = corner + (a[i - 1] != b[j - 1]);
            corner = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[nb] <= limit ? row[nb] : limit + 1;
}
