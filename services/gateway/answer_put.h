/* answer_put.h - the small writers that all answers are made of.
 *
 * Owns:      struct gm_put: a buffer and the first failure, after which nothing is written.
 * Does not:  know any object of the API.
 */
#ifndef GM_GATEWAY_ANSWER_PUT_H
#define GM_GATEWAY_ANSWER_PUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/text.h"
#include "services/gateway/answer.h"

struct gm_put {
    struct gm_buf *b;
    struct gm_err *err;
    enum gm_status rc;
    size_t start; /* what gm_put_end goes back to after a failure */
};

struct gm_put gm_put_begin(struct gm_buf *b, struct gm_err *err);

/* Takes back what was written when anything failed; returns the first failure or GM_OK. */
enum gm_status gm_put_end(struct gm_put *p);

void gm_put_text(struct gm_put *p, const char *text);
void gm_put_format(struct gm_put *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* n bytes as they are. */
void gm_put_bytes(struct gm_put *p, const char *bytes, size_t n);

/* n bytes as a JSON string. */
void gm_put_string(struct gm_put *p, const char *bytes, size_t n);

/* `,"key":` without the comma after an opening bracket. key is plain ASCII. */
void gm_put_key(struct gm_put *p, const char *key);

/* Nothing after an opening bracket, else a comma. */
void gm_put_comma(struct gm_put *p);

/* "key":"text", or null when text is NULL; gm_put_optional then writes nothing at all. */
void gm_put_field(struct gm_put *p, const char *key, const char *text);
void gm_put_optional(struct gm_put *p, const char *key, const char *text);
void gm_put_count(struct gm_put *p, const char *key, int64_t value);
void gm_put_bool(struct gm_put *p, const char *key, bool value);

/* Makes printf's number the C locale's: what is no digit, sign or exponent becomes one point.
 * Returns the new length.                                                                       */
size_t gm_number_point(char *text, size_t n);

/* Significant digits with a point whatever the locale; `other` for infinities and NaN. */
enum { GM_FLOAT_DIGITS = 9, GM_DOUBLE_DIGITS = 15 };
void gm_put_digits(struct gm_put *p, double value, int digits, const char *other);

/* gm_put_digits with GM_FLOAT_DIGITS. */
void gm_put_number(struct gm_put *p, double value, const char *other);

/* As few digits as read back as the same float: 0.7 is 0.7, as a client wrote it. */
void gm_put_short(struct gm_put *p, float value, const char *other);

/* ---- parts that several objects share -------------------------------------------------------- */

/* -9999.0 for -inf and NaN. */
void gm_put_logprob(struct gm_put *p, float value);

/* The bytes of a token: its piece, or the name of a control token. */
const char *gm_put_token_bytes(const struct gm_vocab *v, int32_t id, size_t *len);

/* [{"token","logprob","bytes","top_logprobs"}, ...], as chat and responses list tokens. */
void gm_put_tokens(struct gm_put *p, const struct gm_vocab *v, const struct gm_answer_token *tokens,
                   size_t n);

/* True when the n bytes are one JSON value of that kind: '[' or '{'. */
bool gm_put_is_json(const char *bytes, size_t n, char open);

#endif
