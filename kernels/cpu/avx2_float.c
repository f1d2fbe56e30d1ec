/* avx2_float.c - linear() over F32, F16 and BF16 weights with AVX2.
 *
 * Owns:      the choice by type. The kernel is in vec_float.h.
 * Does not:  do quantised types (avx2_linear.c).
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx2_set.h"

#include "kernels/cpu/vec_float.h"

enum { ROWS_AT_ONCE = 2 }; /* what the registers hold, with 4 outputs each */

void gm_avx2_linear_float(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                          int32_t rows, int32_t out_begin, int32_t out_end)
{
    const struct gm_float_tile f = {
        .y = y,
        .y_stride = y_stride,
        .w = w->data,
        .w_stride = w->row_bytes,
        .act = act,
        .act_stride = gm_act_layout(w->cols).bytes,
        .cols = (size_t)w->cols,
    };
    switch (w->type) {
    case GM_TYPE_F32:
        gm_linear_float(GM_TYPE_F32, ROWS_AT_ONCE, f, rows, out_begin, out_end);
        break;
    case GM_TYPE_F16:
        gm_linear_float(GM_TYPE_F16, ROWS_AT_ONCE, f, rows, out_begin, out_end);
        break;
    default:
        gm_linear_float(GM_TYPE_BF16, ROWS_AT_ONCE, f, rows, out_begin, out_end);
        break;
    }
}

#endif
