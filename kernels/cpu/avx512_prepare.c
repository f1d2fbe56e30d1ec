/* avx512_prepare.c - activations into the form that linear() reads.
 *
 * Owns:      act_bytes and prepare of the AVX-512 set; the layout is act.h's.
 * Does not:  use the result (avx512_linear.c, avx512_float.c).
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx512_set.h"

#include "kernels/cpu/quant.h"

#include <float.h>
#include <immintrin.h>

size_t gm_avx512_act_bytes(int32_t cols)
{
    return gm_act_layout(cols).bytes;
}

/* One block of 32 from two registers of floats. Scale d = max|x| / 127, q = x 127 / max|x| rounded
 * half to even; a block whose scale would be denormal counts as zero, one that holds a NaN or an
 * infinity gets the scale NaN, so that every output it touches is NaN. */
static void prepare_block(uint8_t *row, const struct gm_act *at, int32_t b, __m512 lo, __m512 hi)
{
    __m512 zero = _mm512_setzero_ps();
    float amax = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(lo), _mm512_abs_ps(hi)));
    /* x * 0 is NaN exactly for NaN and infinities */
    __mmask16 odd =
        _mm512_cmp_ps_mask(_mm512_mul_ps(lo, zero), _mm512_mul_ps(hi, zero), _CMP_UNORD_Q);
    float d = amax >= 127.0f * FLT_MIN ? amax / 127.0f : 0.0f;
    __m512 inverse = _mm512_set1_ps(d > 0.0f && !odd ? 127.0f / amax : 0.0f);
    if (odd) {
        d = __builtin_nanf("");
    }
    __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(lo, inverse));
    __m512i q1 = _mm512_cvtps_epi32(_mm512_mul_ps(hi, inverse));
    int8_t *q = (int8_t *)(row + at->q) + (size_t)b * GM_QK;
    _mm_storeu_si128((void *)q, _mm512_cvtsepi32_epi8(q0));
    _mm_storeu_si128((void *)(q + 16), _mm512_cvtsepi32_epi8(q1));
    int32_t s0 = _mm512_reduce_add_epi32(q0);
    int32_t s1 = _mm512_reduce_add_epi32(q1);
    ((float *)(void *)(row + at->d))[b] = d;
    ((float *)(void *)(row + at->ds))[b] = d * (float)(s0 + s1);
    ((int32_t *)(void *)(row + at->neg32))[b] = -(s0 + s1);
    ((int32_t *)(void *)(row + at->neg16))[2 * b] = -s0;
    ((int32_t *)(void *)(row + at->neg16))[2 * b + 1] = -s1;
}

static __mmask16 first_lanes(int32_t n)
{
    return n >= 16 ? (__mmask16)0xffff : n <= 0 ? (__mmask16)0 : (__mmask16)((1u << n) - 1u);
}

void gm_avx512_prepare(void *act, const float *x, size_t x_stride, int32_t rows, int32_t cols)
{
    struct gm_act at = gm_act_layout(cols);
    for (int32_t r = 0; r < rows; r++) {
        uint8_t *row = (uint8_t *)act + (size_t)r * at.bytes;
        const float *in = x + (size_t)r * x_stride;
        float *copy = (float *)(void *)row;
        for (int32_t b = 0; b < at.blocks; b++) {
            int32_t i = b * GM_QK;
            __m512 lo = _mm512_maskz_loadu_ps(first_lanes(cols - i), in + i);
            __m512 hi = _mm512_maskz_loadu_ps(first_lanes(cols - i - 16), in + i + 16);
            _mm512_store_ps(copy + i, lo);
            if (i + 16 < cols) {
                _mm512_store_ps(copy + i + 16, hi);
            }
            prepare_block(row, &at, b, lo, hi);
        }
    }
}

#endif
