/* avx2_linear.c - linear() with AVX2.
 *
 * Owns:      the entry: quantised types go to quant_linear.inc's kernels, float types to
 *            avx2_float.c. A type number that is none of ours does nothing.
 * Does not:  hold kernels.
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx2_set.h"

#include "kernels/cpu/avx2_unpack.h"
#include "kernels/cpu/quant_linear.inc"

void gm_avx2_linear(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                    int32_t rows, int32_t out_begin, int32_t out_end)
{
    if (rows <= 0 || w->cols <= 0) {
        return;
    }
    gm_linear_fn *quantised = quant_linear(w->type);
    if (quantised && w->packed && rows <= few_rows(w->type)) {
        gm_avx2_linear_stream(y, y_stride, w, act, rows, out_begin, out_end);
    } else if (quantised) {
        quantised(y, y_stride, w, act, rows, out_begin, out_end);
    } else if (gm_type_info((uint32_t)w->type)) {
        gm_avx2_linear_float(y, y_stride, w, act, rows, out_begin, out_end);
    }
}

#endif
