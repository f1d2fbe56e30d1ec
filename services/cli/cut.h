/* cut.h - what the command line must know of a model file: its layers, its context, the cut.
 *
 * Owns:      struct gm_cut.
 * Does not:  show the model's own structs to the rest of the command line.
 */
#ifndef GM_CLI_CUT_H
#define GM_CLI_CUT_H

#include <stdint.h>

#include "common/base/err.h"

enum { GM_CUT_SHARDS_MAX = 128, GM_CUT_TEXT_MAX = 2048, GM_CUT_KV_TYPES = 4 };

struct gm_cut {
    int32_t layers, context; /* of the model */
    char variant[32];        /* "gemma3-270m", or "custom" */
    int32_t n;               /* shards */
    int32_t first[GM_CUT_SHARDS_MAX + 1];
    char text[GM_CUT_TEXT_MAX];           /* "0:6,6:12,12:18" */
    int64_t token_bytes[GM_CUT_KV_TYPES]; /* keys and values of a token in all layers, as f32, bf16,
                                             f16, q8 */
};

/* Reads the model's config and cuts its layers: by `layers` ("0:6,6:18") when that is not NULL,
 * else balanced into `shards` parts. Errors of the file as gm_gguf_open; GM_INVALID: a cut that
 * does not fit the model. */
enum gm_status gm_cut_make(struct gm_cut *cut, const char *model, int64_t shards,
                           const char *layers, struct gm_err *err);

/* Looks at the form alone: from 0 on, in order, without gaps. GM_INVALID says what is wrong. */
enum gm_status gm_cut_check_text(const char *layers, struct gm_err *err);

#endif
