/* avx2_stream.c - linear() of packed weights for a few rows with AVX2.
 *
 * Owns:      the instances of quant_stream.inc's kernel.
 * Does not:  do many rows (avx2_linear.c) or pack (avx2_pack.c).
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx2_set.h"

#include "kernels/cpu/avx2_unpack.h"
#include "kernels/cpu/quant_stream.inc"

void gm_avx2_linear_stream(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                           int32_t rows, int32_t out_begin, int32_t out_end)
{
    quant_stream(w->type)(y, y_stride, w, act, rows, out_begin, out_end);
}

#endif
