/* vec_prepare.h - activations into the form that linear() reads, for both instruction sets.
 *
 * Owns:      prepare(); the layout is act.h's.
 * Does not:  use the result. Included by avx2_point.c and avx512_point.c only.
 */
#ifndef GM_KERNELS_CPU_VEC_PREPARE_H
#define GM_KERNELS_CPU_VEC_PREPARE_H

#include "kernels/cpu/vec.h"

#include <float.h>

/* What a block's codes are made with; a block whose scale would be denormal counts as zero, one
 * that holds a NaN or an infinity gets the scale NaN, so that every output it touches is NaN. */
struct gm_block_scale {
    float d, inverse; /* inverse 0: all codes are 0 */
};

/* amax: the largest magnitude; odd: a NaN or an infinity is there. d = amax / 127. */
GM_INLINE struct gm_block_scale gm_block_scale(float amax, int odd)
{
    struct gm_block_scale s = { 0.0f, 0.0f };
    if (odd) {
        s.d = __builtin_nanf("");
    } else if (amax >= 127.0f * FLT_MIN) {
        s.d = amax / 127.0f;
        s.inverse = 127.0f / amax;
    }
    return s;
}

/* s0, s1: the sums of the codes of each half. */
GM_INLINE void gm_block_sums(uint8_t *row, const struct gm_act *at, int32_t b, float d, int32_t s0,
                             int32_t s1)
{
    ((float *)(void *)(row + at->d))[b] = d;
    ((float *)(void *)(row + at->ds))[b] = d * (float)(s0 + s1);
    ((int32_t *)(void *)(row + at->neg32))[b] = -(s0 + s1);
    ((int32_t *)(void *)(row + at->neg16))[2 * b] = -s0;
    ((int32_t *)(void *)(row + at->neg16))[2 * b + 1] = -s1;
}

/* One block of 32 from two vectors. q = x 127 / max|x| rounded half to even. */
#if defined(__AVX512VNNI__)
GM_INLINE void gm_prepare_block(uint8_t *row, const struct gm_act *at, int32_t b, gm_vf lo,
                                gm_vf hi)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const __m512i lo_bits = _mm512_and_si512(_mm512_castps_si512(lo), magnitude);
    const __m512i hi_bits = _mm512_and_si512(_mm512_castps_si512(hi), magnitude);
    /* Bits of magnitudes rise with them; infinities and NaNs stand above all others. */
    const int32_t top = _mm512_reduce_max_epi32(_mm512_max_epi32(lo_bits, hi_bits));
    const int odd = top >= 0x7f800000;
    float amax;
    memcpy(&amax, &top, sizeof amax);
    const struct gm_block_scale scale = gm_block_scale(amax, odd);
    const __m512 inverse = _mm512_set1_ps(scale.inverse);
    const __mmask16 keep = odd ? 0 : 0xffff;
    const __m512i ql = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(lo, inverse));
    const __m512i qh = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(hi, inverse));
    const __m256i q = _mm256_set_m128i(_mm512_cvtepi32_epi8(qh), _mm512_cvtepi32_epi8(ql));
    _mm256_storeu_si256((void *)(row + at->q + (size_t)b * GM_QK), q);
    const __m256i four = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
    __m128i s = _mm_hadd_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    s = _mm_hadd_epi32(s, s);
    gm_block_sums(row, at, b, scale.d, _mm_cvtsi128_si32(s), _mm_extract_epi32(s, 1));
}
#else
GM_INLINE void gm_prepare_block(uint8_t *row, const struct gm_act *at, int32_t b, gm_vf lo,
                                gm_vf hi)
{
    const int odd = gm_vf_any_odd(lo) || gm_vf_any_odd(hi);
    const float amax = odd ? 0.0f : gm_vf_top(gm_vf_max(gm_vf_abs(lo), gm_vf_abs(hi)));
    const struct gm_block_scale scale = gm_block_scale(amax, odd);
    const gm_vf inverse = gm_vf_set1(scale.inverse);
    uint8_t *q = row + at->q + (size_t)b * GM_QK;
    int32_t s0 = gm_vf_to_i8(q, odd ? gm_vf_zero() : gm_vf_mul(lo, inverse));
    int32_t s1 = gm_vf_to_i8(q + GM_VF, odd ? gm_vf_zero() : gm_vf_mul(hi, inverse));
    gm_block_sums(row, at, b, scale.d, s0, s1);
}
#endif

GM_INLINE gm_vf gm_load_some(const float *x, int32_t n)
{
    return n > 0 ? gm_vf_load_n(x, (size_t)n) : gm_vf_zero();
}

GM_INLINE void gm_vec_prepare(void *act, const float *x, size_t x_stride, int32_t rows,
                              int32_t cols, bool floats)
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
            if (floats) {
                gm_vf_store(copy + i, lo);
            }
            if (floats && cols - i > GM_VF) {
                gm_vf_store(copy + i + GM_VF, hi);
            }
            gm_prepare_block(row, &at, b, lo, hi);
        }
    }
}

#endif
