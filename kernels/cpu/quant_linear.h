/* quant_linear.h - linear() over quantised weights, for both instruction sets.
 *
 * Owns:      the decode kernel (one row: weights go through registers once), the prefill kernel
 *            (GM_LANES outputs unpacked once, then used by tiles of rows), the instances by type.
 * Does not:  unpack blocks or name an instruction (avx2_unpack.h, avx512_unpack.h), do float types
 *            (vec_float.h). quant.h says the order of the sums.
 *
 * Included once by avx2_linear.c and once by avx512_linear.c, after the unpack header, which gives:
 * GM_LANES, GM_TILE_ROWS, the registers gm_qi (GM_LANES int32) and gm_qf (GM_LANES floats) with
 * their few operations, gm_pairs, gm_transpose, gm_reduce, gm_scales_load.
 */
#ifndef GM_KERNELS_CPU_QUANT_LINEAR_H
#define GM_KERNELS_CPU_QUANT_LINEAR_H

#include "kernels/cpu/quant.h"

enum {
    PANEL_BLOCK = GM_LANES * GM_QK,
    FAR_GROUPS = 16 / GM_LANES, /* from the next group to the one fetched into the second level */
};

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

/* acc + (D d) isum, acc + M ds */
GM_INLINE gm_qf add_block(gm_qf acc, const float *d_weights, float d_act, gm_qi isum)
{
    return gm_qf_fma(gm_qf_mul(gm_qf_row(d_weights), gm_qf_set1(d_act)), gm_qf_int(isum), acc);
}

GM_INLINE gm_qf add_min(gm_qf acc, const float *m_weights, float ds)
{
    return gm_qf_fma(gm_qf_row(m_weights), gm_qf_set1(ds), acc);
}

/* One block of GM_LANES outputs for one row, straight from the file's bytes. */
GM_INLINE gm_qf decode_block(enum gm_type t, gm_qf acc, const struct gm_group *g, int32_t b,
                             const struct gm_scales *s, int32_t in_chunk, struct act_row a)
{
    gm_qi v[8];
    gm_pairs(v, t, g->base, g->stride, b);
    gm_qi x = gm_qi_block(a.q + b * GM_QK);
#pragma GCC unroll 8
    for (int p = 0; p < 8; p++) {
        v[p] = gm_qi_dot(t, gm_qi_zero(), v[p], x);
    }
    gm_qi lo;
    gm_qi hi;
    gm_reduce(v, &lo, &hi);
    if (gm_quant_subs(t) == 2) {
        lo = gm_qi_add(lo, gm_qi_offset(t, a.neg16[2 * b]));
        hi = gm_qi_add(hi, gm_qi_offset(t, a.neg16[2 * b + 1]));
        acc = add_block(acc, s->d[2 * in_chunk], a.d[b], lo);
        return add_block(acc, s->d[2 * in_chunk + 1], a.d[b], hi);
    }
    gm_qi sum = gm_qi_add(gm_qi_add(lo, hi), gm_qi_offset(t, a.neg32[b]));
    acc = add_block(acc, s->d[in_chunk], a.d[b], sum);
    if (gm_quant_shift(t) < 0) {
        acc = add_min(acc, s->m[in_chunk], a.ds[b]);
    }
    return acc;
}

/* One activation row. While a group is computed the next one's bytes are fetched into the first
 * level and a later one's into the second. A prefetch past the matrix's end does nothing. */
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
        gm_qf acc = gm_qf_zero();
        for (int32_t b0 = 0; b0 < at.blocks; b0 += GM_CHUNK_BLOCKS) {
            int32_t n = at.blocks - b0 < GM_CHUNK_BLOCKS ? at.blocks - b0 : GM_CHUNK_BLOCKS;
            gm_scales_load(&s, t, g.base, g.stride, b0, n);
            for (int32_t b = b0; b < b0 + n; b++) {
                const char *next = (const char *)g.base + group_bytes + (size_t)b * ahead;
                for (size_t i = 0; i < ahead; i += 64) {
                    _mm_prefetch(next + i, _MM_HINT_T0);
                    _mm_prefetch(next + FAR_GROUPS * group_bytes + i, _MM_HINT_T1);
                }
                acc = decode_block(t, acc, &g, b, &s, b - b0, a);
            }
        }
        gm_qf_store(y + g.out, g.mask, acc);
        o = g.next;
    }
}

/* Unpacked weights of a chunk: panel[block][k] lane o = inputs 4k..4k+3 of output o. */
struct chunk {
    _Alignas(64) uint8_t panel[GM_CHUNK_BLOCKS * PANEL_BLOCK];
    struct gm_scales s;
    int32_t b0, blocks;
    uint32_t mask;
};

GM_INLINE void unpack_chunk(struct chunk *c, enum gm_type t, const struct gm_group *g)
{
    gm_scales_load(&c->s, t, g->base, g->stride, c->b0, c->blocks);
    for (int32_t b = 0; b < c->blocks; b++) {
        gm_qi v[8];
        gm_pairs(v, t, g->base, g->stride, c->b0 + b);
        gm_transpose(v);
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            gm_qi_store(c->panel + b * PANEL_BLOCK + 4 * GM_LANES * k, v[k]);
        }
    }
}

/* Sub-block u of one block for `rows` rows: isum[r] += panel . q */
GM_INLINE void tile_dots(enum gm_type t, gm_qi *isum, const uint8_t *panel, const int8_t *q,
                         size_t act_stride, int rows, int u)
{
    const int dwords = GM_QK / 4 / gm_quant_subs(t);
#pragma GCC unroll 8
    for (int k = u * dwords; k < (u + 1) * dwords; k++) {
        gm_qi w = gm_qi_load(panel + 4 * GM_LANES * k);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, q + (size_t)r * act_stride + 4 * k, sizeof four);
            isum[r] = gm_qi_dot(t, isum[r], w, gm_qi_set1(four));
        }
    }
}

/* One chunk of GM_LANES outputs for `rows` rows (1..GM_TILE_ROWS, a constant where this is
 * inlined). Sums of earlier chunks wait in y, which is exact. */
GM_INLINE void tile(enum gm_type t, int rows, float *y, size_t y_stride, const struct chunk *c,
                    const uint8_t *act, const struct gm_act *at)
{
    const struct act_row a = act_row(act, at);
    const size_t stride4 = at->bytes / 4;
    const int subs = gm_quant_subs(t);
    const int32_t *neg = subs == 2 ? a.neg16 : a.neg32;
    gm_qf acc[GM_TILE_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        acc[r] = c->b0 == 0 ? gm_qf_zero() : gm_qf_load(y + (size_t)r * y_stride, c->mask);
    }
    for (int32_t i = 0; i < c->blocks; i++) {
        int32_t b = c->b0 + i;
#pragma GCC unroll 2
        for (int u = 0; u < subs; u++) {
            gm_qi isum[GM_TILE_ROWS];
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                isum[r] = gm_qi_offset(t, neg[(size_t)r * stride4 + (size_t)(b * subs + u)]);
            }
            tile_dots(t, isum, c->panel + i * PANEL_BLOCK, a.q + b * GM_QK, at->bytes, rows, u);
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
        gm_qf_store(y + (size_t)r * y_stride, c->mask, acc[r]);
    }
}

/* Where results go: y[r * stride + o]. */
struct outputs {
    float *y;
    size_t stride;
};

/* Many rows. */
GM_INLINE void prefill(enum gm_type t, struct outputs dst, const struct gm_mat *w,
                       const uint8_t *act, int32_t rows, int32_t begin, int32_t end)
{
    const struct gm_act at = gm_act_layout(w->cols);
    struct chunk c;
    for (int32_t o = begin; o < end;) {
        const struct gm_group g = gm_group_at(w, o, end, GM_LANES);
        c.mask = g.mask;
        for (c.b0 = 0; c.b0 < at.blocks; c.b0 += GM_CHUNK_BLOCKS) {
            int32_t left = at.blocks - c.b0;
            c.blocks = left < GM_CHUNK_BLOCKS ? left : GM_CHUNK_BLOCKS;
            unpack_chunk(&c, t, &g);
            float *out = dst.y + g.out;
            const uint8_t *row = act;
            int32_t r = rows;
            if (GM_TILE_ROWS == 8) {
                for (; r >= 8; r -= 8, out += 8 * dst.stride, row += 8 * at.bytes) {
                    tile(t, 8, out, dst.stride, &c, row, &at);
                }
            }
            for (; r >= 4; r -= 4) {
                tile(t, 4, out, dst.stride, &c, row, &at);
                out += 4 * dst.stride;
                row += 4 * at.bytes;
            }
            if (r & 2) {
                tile(t, 2, out, dst.stride, &c, row, &at);
                out += 2 * dst.stride;
                row += 2 * at.bytes;
            }
            if (r & 1) {
                tile(t, 1, out, dst.stride, &c, row, &at);
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
            prefill(GM_TYPE_##T, (struct outputs){ y, y_stride }, w, act, rows, begin, end);       \
        }                                                                                          \
    }
QUANT_TYPES(DEFINE)

typedef void linear_fn(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                       int32_t rows, int32_t begin, int32_t end);

/* The kernel of a quantised type; NULL for any other type. */
static inline linear_fn *quant_linear(enum gm_type t)
{
#define ROW(T) [GM_TYPE_##T] = linear_##T,
    static linear_fn *const by_type[GM_TYPE_MAX] = { QUANT_TYPES(ROW) };
#undef ROW
    return (unsigned)t < GM_TYPE_MAX ? by_type[t] : NULL;
}

#endif
