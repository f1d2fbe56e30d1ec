/* gguf.h - reading a GGUF file safely: metadata and the tensor table, mapped, bounds-checked.
 *
 * Owns:      the mapping, the parsed key/value and tensor tables, and their limits.
 * Does not:  interpret the model (config.c, weights.c) or the vocabulary (services/tokenizer).
 * Threads:   read-only after open; any thread may read.
 */
#ifndef GM_MODEL_GGUF_H
#define GM_MODEL_GGUF_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/config.h"
#include "kernels/dtype.h"

enum { GM_TENSOR_DIMS = 4 };

struct gm_tensor {
    const char *name; /* borrowed; lives as long as the file is open; terminated */
    enum gm_type type;
    uint32_t n_dims;
    int64_t dims[GM_TENSOR_DIMS]; /* innermost first; missing ones are 1 */
    const uint8_t *data;          /* borrowed, inside the mapping */
    size_t bytes;
};

struct gm_text_view {
    const char *ptr; /* not terminated */
    size_t len;
};

struct gm_gguf;

/* Opens and checks everything of reference peers-local 1.1. GM_NOT_FOUND, GM_INVALID (says what is
 * wrong and where), GM_UNSUPPORTED (split files, retired or unknown tensor types by tensor name).
 * Only pages that are touched are read. */
enum gm_status gm_gguf_open(struct gm_gguf **out, const char *path, struct gm_err *err);
void gm_gguf_close(struct gm_gguf **g); /* idempotent */

/* Metadata by key. All return GM_NOT_FOUND when absent and GM_INVALID when of another type. */
enum gm_status gm_gguf_int(const struct gm_gguf *g, const char *key, int64_t *out,
                           struct gm_err *err);
enum gm_status gm_gguf_float(const struct gm_gguf *g, const char *key, double *out,
                             struct gm_err *err);
enum gm_status gm_gguf_text(const struct gm_gguf *g, const char *key, struct gm_text_view *out,
                            struct gm_err *err);

/* Arrays: their length, then elements by copying the whole array out. `out` holds n elements. */
enum gm_status gm_gguf_array_len(const struct gm_gguf *g, const char *key, size_t *n,
                                 struct gm_err *err);
enum gm_status gm_gguf_texts(const struct gm_gguf *g, const char *key, struct gm_text_view *out,
                             size_t n, struct gm_err *err);
enum gm_status gm_gguf_floats(const struct gm_gguf *g, const char *key, float *out, size_t n,
                              struct gm_err *err);
enum gm_status gm_gguf_ints(const struct gm_gguf *g, const char *key, int32_t *out, size_t n,
                            struct gm_err *err);

size_t gm_gguf_tensor_count(const struct gm_gguf *g);
const struct gm_tensor *gm_gguf_tensor_at(const struct gm_gguf *g, size_t i);
const struct gm_tensor *gm_gguf_tensor(const struct gm_gguf *g, const char *name); /* or NULL */

/* The variant of this file: both dialects (llama.cpp's and ollama's keys). */
enum gm_status gm_gguf_config(const struct gm_gguf *g, struct gm_config *cfg, struct gm_err *err);

/* Identity of the weights for the numerics id: a hash over header, metadata, tensor table, file
 * size and sampled data blocks of every tensor (cheap: reads a few MiB). */
uint64_t gm_gguf_identity(const struct gm_gguf *g);

#endif
