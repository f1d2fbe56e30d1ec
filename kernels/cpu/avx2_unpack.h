/* avx2_unpack.h - weight blocks of 8 neighbouring rows into 256-bit registers.
 *
 * Owns:      the AVX2 reading of every quantised block type: the values of one block of 32 inputs
 *            of one row, and the scales of a chunk of blocks with one lane per row.
 * Does not:  multiply. Included by avx2_*.c only.
 *
 * Values are unsigned (stored weight + 2^shift) except Q8_0's, which stay signed: an unsigned byte
 * above 127 times a signed one can overflow the 16-bit sums of pairs.
 */
#ifndef GM_KERNELS_CPU_AVX2_UNPACK_H
#define GM_KERNELS_CPU_AVX2_UNPACK_H

#include "kernels/cpu/quant.h"

#include <immintrin.h>

enum {
    GM_LANES = 8,
    GM_TILE_ROWS = 4,
    GM_TILE_GROUPS = 1,
    GM_FEW_ROWS = 32,       /* the most rows of the streaming kernel */
    GM_FEW_ROWS_BYTES = 32, /* the same where codes are whole bytes, which tiles need not unpack */
    GM_NEAR_ROWS = 4,       /* up to so many rows memory sets the pace of the streaming kernel */
    GM_STREAM_ROWS = 4,
    GM_SIGNED_Q8 = 1
};
#define GM_STREAM_IS_8 0

typedef __m256i gm_qi;
typedef __m256 gm_qf;

/* 16 bytes of nibbles: low nibbles are elements 0..15, high ones 16..31. */
GM_INLINE __m256i gm_nibbles(const uint8_t *p)
{
    __m128i v = _mm_loadu_si128((const void *)p);
    __m256i both = _mm256_set_m128i(_mm_srli_epi16(v, 4), v);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* Adds 16 where bit j of the row's 32 is set: byte j / 8 is spread, then one bit is tested. */
GM_INLINE __m256i gm_fifth_bits(__m256i v, const uint8_t *p)
{
    int32_t bits;
    memcpy(&bits, p, sizeof bits);
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                            2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201ull);
    __m256i b = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread), bit);
    __m256i on = _mm256_cmpeq_epi8(b, bit);
    return _mm256_or_si256(v, _mm256_and_si256(on, _mm256_set1_epi8(16)));
}

/* Sub-block s of a super-block at p. */
GM_INLINE __m256i gm_row_k(enum gm_type t, const uint8_t *p, int s)
{
    const __m256i low4 = _mm256_set1_epi8(15);
    if (t == GM_TYPE_Q6_K) {
        int half = s / 4;
        int part = s % 4;
        const uint8_t *ql = p + 64 * half + 32 * (part & 1);
        const uint8_t *qh = p + offsetof(struct gm_q6_k, qh) + 32 * half;
        __m256i l = _mm256_loadu_si256((const void *)ql);
        __m256i h = _mm256_loadu_si256((const void *)qh);
        l = _mm256_srl_epi16(l, _mm_cvtsi32_si128(part / 2 * 4));
        h = _mm256_srl_epi16(h, _mm_cvtsi32_si128(part * 2));
        h = _mm256_slli_epi16(_mm256_and_si256(h, _mm256_set1_epi8(3)), 4);
        return _mm256_or_si256(_mm256_and_si256(l, low4), h);
    }
    size_t qs = t == GM_TYPE_Q4_K ? offsetof(struct gm_q4_k, qs) : offsetof(struct gm_q5_k, qs);
    __m256i v = _mm256_loadu_si256((const void *)(p + qs + 32 * (s / 2)));
    v = _mm256_and_si256(_mm256_srl_epi16(v, _mm_cvtsi32_si128(s % 2 * 4)), low4);
    if (t == GM_TYPE_Q5_K) {
        const __m256i bit = _mm256_set1_epi8((char)(1 << s));
        __m256i h = _mm256_loadu_si256((const void *)(p + offsetof(struct gm_q5_k, qh)));
        __m256i on = _mm256_cmpeq_epi8(_mm256_and_si256(h, bit), bit);
        v = _mm256_or_si256(v, _mm256_and_si256(on, _mm256_set1_epi8(16)));
    }
    return v;
}

/* Values of block `b` (counted in 32 inputs) of the row at p. */
GM_INLINE __m256i gm_row(enum gm_type t, const uint8_t *p, int32_t b)
{
    size_t bytes = gm_quant_block_bytes(t);
    const uint8_t *at = p + (size_t)b * bytes;
    switch (t) {
    case GM_TYPE_Q8_0:
        return _mm256_loadu_si256((const void *)(at + offsetof(struct gm_q8_0, qs)));
    case GM_TYPE_Q4_0:
        return gm_nibbles(at + offsetof(struct gm_q4_0, qs));
    case GM_TYPE_Q4_1:
        return gm_nibbles(at + offsetof(struct gm_q4_1, qs));
    case GM_TYPE_Q5_0:
        return gm_fifth_bits(gm_nibbles(at + offsetof(struct gm_q5_0, qs)),
                             at + offsetof(struct gm_q5_0, qh));
    case GM_TYPE_Q5_1:
        return gm_fifth_bits(gm_nibbles(at + offsetof(struct gm_q5_1, qs)),
                             at + offsetof(struct gm_q5_1, qh));
    default:
        return gm_row_k(t, p + (size_t)(b / GM_SUPER_BLOCKS) * bytes, b % GM_SUPER_BLOCKS);
    }
}

/* All 8 rows of one block. */
GM_INLINE void gm_pairs(__m256i v[8], enum gm_type t, const uint8_t *base, size_t stride, int32_t b)
{
#pragma GCC unroll 8
    for (size_t r = 0; r < 8; r++) {
        v[r] = gm_row(t, base + r * stride, b);
    }
}

/* v[k] = dword k of every row, rows in lanes. v[r] holds row r before. */
GM_INLINE void gm_transpose(__m256i v[8])
{
    __m256i q[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        __m256i lo01 = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        __m256i hi01 = _mm256_unpackhi_epi32(v[i], v[i + 1]);
        __m256i lo23 = _mm256_unpacklo_epi32(v[i + 2], v[i + 3]);
        __m256i hi23 = _mm256_unpackhi_epi32(v[i + 2], v[i + 3]);
        q[i] = _mm256_unpacklo_epi64(lo01, lo23);
        q[i + 1] = _mm256_unpackhi_epi64(lo01, lo23);
        q[i + 2] = _mm256_unpacklo_epi64(hi01, hi23);
        q[i + 3] = _mm256_unpackhi_epi64(hi01, hi23);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        v[k] = _mm256_permute2x128_si256(q[k], q[k + 4], 0x20);
        v[k + 4] = _mm256_permute2x128_si256(q[k], q[k + 4], 0x31);
    }
}

/* Sums of the low four (*a) and the high four (*b) dwords of every row, rows in lanes. */
GM_INLINE void gm_reduce(const __m256i v[8], __m256i *a, __m256i *b)
{
    __m256i q0 = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    __m256i q1 = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    *a = _mm256_permute2x128_si256(q0, q1, 0x20);
    *b = _mm256_permute2x128_si256(q0, q1, 0x31);
}

/* Scales of a chunk: D[(block * subs + sub)][row] and, for types with minimums, M[block][row]. */
struct gm_scales {
    _Alignas(32) float d[GM_CHUNK_BLOCKS * 2][GM_LANES];
    _Alignas(32) float m[GM_CHUNK_BLOCKS][GM_LANES];
};

/* The f16 number at p of each of 8 rows. */
GM_INLINE __m256 gm_rows_f16(const uint8_t *p, size_t stride)
{
    __m128i v = _mm_cvtsi32_si128(gm_load_u16(p));
    v = _mm_insert_epi16(v, gm_load_u16(p + stride), 1);
    v = _mm_insert_epi16(v, gm_load_u16(p + 2 * stride), 2);
    v = _mm_insert_epi16(v, gm_load_u16(p + 3 * stride), 3);
    v = _mm_insert_epi16(v, gm_load_u16(p + 4 * stride), 4);
    v = _mm_insert_epi16(v, gm_load_u16(p + 5 * stride), 5);
    v = _mm_insert_epi16(v, gm_load_u16(p + 6 * stride), 6);
    v = _mm_insert_epi16(v, gm_load_u16(p + 7 * stride), 7);
    return _mm256_cvtph_ps(v);
}

/* 16 bytes of each of 8 rows as four registers of dwords: h[k] lane r = dword k of row r. */
GM_INLINE void gm_rows_128(__m256i h[4], const uint8_t *p, size_t stride)
{
    __m256i z[4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        __m128i lo = _mm_loadu_si128((const void *)(p + j * stride));
        __m128i hi = _mm_loadu_si128((const void *)(p + (j + 4) * stride));
        z[j] = _mm256_set_m128i(hi, lo);
    }
    __m256i lo01 = _mm256_unpacklo_epi32(z[0], z[1]);
    __m256i hi01 = _mm256_unpackhi_epi32(z[0], z[1]);
    __m256i lo23 = _mm256_unpacklo_epi32(z[2], z[3]);
    __m256i hi23 = _mm256_unpackhi_epi32(z[2], z[3]);
    h[0] = _mm256_unpacklo_epi64(lo01, lo23);
    h[1] = _mm256_unpackhi_epi64(lo01, lo23);
    h[2] = _mm256_unpacklo_epi64(hi01, hi23);
    h[3] = _mm256_unpackhi_epi64(hi01, hi23);
}

/* The low 16 bits of each dword as f16. */
GM_INLINE __m256 gm_f16_low(__m256i v)
{
    v = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

/* Q4_K and Q5_K: d, dmin and three dwords of 6-bit scales sc and minimums mn of eight sub-blocks
 * (bytes s[0..12)): j < 4: sc = s[j] & 63, mn = s[j + 4] & 63; else
 * sc = (s[j + 4] & 15) | (s[j - 4] >> 6 << 4), mn = (s[j + 4] >> 4) | (s[j] >> 6 << 4).
 * D = d sc, M = -dmin mn, at blocks b .. b + 8. */
GM_INLINE void gm_scales_6bit(struct gm_scales *s, __m256 d, __m256 dmin, const __m256i h[3],
                              int32_t b)
{
    const __m256i low4 = _mm256_set1_epi32(15);
    const __m256i low6 = _mm256_set1_epi32(63);
    const __m256i bits45 = _mm256_set1_epi32(0x30);
    const __m256 m = _mm256_sub_ps(_mm256_setzero_ps(), dmin);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m256i a = _mm256_srli_epi32(h[0], 8 * j);
        __m256i c = _mm256_srli_epi32(h[1], 8 * j);
        __m256i e = _mm256_srli_epi32(h[2], 8 * j);
        __m256i sc = _mm256_and_si256(a, low6);
        __m256i mn = _mm256_and_si256(c, low6);
        __m256i a2 = _mm256_and_si256(_mm256_srli_epi32(a, 2), bits45);
        __m256i c2 = _mm256_and_si256(_mm256_srli_epi32(c, 2), bits45);
        __m256i sc4 = _mm256_or_si256(_mm256_and_si256(e, low4), a2);
        __m256i mn4 = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(e, 4), low4), c2);
        _mm256_store_ps(s->d[b + j], _mm256_mul_ps(d, _mm256_cvtepi32_ps(sc)));
        _mm256_store_ps(s->m[b + j], _mm256_mul_ps(m, _mm256_cvtepi32_ps(mn)));
        _mm256_store_ps(s->d[b + 4 + j], _mm256_mul_ps(d, _mm256_cvtepi32_ps(sc4)));
        _mm256_store_ps(s->m[b + 4 + j], _mm256_mul_ps(m, _mm256_cvtepi32_ps(mn4)));
    }
}

GM_INLINE void gm_scales_k(struct gm_scales *s, const uint8_t *super, size_t stride, int32_t b)
{
    __m256i h[4];
    gm_rows_128(h, super, stride);
    gm_scales_6bit(s, gm_f16_low(h[0]), gm_f16_low(_mm256_srli_epi32(h[0], 16)), h + 1, b);
}

/* Q6_K: sixteen int8 scales, one per 16 inputs; D = d sc. */
GM_INLINE void gm_scales_6k(struct gm_scales *s, const uint8_t *super, size_t stride, int32_t b)
{
    __m256i h[4];
    gm_rows_128(h, super + offsetof(struct gm_q6_k, scales), stride);
    __m256 d = gm_rows_f16(super + offsetof(struct gm_q6_k, d), stride);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) {
        __m256i sc = _mm256_srai_epi32(_mm256_slli_epi32(h[j / 4], 24 - 8 * (j % 4)), 24);
        _mm256_store_ps(s->d[2 * b + j], _mm256_mul_ps(d, _mm256_cvtepi32_ps(sc)));
    }
}

/* Scales of blocks [b0, b0 + n) of 8 rows. */
GM_INLINE void gm_scales_load(struct gm_scales *s, enum gm_type t, const uint8_t *base,
                              size_t stride, int32_t b0, int32_t n)
{
    const size_t bytes = gm_quant_block_bytes(t);
    if (t != GM_TYPE_Q4_K && t != GM_TYPE_Q5_K && t != GM_TYPE_Q6_K) {
        const uint8_t *p = base + (size_t)b0 * bytes;
        for (int32_t b = 0; b < n; b++, p += bytes) {
            _mm256_store_ps(s->d[b], gm_rows_f16(p, stride));
            if (gm_quant_shift(t) < 0) {
                _mm256_store_ps(s->m[b], gm_rows_f16(p + 2, stride));
            }
        }
        return;
    }
    for (int32_t b = 0; b < n; b += GM_SUPER_BLOCKS) {
        const uint8_t *p = base + (size_t)((b0 + b) / GM_SUPER_BLOCKS) * bytes;
        if (t == GM_TYPE_Q6_K) {
            gm_scales_6k(s, p, stride, b);
        } else {
            gm_scales_k(s, p, stride, b);
        }
    }
}

/* ---- the operations quant_linear.inc is written in ------------------------------------------- */

GM_INLINE gm_qi gm_qi_zero(void)
{
    return _mm256_setzero_si256();
}
GM_INLINE gm_qi gm_qi_set1(int32_t x)
{
    return _mm256_set1_epi32(x);
}
GM_INLINE gm_qi gm_qi_add(gm_qi a, gm_qi b)
{
    return _mm256_add_epi32(a, b);
}
GM_INLINE gm_qi gm_qi_load(const uint8_t *p)
{
    return _mm256_load_si256((const void *)p);
}
GM_INLINE void gm_qi_store(uint8_t *p, gm_qi v)
{
    _mm256_store_si256((void *)p, v);
}
GM_INLINE gm_qi gm_qi_block(const int8_t *q)
{
    return _mm256_loadu_si256((const void *)q);
}
/* Each dword: sum + four products. Q8_0: |w| times x with w's sign, at most 2 * 128 * 127 in 16
 * bits; the others are unsigned and at most 63: 2 * 63 * 127. */
GM_INLINE gm_qi gm_qi_dot(enum gm_type t, gm_qi sum, gm_qi w, gm_qi x)
{
    __m256i pairs = t == GM_TYPE_Q8_0
                        ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                        : _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
/* The same with the four activations at q for every output. */
GM_INLINE gm_qi gm_qi_dot_four(enum gm_type t, gm_qi sum, gm_qi w, const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return gm_qi_dot(t, sum, w, _mm256_set1_epi32(four));
}
/* -2^shift times the sum of q, the integer part of the weights' offset; Q8_0 is read signed. */
GM_INLINE gm_qi gm_qi_offset(enum gm_type t, int32_t negative_sum)
{
    const int shift = gm_quant_shift(t);
    return shift < 0 || t == GM_TYPE_Q8_0
               ? gm_qi_zero()
               : _mm256_slli_epi32(_mm256_set1_epi32(negative_sum), shift);
}
GM_INLINE gm_qi gm_qi_bytes(int x)
{
    return _mm256_set1_epi8((char)x);
}
GM_INLINE gm_qi gm_qi_and(gm_qi a, gm_qi b)
{
    return _mm256_and_si256(a, b);
}
/* a | (b & mask) */
GM_INLINE gm_qi gm_qi_or_and(gm_qi a, gm_qi b, gm_qi mask)
{
    return _mm256_or_si256(a, _mm256_and_si256(b, mask));
}
#define gm_qi_left(v, n)  _mm256_slli_epi16(v, n) /* of 16-bit elements; n a constant */
#define gm_qi_right(v, n) _mm256_srli_epi16(v, n)
GM_INLINE gm_qi gm_qi_from_i8(const uint8_t *p)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p));
}
GM_INLINE gm_qf gm_qf_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}
GM_INLINE void gm_qf_put(float *p, gm_qf v)
{
    _mm256_store_ps(p, v);
}
GM_INLINE gm_qf gm_qf_zero(void)
{
    return _mm256_setzero_ps();
}
GM_INLINE gm_qf gm_qf_set1(float x)
{
    return _mm256_set1_ps(x);
}
GM_INLINE gm_qf gm_qf_row(const float *p)
{
    return _mm256_load_ps(p);
}
GM_INLINE gm_qf gm_qf_int(gm_qi v)
{
    return _mm256_cvtepi32_ps(v);
}
GM_INLINE gm_qf gm_qf_mul(gm_qf a, gm_qf b)
{
    return _mm256_mul_ps(a, b);
}
GM_INLINE gm_qf gm_qf_fma(gm_qf a, gm_qf b, gm_qf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
GM_INLINE __m256i gm_lane_mask(uint32_t mask)
{
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i m = _mm256_and_si256(_mm256_set1_epi32((int32_t)mask), bits);
    return _mm256_cmpeq_epi32(m, bits);
}
GM_INLINE gm_qf gm_qf_load(const float *p, uint32_t mask)
{
    return _mm256_maskload_ps(p, gm_lane_mask(mask));
}
GM_INLINE void gm_qf_store(float *p, uint32_t mask, gm_qf v)
{
    _mm256_maskstore_ps(p, gm_lane_mask(mask), v);
}

#endif
