/* avx512_linear.c - linear() over quantised weights with AVX-512 VNNI.
 *
 * Owns:      the decode kernel (one row: weights go through registers once), the prefill kernel
 *            (16 outputs unpacked once, then used by tiles of rows) and the choice by type.
 * Does not:  unpack blocks (avx512_unpack.h), do float types (avx512_float.c), fix the order of
 *            sums (quant.h says it; both kernels use add_block below).
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx512_set.h"

#include "kernels/cpu/avx512_unpack.h"

enum { TILE_ROWS = 8, PANEL_BLOCK = GM_LANES * GM_QK };

/* What a kernel reads of one activation row. */
struct act_row {
    const int8_t *q;
    const float *d, *ds;
    const int32_t *neg32, *neg16;
};

GM_INLINE struct act_row act_row(const uint8_t *row, const struct gm_act *at)
{
    return (struct act_row){
        .q = (const int8_t *)(row + at->q),
        .d = (const float *)(const void *)(row + at->d),
        .ds = (const float *)(const void *)(row + at->ds),
        .neg32 = (const int32_t *)(const void *)(row + at->neg32),
        .neg16 = (const int32_t *)(const void *)(row + at->neg16),
    };
}

/* -2^shift times the sum of q, the integer part of the weights' offset. */
GM_INLINE __m512i offset_sum(enum gm_type t, int32_t negative_sum)
{
    const int shift = gm_quant_shift(t);
    if (shift < 0) {
        return _mm512_setzero_si512();
    }
    return _mm512_slli_epi32(_mm512_set1_epi32(negative_sum), (unsigned)shift);
}

GM_INLINE __m512 add_block(__m512 acc, const float *d_weights, float d_act, __m512i isum)
{
    __m512 scale = _mm512_mul_ps(_mm512_load_ps(d_weights), _mm512_set1_ps(d_act));
    return _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(isum), acc);
}

GM_INLINE __m512 add_min(__m512 acc, const float *m_weights, float ds)
{
    return _mm512_fmadd_ps(_mm512_load_ps(m_weights), _mm512_set1_ps(ds), acc);
}

/* One block of 16 outputs for one row, straight from the file's bytes. */
GM_INLINE __m512 decode_block(enum gm_type t, __m512 acc, const struct gm_group *g, int32_t b,
                              const struct gm_scales *s, int32_t in_chunk, struct act_row a)
{
    __m512i v[8];
    gm_pairs(v, t, g->base, g->stride, b);
    __m512i x = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)(a.q + b * GM_QK)));
#pragma GCC unroll 8
    for (int p = 0; p < 8; p++) {
        v[p] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), v[p], x);
    }
    __m512i lo;
    __m512i hi;
    gm_reduce(v, &lo, &hi);
    if (gm_quant_subs(t) == 2) {
        lo = _mm512_add_epi32(lo, offset_sum(t, a.neg16[2 * b]));
        hi = _mm512_add_epi32(hi, offset_sum(t, a.neg16[2 * b + 1]));
        acc = add_block(acc, s->d[2 * in_chunk], a.d[b], lo);
        return add_block(acc, s->d[2 * in_chunk + 1], a.d[b], hi);
    }
    __m512i sum = _mm512_add_epi32(_mm512_add_epi32(lo, hi), offset_sum(t, a.neg32[b]));
    acc = add_block(acc, s->d[in_chunk], a.d[b], sum);
    if (gm_quant_shift(t) < 0) {
        acc = add_min(acc, s->m[in_chunk], a.ds[b]);
    }
    return acc;
}

/* One activation row. While a group is computed the next one's bytes are fetched. */
GM_INLINE void decode(enum gm_type t, float *y, const struct gm_mat *w, const uint8_t *act,
                      int32_t begin, int32_t end)
{
    const struct gm_act at = gm_act_layout(w->cols);
    const struct act_row a = act_row(act, &at);
    const size_t group_bytes = w->row_bytes * GM_LANES;
    const size_t ahead = group_bytes / (size_t)at.blocks; /* bytes to fetch per block */
    struct gm_scales s;
    for (int32_t o = begin; o < end;) {
        const struct gm_group g = gm_group_at(w, o, end, GM_LANES);
        __m512 acc = _mm512_setzero_ps();
        for (int32_t b0 = 0; b0 < at.blocks; b0 += GM_CHUNK_BLOCKS) {
            int32_t n = at.blocks - b0 < GM_CHUNK_BLOCKS ? at.blocks - b0 : GM_CHUNK_BLOCKS;
            gm_scales_load(&s, t, g.base, g.stride, b0, n);
            for (int32_t b = b0; b < b0 + n; b++) {
                const char *next = (const char *)g.base + group_bytes + (size_t)b * ahead;
                for (size_t i = 0; i < ahead; i += 64) {
                    _mm_prefetch(next + i, _MM_HINT_T0);
                }
                acc = decode_block(t, acc, &g, b, &s, b - b0, a);
            }
        }
        _mm512_mask_storeu_ps(y + g.out, (__mmask16)g.mask, acc);
        o = g.next;
    }
}

/* Unpacked weights of a chunk: panel[block][k] lane o = inputs 4k..4k+3 of output o. */
struct chunk {
    _Alignas(64) uint8_t panel[GM_CHUNK_BLOCKS * PANEL_BLOCK];
    struct gm_scales s;
    int32_t b0, blocks;
    __mmask16 mask;
};

GM_INLINE void unpack_chunk(struct chunk *c, enum gm_type t, const struct gm_group *g)
{
    gm_scales_load(&c->s, t, g->base, g->stride, c->b0, c->blocks);
    for (int32_t b = 0; b < c->blocks; b++) {
        __m512i v[8];
        gm_pairs(v, t, g->base, g->stride, c->b0 + b);
        gm_transpose(v);
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            _mm512_store_si512((void *)(c->panel + b * PANEL_BLOCK + 64 * k), v[k]);
        }
    }
}

/* Dwords [k0, k1) of one block for `rows` rows: isum[r] += panel . q */
GM_INLINE void tile_dots(__m512i *isum, const uint8_t *panel, const int8_t *q, size_t act_stride,
                         int rows, int k0, int k1)
{
#pragma GCC unroll 8
    for (int k = k0; k < k1; k++) {
        __m512i w = _mm512_load_si512((const void *)(panel + 64 * k));
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, q + (size_t)r * act_stride + 4 * k, sizeof four);
            isum[r] = _mm512_dpbusd_epi32(isum[r], w, _mm512_set1_epi32(four));
        }
    }
}

/* One chunk of 16 outputs for `rows` rows (1..8, a constant where this is inlined). Sums of earlier
 * chunks wait in y, which is exact. */
GM_INLINE void tile(enum gm_type t, int rows, float *y, size_t y_stride, const struct chunk *c,
                    const uint8_t *act, const struct gm_act *at)
{
    const struct act_row a = act_row(act, at);
    const size_t stride4 = at->bytes / 4;
    const int subs = gm_quant_subs(t);
    const int32_t *neg = subs == 2 ? a.neg16 : a.neg32;
    __m512 acc[TILE_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        acc[r] = c->b0 == 0 ? _mm512_setzero_ps()
                            : _mm512_maskz_loadu_ps(c->mask, y + (size_t)r * y_stride);
    }
    for (int32_t i = 0; i < c->blocks; i++) {
        int32_t b = c->b0 + i;
#pragma GCC unroll 2
        for (int u = 0; u < subs; u++) {
            __m512i isum[TILE_ROWS];
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                isum[r] = offset_sum(t, neg[(size_t)r * stride4 + (size_t)(b * subs + u)]);
            }
            tile_dots(isum, c->panel + i * PANEL_BLOCK, a.q + b * GM_QK, at->bytes, rows,
                      u * 8 / subs, (u + 1) * 8 / subs);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                float d = a.d[(size_t)r * stride4 + (size_t)b];
                acc[r] = add_block(acc[r], c->s.d[i * subs + u], d, isum[r]);
            }
        }
        if (gm_quant_shift(t) < 0) {
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                acc[r] = add_min(acc[r], c->s.m[i], a.ds[(size_t)r * stride4 + (size_t)b]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        _mm512_mask_storeu_ps(y + (size_t)r * y_stride, c->mask, acc[r]);
    }
}

GM_INLINE void prefill(enum gm_type t, float *y, size_t y_stride, const struct gm_mat *w,
                       const uint8_t *act, int32_t rows, int32_t begin, int32_t end)
{
    const struct gm_act at = gm_act_layout(w->cols);
    struct chunk c;
    for (int32_t o = begin; o < end;) {
        const struct gm_group g = gm_group_at(w, o, end, GM_LANES);
        c.mask = (__mmask16)g.mask;
        for (c.b0 = 0; c.b0 < at.blocks; c.b0 += GM_CHUNK_BLOCKS) {
            int32_t left = at.blocks - c.b0;
            c.blocks = left < GM_CHUNK_BLOCKS ? left : GM_CHUNK_BLOCKS;
            unpack_chunk(&c, t, &g);
            float *out = y + g.out;
            const uint8_t *row = act;
            int32_t r = rows;
            for (; r >= 8; r -= 8, out += 8 * y_stride, row += 8 * at.bytes) {
                tile(t, 8, out, y_stride, &c, row, &at);
            }
            if (r & 4) {
                tile(t, 4, out, y_stride, &c, row, &at);
                out += 4 * y_stride;
                row += 4 * at.bytes;
            }
            if (r & 2) {
                tile(t, 2, out, y_stride, &c, row, &at);
                out += 2 * y_stride;
                row += 2 * at.bytes;
            }
            if (r & 1) {
                tile(t, 1, out, y_stride, &c, row, &at);
            }
        }
        o = g.next;
    }
}

#define QUANT_TYPES(X)                                                                             \
    X(Q8_0)                                                                                        \
    X(Q4_0)                                                                                        \
    X(Q4_1)                                                                                        \
    X(Q5_0)                                                                                        \
    X(Q5_1)                                                                                        \
    X(Q4_K)                                                                                        \
    X(Q5_K)                                                                                        \
    X(Q6_K)

#define DEFINE(T)                                                                                  \
    static void linear_##T(float *y, size_t y_stride, const struct gm_mat *w, const void *act,     \
                           int32_t rows, int32_t begin, int32_t end)                               \
    {                                                                                              \
        if (rows == 1) {                                                                           \
            decode(GM_TYPE_##T, y, w, act, begin, end);                                            \
        } else {                                                                                   \
            prefill(GM_TYPE_##T, y, y_stride, w, act, rows, begin, end);                           \
        }                                                                                          \
    }
QUANT_TYPES(DEFINE)

typedef void linear_fn(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                       int32_t rows, int32_t begin, int32_t end);

void gm_avx512_linear(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                      int32_t rows, int32_t out_begin, int32_t out_end)
{
#define ROW(T) [GM_TYPE_##T] = linear_##T,
    static linear_fn *const by_type[GM_TYPE_MAX] = {
        QUANT_TYPES(ROW)[GM_TYPE_F32] = gm_avx512_linear_float,
        [GM_TYPE_F16] = gm_avx512_linear_float,
        [GM_TYPE_BF16] = gm_avx512_linear_float,
    };
#undef ROW
    if (rows > 0 && w->cols > 0 && (unsigned)w->type < GM_TYPE_MAX && by_type[w->type]) {
        by_type[w->type](y, y_stride, w, act, rows, out_begin, out_end);
    }
}

#endif
