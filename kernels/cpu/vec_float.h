/* vec_float.h - linear() over F32, F16 and BF16 weights, for both instruction sets.
 *
 * Owns:      the tile of 4 outputs by up to 4 rows, and the order of its sums: sixteen lanes, lane
 * l takes inputs i = l (mod 16) in rising order with one fma each, then gm_vf_sum. Does not:  read
 * quantised types. Included by avx2_float.c and avx512_float.c only.
 */
#ifndef GM_KERNELS_CPU_VEC_FLOAT_H
#define GM_KERNELS_CPU_VEC_FLOAT_H

#include "kernels/cpu/vec.h"

enum {
    GM_FLOAT_OUTS = 4,
    GM_FLOAT_ROWS = 4,
    GM_FLOAT_FAR = 32, /* weight rows ahead that are fetched into the second-level cache */
};

GM_INLINE gm_vf gm_weights(enum gm_type t, const uint8_t *p)
{
    switch (t) {
    case GM_TYPE_F32:
        return gm_vf_load(p);
    case GM_TYPE_F16:
        return gm_vf_from_f16(p);
    default:
        return gm_vf_from_bf16(p);
    }
}

/* The last n < 16 weights of a row, zeros above. */
GM_INLINE gm_vf gm_weights_n(enum gm_type t, const uint8_t *p, size_t n)
{
    uint8_t part[GM_VF * sizeof(float)] = { 0 };
    memcpy(part, p, n * (t == GM_TYPE_F32 ? sizeof(float) : sizeof(uint16_t)));
    return gm_weights(t, part);
}

/* What one tile works on. */
struct gm_float_tile {
    float *y;
    size_t y_stride;
    const uint8_t *w; /* first weight row */
    size_t w_stride;
    const uint8_t *act; /* first activation row; floats, padded with zeros to whole lanes */
    size_t act_stride;
    size_t cols;
};

/* outs and rows are constants where this is inlined. */
GM_INLINE void gm_float_tile(enum gm_type t, int outs, int rows, const struct gm_float_tile *f)
{
    const size_t size = t == GM_TYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    gm_vf acc[GM_FLOAT_ROWS][GM_FLOAT_OUTS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int o = 0; o < outs; o++) {
            acc[r][o] = gm_vf_zero();
        }
    }
    for (size_t i = 0; i < f->cols; i += GM_VF) {
        size_t left = f->cols - i;
        gm_vf w[GM_FLOAT_OUTS];
#pragma GCC unroll 4
        for (int o = 0; o < outs; o++) {
            const uint8_t *p = f->w + (size_t)o * f->w_stride + i * size;
            if (rows == 1) {
                _mm_prefetch((const char *)(p + GM_FLOAT_OUTS * f->w_stride), _MM_HINT_T0);
                _mm_prefetch((const char *)(p + GM_FLOAT_FAR * f->w_stride), _MM_HINT_T1);
            }
            w[o] = left >= GM_VF ? gm_weights(t, p) : gm_weights_n(t, p, left);
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            gm_vf x = gm_vf_load(f->act + (size_t)r * f->act_stride + i * sizeof(float));
#pragma GCC unroll 4
            for (int o = 0; o < outs; o++) {
                acc[r][o] = gm_vf_fma(w[o], x, acc[r][o]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int o = 0; o < outs; o++) {
            f->y[(size_t)r * f->y_stride + (size_t)o] = gm_vf_sum(acc[r][o]);
        }
    }
}

/* All rows for `outs` outputs; tiles of up to `most` rows (2 where registers are few). */
GM_INLINE void gm_float_rows(enum gm_type t, int outs, int most, struct gm_float_tile f,
                             int32_t rows)
{
    while (rows > 0) {
        int32_t n = rows < most ? rows : most;
        if (n == 4) {
            gm_float_tile(t, outs, 4, &f);
        } else if (n >= 2) {
            n = 2;
            gm_float_tile(t, outs, 2, &f);
        } else {
            gm_float_tile(t, outs, 1, &f);
        }
        f.y += (size_t)n * f.y_stride;
        f.act += (size_t)n * f.act_stride;
        rows -= n;
    }
}

/* y[r][o] for o in [begin, end) of one tile description whose y and w are those of output 0. */
GM_INLINE void gm_linear_float(enum gm_type t, int most, struct gm_float_tile f, int32_t rows,
                               int32_t begin, int32_t end)
{
    f.y += begin;
    f.w += (size_t)begin * f.w_stride;
    for (int32_t o = begin; o < end;) {
        int32_t outs = end - o >= GM_FLOAT_OUTS ? GM_FLOAT_OUTS : 1;
        if (outs == GM_FLOAT_OUTS) {
            gm_float_rows(t, GM_FLOAT_OUTS, most, f, rows);
        } else {
            gm_float_rows(t, 1, most, f, rows);
        }
        f.y += outs;
        f.w += (size_t)outs * f.w_stride;
        o += outs;
    }
}

#endif
