/* quant_enc.h - floats into weight blocks: the writing side of dtype.h.
 *
 * Owns:      one encoder per block type that dtype.h decodes.
 * Does not:  search for the best scales (a scale comes from the largest value of its block, codes
 *            are rounded to the nearest), read files, or use threads.
 * Source:    ggml's published block layouts, as written beside the decoders in kernels/dtype.c.
 */
#ifndef GM_KERNELS_QUANT_ENC_H
#define GM_KERNELS_QUANT_ENC_H

#include <stddef.h>

#include "kernels/dtype.h"

/* Encodes x[cols] as one row of `type` at `to`, which has room for gm_type_row_bytes(type, cols)
 * bytes at any address. cols is a multiple of the type's block. Values beyond what a half holds
 * (65504) become infinite in types with half scales; a value that is no number may spoil its block
 * and harms nothing else. The bytes depend on x alone. A number that is no type of ours writes
 * nothing. */
void gm_quant_row(void *to, const float *x, enum gm_type type, size_t cols);

#endif
