/* text.h - bytes and text: a growing buffer with a ceiling, UTF-8, JSON escapes, strict numbers.
 *
 * Owns:      struct gm_buf and the only number parsers of the project.
 * Does not:  parse JSON, know tokens (vocab.h), or depend on the process's locale.
 */
#ifndef GM_BASE_TEXT_H
#define GM_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

/* ---- growing buffer ------------------------------------------------------------------------ */

/* A zeroed gm_buf has ceiling 0 and refuses every byte: use GM_BUF(bytes_max). */
struct gm_buf {
    char *data; /* NULL until the first byte; then data[len] is always 0 */
    size_t len; /* bytes in use */
    size_t cap; /* bytes allocated, with the ending 0 */
    size_t max; /* ceiling of len */
};

#define GM_BUF(bytes_max) ((struct gm_buf){ NULL, 0, 0, (bytes_max) })

/* All of these: GM_EXHAUSTED when len would pass max or memory is out; the buffer then holds what
 * it held before.                                                                              */
enum gm_status gm_buf_reserve(struct gm_buf *b, size_t extra, struct gm_err *err);
enum gm_status gm_buf_append(struct gm_buf *b, const void *bytes, size_t n, struct gm_err *err);
enum gm_status gm_buf_append_text(struct gm_buf *b, const char *text, struct gm_err *err);
enum gm_status gm_buf_printf(struct gm_buf *b, struct gm_err *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Drops the first n bytes (n > len counts as len); keeps the memory. */
void gm_buf_drop(struct gm_buf *b, size_t n);

/* Empties without giving memory back. */
void gm_buf_clear(struct gm_buf *b);

/* Gives the memory back; keeps the ceiling, so the buffer can be used again. Idempotent. */
void gm_buf_free(struct gm_buf *b);

/* The text as a C string, "" when empty; valid until the next change of b. */
const char *gm_buf_text(const struct gm_buf *b);

/* ---- UTF-8 (Unicode 15, table 3-7: no overlong forms, no surrogates, at most U+10FFFF) ------- */

/* Looks at the first character of n bytes. Returns its length 1..4 with *code set (code may be
 * NULL); 0 when the bytes end inside a character that is right so far (or n is 0); -k when the
 * first k bytes are the longest wrong beginning, to be replaced by one U+FFFD.                  */
int gm_utf8_next(const void *bytes, size_t n, uint32_t *code);

/* Offset of the first byte of the first wrong or cut character; n when all is valid. */
size_t gm_utf8_bad(const void *bytes, size_t n);

/* Writes 1..4 bytes and returns how many; 0 for a code that is no character. */
int gm_utf8_put(uint32_t code, char out[4]);

/* ---- JSON ---------------------------------------------------------------------------------- */

/* Appends n bytes as a JSON string with its quotes, pure ASCII: \uXXXX with surrogate pairs, the
 * short escapes where JSON has them; each wrong UTF-8 part becomes \ufffd. Errors as gm_buf_*. */
enum gm_status gm_buf_append_json(struct gm_buf *b, const void *bytes, size_t n,
                                  struct gm_err *err);

/* ---- strict numbers: the whole string, no white space, no locale ----------------------------- */

/* Decimal with an optional '-' ('+' is refused). GM_INVALID: not a number; GM_RANGE: outside
 * [min, max]. *out is written only on GM_OK.                                                   */
enum gm_status gm_parse_i64(const char *text, int64_t min, int64_t max, int64_t *out,
                            struct gm_err *err);
enum gm_status gm_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *out,
                            struct gm_err *err);

/* Decimal with optional fraction and exponent; no inf, nan or hexadecimal. Errors as above. */
enum gm_status gm_parse_f64(const char *text, double min, double max, double *out,
                            struct gm_err *err);

/* "30" and "30s" seconds, "250ms", "5m", "2h", "7d" -> milliseconds >= 0. Errors as above. */
enum gm_status gm_parse_duration_ms(const char *text, int64_t *out_ms, struct gm_err *err);

/* Levenshtein distance of two short words, at most `limit` + 1; for "did you mean". */
size_t gm_text_distance(const char *a, const char *b, size_t limit);

#endif
