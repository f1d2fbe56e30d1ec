/* synth_model.h - a model file with random weights: the shapes of a variant, a real vocabulary.
 *
 * Owns:      struct gm_synth, the names of the kinds of files.
 * Does not:  show the model's own structs to the rest of the command line.
 */
#ifndef GM_CLI_SYNTH_MODEL_H
#define GM_CLI_SYNTH_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

/* In the order of the table of recipes. */
#define GM_SYNTH_TYPES "f32|bf16|f16|q8_0|q4_0|q5_0|q4_k_m"

struct gm_synth {
    const char *variant; /* as gm_config_variant */
    int32_t type;        /* index in GM_SYNTH_TYPES */
    int64_t layers;      /* 0: the variant's */
    uint64_t seed;
    const char *vocab; /* the GGUF file whose tokenizer keys are copied */
    const char *out;
    bool replace;                                               /* a file that is there already */
    int threads;                                                /* >= 1 */
    void (*progress)(void *ctx, uint64_t done, uint64_t total); /* bytes; may be NULL */
    void *ctx;
};

struct gm_synth_report {
    int32_t layers;
    uint64_t weights, bytes; /* of the tensors; of the file */
};

/* The variant, the layers and the type alone; no file is touched. GM_NOT_FOUND, GM_INVALID. */
enum gm_status gm_synth_check(const struct gm_synth *s, struct gm_err *err);

/* Writes the file. Its bytes depend on variant, type, layers, seed and vocabulary, not on threads.
 * The embedding has as many rows as the variant, or as the vocabulary where that is shorter; a
 * longer vocabulary is cut. Matrices are about normal with variance 1 / columns, norms are 1 (as
 * stored: with the "+1"), so every sub-layer's output is about as large as its input. Errors:
 * GM_EXISTS unless `replace`; those of gm_gguf_open for the vocabulary, GM_UNSUPPORTED when it is
 * not Gemma's kind; those of gm_gguf_out_begin; GM_CANCELLED when gm_stopping. After a failure
 * nothing new stands under the name. */
enum gm_status gm_synth_write(const struct gm_synth *s, struct gm_synth_report *report,
                              struct gm_err *err);

#endif
