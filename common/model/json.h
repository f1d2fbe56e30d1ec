/* json.h - a small strict JSON reader for the headers and configs that lie beside weights.
 *
 * Owns:      the tree of one document and its decoded texts.
 * Does not:  write JSON, or read what clients send (the services use a library for that).
 * Strict:    RFC 8259 only, UTF-8 checked, no zero byte in a text, no key twice in an object.
 */
#ifndef GM_MODEL_JSON_H
#define GM_MODEL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum {
    GM_JSON_DEPTH_MAX = 16, /* objects and arrays inside each other */
    GM_JSON_NODES_MAX = 1 << 21,
    GM_JSON_NUMBER_MAX = 40, /* characters of a number */
};
#define GM_JSON_BYTES_MAX ((size_t)32 << 20) /* a document */

enum gm_json_kind {
    GM_JSON_NULL,
    GM_JSON_FALSE,
    GM_JSON_TRUE,
    GM_JSON_NUMBER,
    GM_JSON_TEXT,
    GM_JSON_ARRAY,
    GM_JSON_OBJECT
};

struct gm_json_node {
    enum gm_json_kind kind;
    const char *key;      /* member of an object: its name; else NULL */
    const char *text;     /* GM_JSON_TEXT decoded; GM_JSON_NUMBER as written; else NULL */
    uint32_t n;           /* elements or members */
    uint32_t first, next; /* node numbers; 0: none */
};

struct gm_json; /* owns all nodes and texts */

/* Parses exactly one value of n bytes. GM_INVALID says what is wrong at which byte; GM_EXHAUSTED
 * for a document above the limits or no memory. The bytes are not needed afterwards. */
enum gm_status gm_json_parse(struct gm_json **out, const char *bytes, size_t n, struct gm_err *err);
void gm_json_free(struct gm_json **json); /* idempotent */

const struct gm_json_node *gm_json_root(const struct gm_json *json);
/* First and next element or member; NULL at the end (and for what has none). */
const struct gm_json_node *gm_json_first(const struct gm_json *json, const struct gm_json_node *at);
const struct gm_json_node *gm_json_next(const struct gm_json *json, const struct gm_json_node *at);
/* Member by name; NULL when absent or `at` is no object. */
const struct gm_json_node *gm_json_get(const struct gm_json *json, const struct gm_json_node *at,
                                       const char *key);

/* A number as whole (GM_INVALID for fractions and other kinds, GM_RANGE outside) or as double. */
enum gm_status gm_json_int(const struct gm_json_node *at, int64_t min, int64_t max, int64_t *out,
                           struct gm_err *err);
enum gm_status gm_json_real(const struct gm_json_node *at, double min, double max, double *out,
                            struct gm_err *err);

#endif
