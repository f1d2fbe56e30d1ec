/* safetensors.h - reading one safetensors file: a JSON header, then the data, mapped and checked.
 *
 * Owns:      the mapping and the table of tensors.
 * Does not:  know what the tensors are for; join several files; convert values.
 * Format:    u64 length of the header, the header {"name": {"dtype", "shape", "data_offsets"}},
 *            the data. Offsets must tile the data exactly: no hole, no overlap, nothing behind.
 */
#ifndef GM_MODEL_SAFETENSORS_H
#define GM_MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum { GM_ST_DIMS_MAX = 8 };

struct gm_st_tensor {
    const char *name;  /* lives as long as the file is open */
    const char *dtype; /* "F32", "BF16" ...: one of the format's, static */
    uint32_t elem_bytes;
    uint32_t n_dims;
    int64_t dims[GM_ST_DIMS_MAX]; /* outermost first, as in the file */
    const uint8_t *data;          /* in the mapping, any alignment */
    size_t bytes;
};

struct gm_safetensors;

/* GM_NOT_FOUND, GM_INVALID (what is wrong), GM_UNSUPPORTED (a dtype, named), GM_EXHAUSTED. */
enum gm_status gm_safetensors_open(struct gm_safetensors **out, const char *path,
                                   struct gm_err *err);
void gm_safetensors_close(struct gm_safetensors **s); /* idempotent */

/* Tensors in order of their data. */
size_t gm_safetensors_count(const struct gm_safetensors *s);
const struct gm_st_tensor *gm_safetensors_at(const struct gm_safetensors *s, size_t i);

/* XXH3 of the whole file. */
uint64_t gm_safetensors_hash(const struct gm_safetensors *s, uint64_t seed);

#endif
