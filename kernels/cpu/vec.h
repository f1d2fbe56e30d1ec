/* vec.h - sixteen floats at a time, in the words of both instruction sets.
 *
 * Owns:      gm_vf (16 floats) and the few operations the element-wise kernels need, once with
 *            AVX-512 and once with AVX2, with the same results bit for bit.
 * Does not:  hold kernels (vec_*.h) or integer block arithmetic (avx2_unpack.h, avx512_unpack.h).
 *
 * min and max return the second operand if either is NaN, as the instructions do.
 */
#ifndef GM_KERNELS_CPU_VEC_H
#define GM_KERNELS_CPU_VEC_H

#include "kernels/cpu/quant.h"

#include <immintrin.h>

enum { GM_VF = 16 };

#if defined(__AVX512F__)

typedef __m512 gm_vf;
typedef __mmask16 gm_vm; /* one bit per lane */

GM_INLINE gm_vf gm_vf_set1(float x)
{
    return _mm512_set1_ps(x);
}
GM_INLINE gm_vf gm_vf_load(const void *p)
{
    return _mm512_loadu_ps(p);
}
/* Bits of the first n (1..16) lanes. */
GM_INLINE gm_vm gm_vm_first(size_t n)
{
    uint32_t bits = n >= GM_VF ? 0xffffu : (1u << n) - 1u;
    return (gm_vm)bits;
}
/* The first n (1..16) floats; zeros above. */
GM_INLINE gm_vf gm_vf_load_n(const void *p, size_t n)
{
    return _mm512_maskz_loadu_ps(gm_vm_first(n), p);
}
GM_INLINE void gm_vf_store(void *p, gm_vf v)
{
    _mm512_storeu_ps(p, v);
}
GM_INLINE void gm_vf_store_n(void *p, gm_vf v, size_t n)
{
    _mm512_mask_storeu_ps(p, gm_vm_first(n), v);
}
GM_INLINE gm_vf gm_vf_add(gm_vf a, gm_vf b)
{
    return _mm512_add_ps(a, b);
}
GM_INLINE gm_vf gm_vf_sub(gm_vf a, gm_vf b)
{
    return _mm512_sub_ps(a, b);
}
GM_INLINE gm_vf gm_vf_mul(gm_vf a, gm_vf b)
{
    return _mm512_mul_ps(a, b);
}
GM_INLINE gm_vf gm_vf_div(gm_vf a, gm_vf b)
{
    return _mm512_div_ps(a, b);
}
/* a b + c, one rounding */
GM_INLINE gm_vf gm_vf_fma(gm_vf a, gm_vf b, gm_vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
GM_INLINE gm_vf gm_vf_max(gm_vf a, gm_vf b)
{
    return _mm512_max_ps(a, b);
}
GM_INLINE gm_vf gm_vf_abs(gm_vf a)
{
    return _mm512_abs_ps(a);
}
/* |a| with the sign of s */
GM_INLINE gm_vf gm_vf_copysign(gm_vf a, gm_vf s)
{
    __m512i sign = _mm512_set1_epi32(INT32_MIN);
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(_mm512_castps_si512(a), _mm512_castps_si512(s), sign, 0xd8));
}
GM_INLINE gm_vm gm_vf_lt(gm_vf a, gm_vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
/* m ? a : b */
GM_INLINE gm_vf gm_vf_select(gm_vm m, gm_vf a, gm_vf b)
{
    return _mm512_mask_blend_ps(m, b, a);
}
/* nonzero if any lane is NaN or infinite */
GM_INLINE int gm_vf_any_odd(gm_vf a)
{
    __m512i e = _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7f800000));
    return _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(0x7f800000)) != 0;
}
/* Bit i set where a[i] > b[i]; NaN never. */
GM_INLINE uint32_t gm_vf_gt_bits(gm_vf a, gm_vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
/* p 2^n for integral n in [-126, 0] */
GM_INLINE gm_vf gm_vf_scale(gm_vf p, gm_vf n)
{
    __m512i e = _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), e));
}
GM_INLINE gm_vf gm_vf_round(gm_vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
GM_INLINE gm_vf gm_vf_from_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
GM_INLINE void gm_vf_to_f16(void *p, gm_vf v)
{
    _mm256_storeu_si256(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
/* bf16 in the high half of each lane: round to nearest even; a NaN is made quiet. */
GM_INLINE __m512i gm_bf16_16(gm_vf v)
{
    __m512i u = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7fff));
    __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    return _mm512_mask_mov_epi32(up, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet);
}
GM_INLINE void gm_vf_to_bf16(void *p, gm_vf v)
{
    _mm256_storeu_si256(p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(gm_bf16_16(v), 16)));
}
/* Writes bf16 codes to the first (second 0) or second elements of sixteen pairs at p; the other
 * elements are neither read nor written: another thread may be writing them. */
GM_INLINE void gm_vf_to_bf16_pairs(void *p, gm_vf v, size_t second)
{
    __m512i code = gm_bf16_16(v);
    if (second) {
        _mm512_mask_storeu_epi16(p, 0xaaaaaaaau, code);
    } else {
        _mm512_mask_storeu_epi16(p, 0x55555555u, _mm512_srli_epi32(code, 16));
    }
}
/* The first (second 0) or second elements of sixteen bf16 pairs at p. */
GM_INLINE gm_vf gm_vf_from_bf16_pairs(const void *p, int32_t second)
{
    __m512i v = _mm512_loadu_si512(p);
    __m512i high = _mm512_set1_epi32((int32_t)0xffff0000u);
    return _mm512_castsi512_ps(second ? _mm512_and_si512(v, high) : _mm512_slli_epi32(v, 16));
}
GM_INLINE gm_vf gm_vf_from_bf16(const void *p)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}
GM_INLINE gm_vf gm_vf_from_i8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}
/* Rounds |v| <= 127 half to even, stores sixteen int8 and returns their sum. */
GM_INLINE int32_t gm_vf_to_i8(void *p, gm_vf v)
{
    __m512i q = _mm512_cvtps_epi32(v);
    _mm_storeu_si128(p, _mm512_cvtepi32_epi8(q));
    return _mm512_reduce_add_epi32(q);
}
GM_INLINE __m256 gm_vf_low(gm_vf v)
{
    return _mm512_castps512_ps256(v);
}
GM_INLINE __m256 gm_vf_high(gm_vf v)
{
    return _mm512_extractf32x8_ps(v, 1);
}
/* (x0, y0, x1, y1, ...) in a, b -> x in *even, y in *odd */
GM_INLINE void gm_vf_unzip(gm_vf a, gm_vf b, gm_vf *even, gm_vf *odd)
{
    __m512i e = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, e, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(e, _mm512_set1_epi32(1)), b);
}

#else

typedef struct {
    __m256 lo, hi;
} gm_vf;
typedef gm_vf gm_vm; /* all bits of a lane */

#define GM_VF_BOTH(op, a, b) ((gm_vf){ op((a).lo, (b).lo), op((a).hi, (b).hi) })

GM_INLINE gm_vf gm_vf_set1(float x)
{
    return (gm_vf){ _mm256_set1_ps(x), _mm256_set1_ps(x) };
}
GM_INLINE gm_vf gm_vf_load(const void *p)
{
    return (gm_vf){ _mm256_loadu_ps(p), _mm256_loadu_ps((const void *)((const uint8_t *)p + 32)) };
}
/* The first n (1..16) floats; zeros above. */
GM_INLINE gm_vf gm_vf_load_n(const void *p, size_t n)
{
    if (n >= GM_VF) {
        return gm_vf_load(p);
    }
    float part[GM_VF] = { 0 };
    memcpy(part, p, n * sizeof(float));
    return gm_vf_load(part);
}
GM_INLINE void gm_vf_store(void *p, gm_vf v)
{
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps((void *)((uint8_t *)p + 32), v.hi);
}
GM_INLINE void gm_vf_store_n(void *p, gm_vf v, size_t n)
{
    if (n >= GM_VF) {
        gm_vf_store(p, v);
        return;
    }
    float part[GM_VF];
    gm_vf_store(part, v);
    memcpy(p, part, n * sizeof(float));
}
GM_INLINE gm_vf gm_vf_add(gm_vf a, gm_vf b)
{
    return GM_VF_BOTH(_mm256_add_ps, a, b);
}
GM_INLINE gm_vf gm_vf_sub(gm_vf a, gm_vf b)
{
    return GM_VF_BOTH(_mm256_sub_ps, a, b);
}
GM_INLINE gm_vf gm_vf_mul(gm_vf a, gm_vf b)
{
    return GM_VF_BOTH(_mm256_mul_ps, a, b);
}
GM_INLINE gm_vf gm_vf_div(gm_vf a, gm_vf b)
{
    return GM_VF_BOTH(_mm256_div_ps, a, b);
}
/* a b + c, one rounding */
GM_INLINE gm_vf gm_vf_fma(gm_vf a, gm_vf b, gm_vf c)
{
    return (gm_vf){ _mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi) };
}
GM_INLINE gm_vf gm_vf_max(gm_vf a, gm_vf b)
{
    return GM_VF_BOTH(_mm256_max_ps, a, b);
}
GM_INLINE gm_vf gm_vf_abs(gm_vf a)
{
    gm_vf sign = gm_vf_set1(-0.0f);
    return GM_VF_BOTH(_mm256_andnot_ps, sign, a);
}
/* |a| with the sign of s */
GM_INLINE gm_vf gm_vf_copysign(gm_vf a, gm_vf s)
{
    gm_vf sign = gm_vf_set1(-0.0f);
    gm_vf abs = GM_VF_BOTH(_mm256_andnot_ps, sign, a);
    gm_vf of_s = GM_VF_BOTH(_mm256_and_ps, sign, s);
    return GM_VF_BOTH(_mm256_or_ps, abs, of_s);
}
GM_INLINE gm_vm gm_vf_lt(gm_vf a, gm_vf b)
{
    return (gm_vm){ _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ) };
}
/* m ? a : b */
GM_INLINE gm_vf gm_vf_select(gm_vm m, gm_vf a, gm_vf b)
{
    return (gm_vf){ _mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi) };
}
/* nonzero if any lane is NaN or infinite */
GM_INLINE int gm_vf_any_odd(gm_vf a)
{
    __m256i all = _mm256_set1_epi32(0x7f800000);
    __m256i lo = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(a.lo), all), all);
    __m256i hi = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(a.hi), all), all);
    return _mm256_movemask_epi8(_mm256_or_si256(lo, hi)) != 0;
}
/* Bit i set where a[i] > b[i]; NaN never. */
GM_INLINE uint32_t gm_vf_gt_bits(gm_vf a, gm_vf b)
{
    uint32_t lo = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ));
    uint32_t hi = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ));
    return hi << 8 | lo;
}
GM_INLINE __m256 gm_scale_8(__m256 p, __m256 n)
{
    __m256i e = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), e));
}
/* p 2^n for integral n in [-126, 0] */
GM_INLINE gm_vf gm_vf_scale(gm_vf p, gm_vf n)
{
    return GM_VF_BOTH(gm_scale_8, p, n);
}
GM_INLINE gm_vf gm_vf_round(gm_vf a)
{
    return (gm_vf){ _mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                    _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) };
}
GM_INLINE gm_vf gm_vf_from_f16(const void *p)
{
    const uint8_t *b = p;
    return (gm_vf){ _mm256_cvtph_ps(_mm_loadu_si128((const void *)b)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const void *)(b + 16))) };
}
GM_INLINE void gm_vf_to_f16(void *p, gm_vf v)
{
    uint8_t *b = p;
    _mm_storeu_si128((void *)b, _mm256_cvtps_ph(v.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((void *)(b + 16), _mm256_cvtps_ph(v.hi, _MM_FROUND_TO_NEAREST_INT));
}
GM_INLINE __m256i gm_bf16_8(__m256 v)
{
    __m256i u = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(_mm256_add_epi32(u, odd), _mm256_set1_epi32(0x7fff));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
}
/* Round to nearest even; a NaN is made quiet. */
GM_INLINE void gm_vf_to_bf16(void *p, gm_vf v)
{
    __m256i both = _mm256_packus_epi32(gm_bf16_8(v.lo), gm_bf16_8(v.hi));
    _mm256_storeu_si256(p, _mm256_permute4x64_epi64(both, 0xd8));
}
/* Writes bf16 codes to the first (second 0) or second elements of sixteen pairs at p; the other
 * elements are neither read nor written: another thread may be writing them. */
GM_INLINE void gm_vf_to_bf16_pairs(void *p, gm_vf v, size_t second)
{
    uint16_t code[GM_VF];
    uint8_t *b = (uint8_t *)p + second * sizeof code[0];
    gm_vf_to_bf16(code, v);
    for (int i = 0; i < GM_VF; i++, b += 2 * sizeof code[0]) {
        memcpy(b, code + i, sizeof code[0]);
    }
}
/* The first (second 0) or second elements of sixteen bf16 pairs at p. Without a branch, and without
 * a mask in a register, which the sums need. */
GM_INLINE gm_vf gm_vf_from_bf16_pairs(const void *p, int32_t second)
{
    const uint8_t *b = p;
    const __m128i down = _mm_cvtsi32_si128(16 * second);
    __m256i lo = _mm256_srl_epi32(_mm256_loadu_si256((const void *)b), down);
    __m256i hi = _mm256_srl_epi32(_mm256_loadu_si256((const void *)(b + 32)), down);
    return (gm_vf){ _mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
                    _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16)) };
}
GM_INLINE gm_vf gm_vf_from_bf16(const void *p)
{
    const uint8_t *b = p;
    __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)b));
    __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(b + 16)));
    return (gm_vf){ _mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
                    _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16)) };
}
GM_INLINE gm_vf gm_vf_from_i8(const void *p)
{
    const uint8_t *b = p;
    __m256i lo = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)b));
    __m256i hi = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(b + 8)));
    return (gm_vf){ _mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi) };
}
/* Rounds |v| <= 127 half to even, stores sixteen int8 and returns their sum. */
GM_INLINE int32_t gm_vf_to_i8(void *p, gm_vf v)
{
    __m256i lo = _mm256_cvtps_epi32(v.lo);
    __m256i hi = _mm256_cvtps_epi32(v.hi);
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8);
    __m128i low = _mm256_castsi256_si128(words);
    _mm_storeu_si128(p, _mm_packs_epi16(low, _mm256_extracti128_si256(words, 1)));
    __m256i sums = _mm256_add_epi32(lo, hi);
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
GM_INLINE __m256 gm_vf_low(gm_vf v)
{
    return v.lo;
}
GM_INLINE __m256 gm_vf_high(gm_vf v)
{
    return v.hi;
}
GM_INLINE __m256 gm_even_8(__m256 a, __m256 b)
{
    __m256d v = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(v, 0xd8));
}
GM_INLINE __m256 gm_odd_8(__m256 a, __m256 b)
{
    __m256d v = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(v, 0xd8));
}
/* (x0, y0, x1, y1, ...) in a, b -> x in *even, y in *odd */
GM_INLINE void gm_vf_unzip(gm_vf a, gm_vf b, gm_vf *even, gm_vf *odd)
{
    *even = (gm_vf){ gm_even_8(a.lo, a.hi), gm_even_8(b.lo, b.hi) };
    *odd = (gm_vf){ gm_odd_8(a.lo, a.hi), gm_odd_8(b.lo, b.hi) };
}

#endif

GM_INLINE float gm_half_to_float(uint16_t h)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}

GM_INLINE gm_vf gm_vf_zero(void)
{
    return gm_vf_set1(0.0f);
}

/* The sum of sixteen lanes by halves: i + (i+8), then +4, +2, +1. */
GM_INLINE float gm_vf_sum(gm_vf v)
{
    __m256 h = _mm256_add_ps(gm_vf_low(v), gm_vf_high(v));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    q = _mm_add_ss(q, _mm_movehdup_ps(q));
    return _mm_cvtss_f32(q);
}

/* The largest lane; NaN lanes may or may not win. */
GM_INLINE float gm_vf_top(gm_vf v)
{
    __m256 h = _mm256_max_ps(gm_vf_low(v), gm_vf_high(v));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    q = _mm_max_ss(q, _mm_movehdup_ps(q));
    return _mm_cvtss_f32(q);
}

/* exp(x) for x <= 0 (and NaN, which stays): x = n ln2 + r, |r| <= ln2 / 2, the series of exp to
 * r^6, relative error about 2e-7. Below -87.3 zero. */
GM_INLINE gm_vf gm_vf_exp(gm_vf x)
{
    gm_vm tiny = gm_vf_lt(x, gm_vf_set1(-87.3f));
    gm_vf c = gm_vf_max(gm_vf_set1(-87.3f), x); /* NaN stays: it is the second operand */
    gm_vf n = gm_vf_round(gm_vf_mul(c, gm_vf_set1(0x1.715476p+0f)));
    gm_vf r =
        gm_vf_fma(n, gm_vf_set1(-0x1.62e4p-1f), c); /* ln2 in two parts; n times this is exact */
    r = gm_vf_fma(n, gm_vf_set1(-0x1.7f7d1cp-20f), r);
    gm_vf p = gm_vf_set1(1.0f / 720);
    p = gm_vf_fma(p, r, gm_vf_set1(1.0f / 120));
    p = gm_vf_fma(p, r, gm_vf_set1(1.0f / 24));
    p = gm_vf_fma(p, r, gm_vf_set1(1.0f / 6));
    p = gm_vf_fma(p, r, gm_vf_set1(0.5f));
    p = gm_vf_fma(p, r, gm_vf_set1(1.0f));
    p = gm_vf_fma(p, r, gm_vf_set1(1.0f));
    return gm_vf_select(tiny, gm_vf_zero(), gm_vf_scale(p, n));
}

/* tanh(x): below 0.625 the odd polynomial x + x^3 P(x^2), above (1 - e) / (1 + e), e = exp(-2|x|).
 * P interpolates (tanh(x)/x - 1)/x^2 at the five Chebyshev nodes of x^2 in [0, 0.390625]. */
GM_INLINE gm_vf gm_vf_tanh(gm_vf x)
{
    gm_vf one = gm_vf_set1(1.0f);
    gm_vf a = gm_vf_abs(x);
    gm_vf e = gm_vf_exp(gm_vf_mul(a, gm_vf_set1(-2.0f)));
    gm_vf big = gm_vf_div(gm_vf_sub(one, e), gm_vf_add(one, e));
    gm_vf z = gm_vf_mul(x, x);
    gm_vf p = gm_vf_set1(-6.096714163e-03f);
    p = gm_vf_fma(p, z, gm_vf_set1(2.099717900e-02f));
    p = gm_vf_fma(p, z, gm_vf_set1(-5.385090958e-02f));
    p = gm_vf_fma(p, z, gm_vf_set1(1.333276974e-01f));
    p = gm_vf_fma(p, z, gm_vf_set1(-3.333332894e-01f));
    gm_vf small = gm_vf_fma(gm_vf_mul(p, z), x, x);
    return gm_vf_select(gm_vf_lt(a, gm_vf_set1(0.625f)), small, gm_vf_copysign(big, x));
}

#endif
