/* avx512_float.c - linear() over F32, F16 and BF16 weights with AVX-512, and their packing.
 *
 * Owns:      the choice by type. The code is in vec_float.h.
 * Does not:  do quantised types (avx512_linear.c).
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx512_set.h"

#include "kernels/cpu/vec_float.h"

enum { ROWS_AT_ONCE = 4 }; /* what the registers hold, with four partial sums each */

void gm_avx512_linear_float(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                            int32_t rows, int32_t out_begin, int32_t out_end)
{
    const struct gm_float_call c = {
        .y = y,
        .y_stride = y_stride,
        .x = act,
        .x_stride = gm_act_layout(w->cols).bytes / sizeof(float),
        .begin = out_begin,
        .end = out_end,
    };
    switch (w->type) {
    case GM_TYPE_F32:
        gm_linear_float(GM_TYPE_F32, ROWS_AT_ONCE, &c, w, rows);
        break;
    case GM_TYPE_F16:
        gm_linear_float(GM_TYPE_F16, ROWS_AT_ONCE, &c, w, rows);
        break;
    default:
        gm_linear_float(GM_TYPE_BF16, ROWS_AT_ONCE, &c, w, rows);
        break;
    }
}

size_t gm_avx512_pack_bytes_float(enum gm_type type, int32_t rows, int32_t cols)
{
    return ((size_t)rows + GM_VF - 1) / GM_VF * gm_float_group_bytes(type, cols);
}

void gm_avx512_pack_float(void *dst, const struct gm_mat *w, int32_t begin, int32_t end)
{
    const size_t bytes = gm_float_group_bytes(w->type, w->cols);
    for (int32_t o = begin; o < end; o += GM_VF) {
        gm_float_pack((uint8_t *)dst + (size_t)(o / GM_VF) * bytes, w, o, 0, w->cols);
    }
}

void gm_avx512_embed_float(float *y, const struct gm_mat *table, int32_t id, float scale)
{
    gm_float_embed(y, table, id, scale);
}

#endif
