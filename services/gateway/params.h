/* params.h - every parameter of a request body: one table for parsing, the docs and openapi.json.
 *
 * Owns:      names, where they belong, what becomes of them, their JSON types, a line of text each.
 * Does not:  read JSON: `read` is a function of read.h, called by request.c.
 */
#ifndef GM_GATEWAY_PARAMS_H
#define GM_GATEWAY_PARAMS_H

#include <stdbool.h>
#include <stddef.h>

#include "services/gateway/request.h"

enum gm_param_use {
    GM_PARAM_HONOURED, /* changes what happens */
    GM_PARAM_ACCEPTED, /* taken without effect: any value of the type, or one of `only` */
    GM_PARAM_REFUSED,  /* 400 with its name, whatever the value (null counts as absent) */
};

/* JSON types, one bit each. A whole number written as 1.0 is an integer. */
enum gm_json_type {
    GM_JSON_TEXT = 1 << 0,
    GM_JSON_NUMBER = 1 << 1,
    GM_JSON_INTEGER = 1 << 2,
    GM_JSON_BOOL = 1 << 3,
    GM_JSON_ARRAY = 1 << 4,
    GM_JSON_OBJECT = 1 << 5,
    GM_JSON_ANY = (1 << 6) - 1,
};

struct gm_reading; /* read.h */
struct json_t;

/* Takes the value into the request; false with the problem filled. */
typedef bool gm_param_read(struct gm_reading *in, const char *name, struct json_t *value);

struct gm_param {
    const char *name;
    unsigned apis; /* enum gm_api, or-ed */
    enum gm_param_use use;
    unsigned types;      /* enum gm_json_type, or-ed */
    const char *only;    /* accepted: the values taken, as JSON texts parted by '|'; NULL: any */
    const char *doc;     /* what it does, with its range; of a refused one: why, or what instead */
    gm_param_read *read; /* honoured (and metadata's check); NULL else */
    bool ours;           /* no parameter of OpenAI's: an extension */
    bool required;
};

/* The table, in the order in which parameters are read and documented. A name may stand in several
 * rows, of different APIs. */
extern const struct gm_param gm_params[];
extern const size_t gm_params_n;

/* The row of a name in an API (one bit); NULL: there is none. */
const struct gm_param *gm_param_find(enum gm_api api, const char *name);

/* The nearest name of the API, for "did you mean"; NULL when none is near. */
const char *gm_param_near(enum gm_api api, const char *name);

/* "text", "integer or array": the types in words, into out[cap]. Returns out. */
const char *gm_param_types(unsigned types, char *out, size_t cap);

#endif
