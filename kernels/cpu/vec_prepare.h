/* vec_prepare.h - activations into the form that linear() reads, for both instruction sets.
 *
 * Owns:      prepare(); the layout is act.h's.
 * Does not:  use the result. Included by avx2_point.c and avx512_point.c only.
 */
#ifndef GM_KERNELS_CPU_VEC_PREPARE_H
#define GM_KERNELS_CPU_VEC_PREPARE_H

#include "kernels/cpu/vec.h"

#include <float.h>

/* One block of 32 from two vectors. Scale d = max|x| / 127, q = x 127 / max|x| rounded half to
 * even; a block whose scale would be denormal counts as zero, one that holds a NaN or an infinity
 * gets the scale NaN, so that every output it touches is NaN. */
GM_INLINE void gm_prepare_block(uint8_t *row, const struct gm_act *at, int32_t b, gm_vf lo,
                                gm_vf hi)
{
    const int odd = gm_vf_any_odd(lo) || gm_vf_any_odd(hi);
    const float amax = odd ? 0.0f : gm_vf_top(gm_vf_max(gm_vf_abs(lo), gm_vf_abs(hi)));
    const float scale = amax >= 127.0f * FLT_MIN ? amax / 127.0f : 0.0f;
    const float d = odd ? __builtin_nanf("") : scale;
    const gm_vf inverse = gm_vf_set1(scale > 0.0f ? 127.0f / amax : 0.0f);
    uint8_t *q = row + at->q + (size_t)b * GM_QK;
    int32_t s0 = gm_vf_to_i8(q, odd ? gm_vf_zero() : gm_vf_mul(lo, inverse));
    int32_t s1 = gm_vf_to_i8(q + GM_VF, odd ? gm_vf_zero() : gm_vf_mul(hi, inverse));
    ((float *)(void *)(row + at->d))[b] = d;
    ((float *)(void *)(row + at->ds))[b] = d * (float)(s0 + s1);
    ((int32_t *)(void *)(row + at->neg32))[b] = -(s0 + s1);
    ((int32_t *)(void *)(row + at->neg16))[2 * b] = -s0;
    ((int32_t *)(void *)(row + at->neg16))[2 * b + 1] = -s1;
}

GM_INLINE gm_vf gm_load_some(const float *x, int32_t n)
{
    return n > 0 ? gm_vf_load_n(x, (size_t)n) : gm_vf_zero();
}

GM_INLINE void gm_vec_prepare(void *act, const float *x, size_t x_stride, int32_t rows,
                              int32_t cols)
{
    const struct gm_act at = gm_act_layout(cols);
    for (int32_t r = 0; r < rows; r++) {
        uint8_t *row = (uint8_t *)act + (size_t)r * at.bytes;
        const float *in = x + (size_t)r * x_stride;
        float *copy = (float *)(void *)row;
        for (int32_t b = 0; b < at.blocks; b++) {
            int32_t i = b * GM_QK;
            gm_vf lo = gm_load_some(in + i, cols - i);
            gm_vf hi = gm_load_some(in + i + GM_VF, cols - i - GM_VF);
            gm_vf_store(copy + i, lo);
            if (cols - i > GM_VF) {
                gm_vf_store(copy + i + GM_VF, hi);
            }
            gm_prepare_block(row, &at, b, lo, hi);
        }
    }
}

#endif
