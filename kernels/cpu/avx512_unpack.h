/* avx512_unpack.h - weight blocks of 16 neighbouring rows into 512-bit registers.
 *
 * Owns:      the AVX-512 reading of every quantised block type: the unsigned values of one block of
 *            32 inputs, and the scales of a chunk of blocks with one lane per row.
 * Does not:  multiply. Included by avx512_*.c only.
 *
 * A "pair" register holds 32 unsigned bytes of one row in its low half and of another in its high
 * half. Pairs 0..3 are rows (p, p+4), pairs 4..7 are rows (p+4, p+8), which makes the last step of
 * reduce and transpose one shuffle that leaves rows in order.
 */
#ifndef GM_KERNELS_CPU_AVX512_UNPACK_H
#define GM_KERNELS_CPU_AVX512_UNPACK_H

#include "kernels/cpu/quant.h"

#include <immintrin.h>

enum {
    GM_LANES = 16,
    GM_TILE_ROWS = 4,
    GM_TILE_GROUPS = 2,
    GM_FEW_ROWS = 24,      /* the most rows of the streaming kernel */
    GM_FEW_ROWS_BYTES = 7, /* the same where codes are whole bytes, which tiles need not unpack */
    GM_NEAR_ROWS = 3,      /* up to so many rows memory sets the pace of the streaming kernel */
    GM_STREAM_ROWS = 8,
    GM_SIGNED_Q8 = 0
};
#define GM_STREAM_IS_8 1

typedef __m512i gm_qi;
typedef __m512 gm_qf;

GM_INLINE __m512i gm_two_256(const uint8_t *a, const uint8_t *b)
{
    __m256i lo = _mm256_loadu_si256((const void *)a);
    __m256i hi = _mm256_loadu_si256((const void *)b);
    return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}

/* 16 bytes of nibbles per row: low nibbles are elements 0..15, high ones 16..31. */
GM_INLINE __m512i gm_nibbles(const uint8_t *a, const uint8_t *b)
{
    __m512i v = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)a));
    v = _mm512_mask_broadcast_i32x4(v, 0xff00, _mm_loadu_si128((const void *)b));
    v = _mm512_srlv_epi64(v, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

/* Adds the fifth bits: bit j of a row's 32 belongs to element j. */
GM_INLINE __m512i gm_fifth_bits(__m512i v, const uint8_t *a, const uint8_t *b)
{
    uint32_t lo;
    uint32_t hi;
    memcpy(&lo, a, sizeof lo);
    memcpy(&hi, b, sizeof hi);
    __mmask64 m = (uint64_t)hi << 32 | lo;
    return _mm512_mask_add_epi8(v, m, v, _mm512_set1_epi8(16));
}

/* K types: block b of a row is sub-block s of super-block b / 8. */
GM_INLINE __m512i gm_pair_k(enum gm_type t, const uint8_t *a, const uint8_t *b, int s)
{
    const __m512i low4 = _mm512_set1_epi8(15);
    if (t == GM_TYPE_Q6_K) {
        int half = s / 4;
        int part = s % 4;
        int ql = 64 * half + 32 * (part & 1);
        int qh = (int)offsetof(struct gm_q6_k, qh) + 32 * half;
        __m512i l = _mm512_srl_epi16(gm_two_256(a + ql, b + ql), _mm_cvtsi32_si128(part / 2 * 4));
        __m512i h = _mm512_srl_epi16(gm_two_256(a + qh, b + qh), _mm_cvtsi32_si128(part * 2));
        h = _mm512_slli_epi16(_mm512_and_si512(h, _mm512_set1_epi8(3)), 4);
        return _mm512_or_si512(_mm512_and_si512(l, low4), h);
    }
    int qs =
        t == GM_TYPE_Q4_K ? (int)offsetof(struct gm_q4_k, qs) : (int)offsetof(struct gm_q5_k, qs);
    qs += 32 * (s / 2);
    __m512i v = _mm512_srl_epi16(gm_two_256(a + qs, b + qs), _mm_cvtsi32_si128(s % 2 * 4));
    v = _mm512_and_si512(v, low4);
    if (t == GM_TYPE_Q5_K) {
        int qh = (int)offsetof(struct gm_q5_k, qh);
        __mmask64 m =
            _mm512_test_epi8_mask(gm_two_256(a + qh, b + qh), _mm512_set1_epi8((char)(1 << s)));
        v = _mm512_mask_add_epi8(v, m, v, _mm512_set1_epi8(16));
    }
    return v;
}

/* Unsigned values of block `b` (counted in 32 inputs) of the rows at ra and rb. */
GM_INLINE __m512i gm_pair(enum gm_type t, const uint8_t *ra, const uint8_t *rb, int32_t b)
{
    size_t bytes = gm_quant_block_bytes(t);
    size_t at = (size_t)b * bytes;
    switch (t) {
    case GM_TYPE_Q8_0:
        at += offsetof(struct gm_q8_0, qs);
        return _mm512_xor_si512(gm_two_256(ra + at, rb + at), _mm512_set1_epi8((char)0x80));
    case GM_TYPE_Q4_0:
        at += offsetof(struct gm_q4_0, qs);
        return gm_nibbles(ra + at, rb + at);
    case GM_TYPE_Q4_1:
        at += offsetof(struct gm_q4_1, qs);
        return gm_nibbles(ra + at, rb + at);
    case GM_TYPE_Q5_0: {
        size_t qs = at + offsetof(struct gm_q5_0, qs);
        size_t qh = at + offsetof(struct gm_q5_0, qh);
        return gm_fifth_bits(gm_nibbles(ra + qs, rb + qs), ra + qh, rb + qh);
    }
    case GM_TYPE_Q5_1: {
        size_t qs = at + offsetof(struct gm_q5_1, qs);
        size_t qh = at + offsetof(struct gm_q5_1, qh);
        return gm_fifth_bits(gm_nibbles(ra + qs, rb + qs), ra + qh, rb + qh);
    }
    default:
        at = (size_t)(b / GM_SUPER_BLOCKS) * bytes;
        return gm_pair_k(t, ra + at, rb + at, b % GM_SUPER_BLOCKS);
    }
}

/* All 16 rows of one block as eight pairs. */
GM_INLINE void gm_pairs(__m512i v[8], enum gm_type t, const uint8_t *base, size_t stride, int32_t b)
{
#pragma GCC unroll 8
    for (size_t p = 0; p < 8; p++) {
        size_t r = p < 4 ? p : p + 4;
        v[p] = gm_pair(t, base + r * stride, base + (r + 4) * stride, b);
    }
}

/* v[k] = dword k of every row, rows in lanes, for k in 0..8. */
GM_INLINE void gm_transpose(__m512i v[8])
{
    __m512i q[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        __m512i lo01 = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        __m512i hi01 = _mm512_unpackhi_epi32(v[i], v[i + 1]);
        __m512i lo23 = _mm512_unpacklo_epi32(v[i + 2], v[i + 3]);
        __m512i hi23 = _mm512_unpackhi_epi32(v[i + 2], v[i + 3]);
        q[i] = _mm512_unpacklo_epi64(lo01, lo23);
        q[i + 1] = _mm512_unpackhi_epi64(lo01, lo23);
        q[i + 2] = _mm512_unpacklo_epi64(hi01, hi23);
        q[i + 3] = _mm512_unpackhi_epi64(hi01, hi23);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        v[k] = _mm512_shuffle_i32x4(q[k], q[k + 4], 0x88);
        v[k + 4] = _mm512_shuffle_i32x4(q[k], q[k + 4], 0xdd);
    }
}

/* Sums of the low four (*a) and the high four (*b) dwords of every row, rows in lanes. */
GM_INLINE void gm_reduce(const __m512i v[8], __m512i *a, __m512i *b)
{
    __m512i q[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const __m512i *u = v + 4 * i;
        __m512i s01 =
            _mm512_add_epi32(_mm512_unpacklo_epi32(u[0], u[1]), _mm512_unpackhi_epi32(u[0], u[1]));
        __m512i s23 =
            _mm512_add_epi32(_mm512_unpacklo_epi32(u[2], u[3]), _mm512_unpackhi_epi32(u[2], u[3]));
        q[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(s01, s23), _mm512_unpackhi_epi64(s01, s23));
    }
    *a = _mm512_shuffle_i32x4(q[0], q[1], 0x88);
    *b = _mm512_shuffle_i32x4(q[0], q[1], 0xdd);
}

/* Scales of a chunk: D[(block * subs + sub)][row] and, for types with minimums, M[block][row]. */
struct gm_scales {
    _Alignas(64) float d[GM_CHUNK_BLOCKS * 2][GM_LANES];
    _Alignas(64) float m[GM_CHUNK_BLOCKS][GM_LANES];
};

/* The f16 number at p of each of 16 rows. */
GM_INLINE __m512 gm_rows_f16(const uint8_t *p, size_t stride)
{
    __m128i half[2];
#pragma GCC unroll 2
    for (size_t i = 0; i < 2; i++) {
        const uint8_t *q = p + 8 * i * stride;
        __m128i v = _mm_cvtsi32_si128(gm_load_u16(q));
        v = _mm_insert_epi16(v, gm_load_u16(q + stride), 1);
        v = _mm_insert_epi16(v, gm_load_u16(q + 2 * stride), 2);
        v = _mm_insert_epi16(v, gm_load_u16(q + 3 * stride), 3);
        v = _mm_insert_epi16(v, gm_load_u16(q + 4 * stride), 4);
        v = _mm_insert_epi16(v, gm_load_u16(q + 5 * stride), 5);
        v = _mm_insert_epi16(v, gm_load_u16(q + 6 * stride), 6);
        half[i] = _mm_insert_epi16(v, gm_load_u16(q + 7 * stride), 7);
    }
    return _mm512_cvtph_ps(_mm256_set_m128i(half[1], half[0]));
}

/* Types with one f16 scale (and perhaps one f16 minimum) at the head of each block of 32. */
GM_INLINE void gm_scales_simple(struct gm_scales *s, enum gm_type t, const uint8_t *base,
                                size_t stride, int32_t b0, int32_t n)
{
    const size_t bytes = gm_quant_block_bytes(t);
    const uint8_t *p = base + (size_t)b0 * bytes;
    for (int32_t b = 0; b < n; b++, p += bytes) {
        _mm512_store_ps(s->d[b], gm_rows_f16(p, stride));
        if (gm_quant_shift(t) < 0) {
            _mm512_store_ps(s->m[b], gm_rows_f16(p + 2, stride));
        }
    }
}

/* 16 bytes of each of 16 rows as four registers of dwords: h[k] lane r = dword k of row r. */
GM_INLINE void gm_rows_128(__m512i h[4], const uint8_t *p, size_t stride)
{
    __m512i z[4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        const uint8_t *q = p + j * stride;
        __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const void *)q));
        v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(q + 4 * stride)), 1);
        v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(q + 8 * stride)), 2);
        z[j] = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(q + 12 * stride)), 3);
    }
    __m512i lo01 = _mm512_unpacklo_epi32(z[0], z[1]);
    __m512i hi01 = _mm512_unpackhi_epi32(z[0], z[1]);
    __m512i lo23 = _mm512_unpacklo_epi32(z[2], z[3]);
    __m512i hi23 = _mm512_unpackhi_epi32(z[2], z[3]);
    h[0] = _mm512_unpacklo_epi64(lo01, lo23);
    h[1] = _mm512_unpackhi_epi64(lo01, lo23);
    h[2] = _mm512_unpacklo_epi64(hi01, hi23);
    h[3] = _mm512_unpackhi_epi64(hi01, hi23);
}

GM_INLINE __m512 gm_f16_low(__m512i v)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}

/* Q4_K and Q5_K: d, dmin and three dwords of 6-bit scales sc and minimums mn of eight sub-blocks
 * (bytes s[0..12)): j < 4: sc = s[j] & 63, mn = s[j + 4] & 63; else
 * sc = (s[j + 4] & 15) | (s[j - 4] >> 6 << 4), mn = (s[j + 4] >> 4) | (s[j] >> 6 << 4).
 * D = d sc, M = -dmin mn, at blocks b .. b + 8. */
GM_INLINE void gm_scales_6bit(struct gm_scales *s, __m512 d, __m512 dmin, const __m512i h[3],
                              int32_t b)
{
    const __m512i low4 = _mm512_set1_epi32(15);
    const __m512i low6 = _mm512_set1_epi32(63);
    const __m512i bits45 = _mm512_set1_epi32(0x30);
    const __m512 m = _mm512_sub_ps(_mm512_setzero_ps(), dmin);
#pragma GCC unroll 4
    for (unsigned j = 0; j < 4; j++) {
        __m512i a = _mm512_srli_epi32(h[0], 8 * j);
        __m512i c = _mm512_srli_epi32(h[1], 8 * j);
        __m512i e = _mm512_srli_epi32(h[2], 8 * j);
        __m512i sc = _mm512_and_si512(a, low6);
        __m512i mn = _mm512_and_si512(c, low6);
        __m512i a2 = _mm512_and_si512(_mm512_srli_epi32(a, 2), bits45);
        __m512i c2 = _mm512_and_si512(_mm512_srli_epi32(c, 2), bits45);
        __m512i sc4 = _mm512_or_si512(_mm512_and_si512(e, low4), a2);
        __m512i mn4 = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(e, 4), low4), c2);
        _mm512_store_ps(s->d[b + (int)j], _mm512_mul_ps(d, _mm512_cvtepi32_ps(sc)));
        _mm512_store_ps(s->m[b + (int)j], _mm512_mul_ps(m, _mm512_cvtepi32_ps(mn)));
        _mm512_store_ps(s->d[b + 4 + (int)j], _mm512_mul_ps(d, _mm512_cvtepi32_ps(sc4)));
        _mm512_store_ps(s->m[b + 4 + (int)j], _mm512_mul_ps(m, _mm512_cvtepi32_ps(mn4)));
    }
}

GM_INLINE void gm_scales_k(struct gm_scales *s, const uint8_t *super, size_t stride, int32_t b)
{
    __m512i h[4];
    gm_rows_128(h, super, stride);
    gm_scales_6bit(s, gm_f16_low(h[0]), gm_f16_low(_mm512_srli_epi32(h[0], 16)), h + 1, b);
}

/* Q6_K: sixteen int8 scales, one per 16 inputs; D = d sc. */
GM_INLINE void gm_scales_6k(struct gm_scales *s, const uint8_t *super, size_t stride, int32_t b)
{
    __m512i h[4];
    gm_rows_128(h, super + offsetof(struct gm_q6_k, scales), stride);
    __m512 d = gm_rows_f16(super + offsetof(struct gm_q6_k, d), stride);
#pragma GCC unroll 16
    for (unsigned j = 0; j < 16; j++) {
        __m512i sc = _mm512_srai_epi32(_mm512_slli_epi32(h[j / 4], 24 - 8 * (j % 4)), 24);
        _mm512_store_ps(s->d[2 * b + (int)j], _mm512_mul_ps(d, _mm512_cvtepi32_ps(sc)));
    }
}

/* Scales of blocks [b0, b0 + n) of 16 rows. */
GM_INLINE void gm_scales_load(struct gm_scales *s, enum gm_type t, const uint8_t *base,
                              size_t stride, int32_t b0, int32_t n)
{
    if (t != GM_TYPE_Q4_K && t != GM_TYPE_Q5_K && t != GM_TYPE_Q6_K) {
        gm_scales_simple(s, t, base, stride, b0, n);
        return;
    }
    for (int32_t b = 0; b < n; b += GM_SUPER_BLOCKS) {
        size_t at = (size_t)((b0 + b) / GM_SUPER_BLOCKS) * gm_quant_block_bytes(t);
        if (t == GM_TYPE_Q6_K) {
            gm_scales_6k(s, base + at, stride, b);
        } else {
            gm_scales_k(s, base + at, stride, b);
        }
    }
}

/* ---- the operations quant_linear.inc is written in ------------------------------------------- */

GM_INLINE gm_qi gm_qi_zero(void)
{
    return _mm512_setzero_si512();
}
GM_INLINE gm_qi gm_qi_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}
GM_INLINE gm_qi gm_qi_add(gm_qi a, gm_qi b)
{
    return _mm512_add_epi32(a, b);
}
GM_INLINE gm_qi gm_qi_load(const uint8_t *p)
{
    return _mm512_load_si512((const void *)p);
}
GM_INLINE void gm_qi_store(uint8_t *p, gm_qi v)
{
    _mm512_store_si512((void *)p, v);
}
/* 32 activations beside each half of a pair. */
GM_INLINE gm_qi gm_qi_block(const int8_t *q)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)q));
}
/* Each dword: sum + four products of weights (unsigned) and activations (signed). */
GM_INLINE gm_qi gm_qi_dot(enum gm_type t, gm_qi sum, gm_qi w, gm_qi x)
{
    (void)t;
    return _mm512_dpbusd_epi32(sum, w, x);
}
/* The same with the four activations at q for every output: one instruction reads and repeats them.
 */
GM_INLINE gm_qi gm_qi_dot_four(enum gm_type t, gm_qi sum, gm_qi w, const int8_t *q)
{
    (void)t;
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(sum)
            : "v"(w), "m"(*(const struct gm_four *)(const void *)q));
    return sum;
}
/* -2^shift times the sum of q, the integer part of the weights' offset. */
GM_INLINE gm_qi gm_qi_offset(enum gm_type t, int32_t negative_sum)
{
    const int shift = gm_quant_shift(t);
    return shift < 0 ? gm_qi_zero()
                     : _mm512_slli_epi32(_mm512_set1_epi32(negative_sum), (unsigned)shift);
}
GM_INLINE gm_qi gm_qi_bytes(int x)
{
    return _mm512_set1_epi8((char)x);
}
GM_INLINE gm_qi gm_qi_and(gm_qi a, gm_qi b)
{
    return _mm512_and_si512(a, b);
}
/* a | (b & mask) */
GM_INLINE gm_qi gm_qi_or_and(gm_qi a, gm_qi b, gm_qi mask)
{
    return _mm512_ternarylogic_epi32(a, b, mask, 0xf8);
}
#define gm_qi_left(v, n)  _mm512_slli_epi16(v, n) /* of 16-bit elements; n a constant */
#define gm_qi_right(v, n) _mm512_srli_epi16(v, n)
GM_INLINE gm_qi gm_qi_from_i8(const uint8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p));
}
GM_INLINE gm_qf gm_qf_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
GM_INLINE void gm_qf_put(float *p, gm_qf v)
{
    _mm512_store_ps(p, v);
}
GM_INLINE gm_qf gm_qf_zero(void)
{
    return _mm512_setzero_ps();
}
GM_INLINE gm_qf gm_qf_set1(float x)
{
    return _mm512_set1_ps(x);
}
GM_INLINE gm_qf gm_qf_row(const float *p)
{
    return _mm512_load_ps(p);
}
GM_INLINE gm_qf gm_qf_int(gm_qi v)
{
    return _mm512_cvtepi32_ps(v);
}
GM_INLINE gm_qf gm_qf_mul(gm_qf a, gm_qf b)
{
    return _mm512_mul_ps(a, b);
}
GM_INLINE gm_qf gm_qf_fma(gm_qf a, gm_qf b, gm_qf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
GM_INLINE gm_qf gm_qf_load(const float *p, uint32_t mask)
{
    return _mm512_maskz_loadu_ps((__mmask16)mask, p);
}
GM_INLINE void gm_qf_store(float *p, uint32_t mask, gm_qf v)
{
    _mm512_mask_storeu_ps(p, (__mmask16)mask, v);
}

#endif
