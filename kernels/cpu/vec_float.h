/* vec_float.h - linear() over F32, F16 and BF16 weights, for both instruction sets.
 *
 * Owns:      their packed layout, the kernel over it, the kernel over weights as they lie in the
 *            file (which packs a piece at a time), and the order of the sums.
 * Does not:  read quantised types. Included by avx2_float.c and avx512_float.c only.
 *
 * Order: four partial sums per output, input i goes to sum i mod 4 in rising order with one fma
 * each; then (s0 + s1) + (s2 + s3).
 * Layout: outputs in groups of 16, the last one padded with zeros; a group is its columns in order,
 * a column the 16 outputs' weights; groups begin at whole cache lines.
 */
#ifndef GM_KERNELS_CPU_VEC_FLOAT_H
#define GM_KERNELS_CPU_VEC_FLOAT_H

#include "kernels/cpu/vec.h"

enum {
    GM_FLOAT_SUMS = 4,
    GM_FLOAT_ROWS = 4,        /* rows that share one reading of a column */
    GM_FLOAT_PIECE = 128,     /* columns packed at once from the file's layout; a multiple of 4 */
    GM_FLOAT_PIECE_ROWS = 64, /* rows whose partial sums wait meanwhile */
    GM_FLOAT_AHEAD = 1024,    /* bytes from what is used to what is fetched */
};

GM_INLINE size_t gm_float_size(enum gm_type t)
{
    return t == GM_TYPE_F32 ? sizeof(float) : sizeof(uint16_t);
}

GM_INLINE size_t gm_float_group_bytes(enum gm_type t, int32_t cols)
{
    const size_t bytes = (size_t)cols * GM_VF * gm_float_size(t);
    return (bytes + 63) / 64 * 64;
}

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

/* Columns [from, from + n) of the group at output o into out. */
static inline void gm_float_pack(uint8_t *out, const struct gm_mat *w, int32_t o, int32_t from,
                                 int32_t n)
{
    const size_t size = gm_float_size(w->type);
    const int32_t lanes = w->rows - o < GM_VF ? w->rows - o : GM_VF;
    if (lanes < GM_VF) {
        memset(out, 0, (size_t)n * GM_VF * size);
    }
    for (size_t lane = 0; lane < (size_t)lanes; lane++) {
        const uint8_t *p =
            (const uint8_t *)w->data + ((size_t)o + lane) * w->row_bytes + (size_t)from * size;
        for (size_t i = 0; i < (size_t)n; i++) {
            memcpy(out + (i * GM_VF + lane) * size, p + i * size, size);
        }
    }
}

/* The partial sums of `rows` rows for one group. */
struct gm_float_sums {
    gm_vf s[GM_FLOAT_ROWS][GM_FLOAT_SUMS];
};

/* Adds columns [0, n) of packed weights p; x[r * x_stride + i]. rows is a constant where inlined.
 */
GM_INLINE void gm_float_add(enum gm_type t, int rows, struct gm_float_sums *a, const uint8_t *p,
                            const float *x, size_t x_stride, int32_t n)
{
    const size_t step = GM_VF * gm_float_size(t);
    int32_t i = 0;
    for (; i + GM_FLOAT_SUMS <= n; i += GM_FLOAT_SUMS, p += GM_FLOAT_SUMS * step) {
#pragma GCC unroll 4
        for (int k = 0; k < GM_FLOAT_SUMS; k++) {
            _mm_prefetch((const char *)p + GM_FLOAT_AHEAD + (size_t)k * step, _MM_HINT_T0);
            const gm_vf w = gm_weights(t, p + (size_t)k * step);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                const gm_vf v = gm_vf_set1(x[(size_t)r * x_stride + (size_t)(i + k)]);
                a->s[r][k] = gm_vf_fma(w, v, a->s[r][k]);
            }
        }
    }
    for (int k = 0; i < n; i++, k++, p += step) {
        const gm_vf w = gm_weights(t, p);
        for (int r = 0; r < rows; r++) {
            const gm_vf v = gm_vf_set1(x[(size_t)r * x_stride + (size_t)i]);
            a->s[r][k] = gm_vf_fma(w, v, a->s[r][k]);
        }
    }
}

GM_INLINE gm_vf gm_float_total(const gm_vf s[GM_FLOAT_SUMS])
{
    return gm_vf_add(gm_vf_add(s[0], s[1]), gm_vf_add(s[2], s[3]));
}

/* What one call works on. */
struct gm_float_call {
    float *y;
    size_t y_stride;
    const float *x; /* first activation row */
    size_t x_stride;
    int32_t begin, end; /* outputs */
};

/* Writes outputs of the group at o that are wanted. */
GM_INLINE void gm_float_store(const struct gm_float_call *c, int32_t row, int32_t o, gm_vf v)
{
    const int32_t from = c->begin > o ? c->begin - o : 0;
    const int32_t to = c->end - o < GM_VF ? c->end - o : GM_VF;
    float *y = c->y + (size_t)row * c->y_stride;
    if (from == 0) {
        gm_vf_store_n(y + o, v, (size_t)to);
        return;
    }
    float part[GM_VF];
    gm_vf_store(part, v);
    memcpy(y + o + from, part + from, (size_t)(to - from) * sizeof(float));
}

/* rows is a constant where inlined. */
GM_INLINE void gm_float_rows(enum gm_type t, int rows, const struct gm_float_call *c, int32_t row,
                             int32_t o, const uint8_t *p, int32_t cols)
{
    struct gm_float_sums a;
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int k = 0; k < GM_FLOAT_SUMS; k++) {
            a.s[r][k] = gm_vf_zero();
        }
    }
    gm_float_add(t, rows, &a, p, c->x + (size_t)row * c->x_stride, c->x_stride, cols);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        gm_float_store(c, row + r, o, gm_float_total(a.s[r]));
    }
}

/* Packed weights; `most` rows at once: 4, or 1 where registers are few. */
GM_INLINE void gm_float_packed(enum gm_type t, int most, const struct gm_float_call *c,
                               const struct gm_mat *w, int32_t rows)
{
    const size_t bytes = gm_float_group_bytes(t, w->cols);
    for (int32_t o = c->begin / GM_VF * GM_VF; o < c->end; o += GM_VF) {
        const uint8_t *p = (const uint8_t *)w->data + (size_t)(o / GM_VF) * bytes;
        int32_t r = 0;
        for (; most == 4 && r + 4 <= rows; r += 4) {
            gm_float_rows(t, 4, c, r, o, p, w->cols);
        }
        for (; r < rows; r++) {
            gm_float_rows(t, 1, c, r, o, p, w->cols);
        }
    }
}

/* One piece of columns for one row, whose partial sums wait in `wait`. */
GM_INLINE void gm_float_piece(enum gm_type t, float wait[GM_FLOAT_SUMS][GM_VF], const uint8_t *p,
                              const float *x, int32_t n)
{
    struct gm_float_sums a;
#pragma GCC unroll 4
    for (int k = 0; k < GM_FLOAT_SUMS; k++) {
        a.s[0][k] = gm_vf_load(wait[k]);
    }
    gm_float_add(t, 1, &a, p, x, 0, n);
#pragma GCC unroll 4
    for (int k = 0; k < GM_FLOAT_SUMS; k++) {
        gm_vf_store(wait[k], a.s[0][k]);
    }
}

/* Weights as they lie in the file: slower, the same bits. */
GM_INLINE void gm_float_file(enum gm_type t, const struct gm_float_call *c, const struct gm_mat *w,
                             int32_t row, int32_t rows)
{
    float wait[GM_FLOAT_PIECE_ROWS][GM_FLOAT_SUMS][GM_VF];
    uint8_t piece[GM_FLOAT_PIECE * GM_VF * sizeof(float)];
    for (int32_t o = c->begin / GM_VF * GM_VF; o < c->end; o += GM_VF) {
        memset(wait, 0, (size_t)rows * sizeof wait[0]);
        for (int32_t i = 0; i < w->cols; i += GM_FLOAT_PIECE) {
            const int32_t n = w->cols - i < GM_FLOAT_PIECE ? w->cols - i : GM_FLOAT_PIECE;
            gm_float_pack(piece, w, o, i, n);
            for (int32_t r = 0; r < rows; r++) {
                gm_float_piece(t, wait[r], piece, c->x + (size_t)(row + r) * c->x_stride + i, n);
            }
        }
        for (int32_t r = 0; r < rows; r++) {
            const gm_vf s[GM_FLOAT_SUMS] = { gm_vf_load(wait[r][0]), gm_vf_load(wait[r][1]),
                                             gm_vf_load(wait[r][2]), gm_vf_load(wait[r][3]) };
            gm_float_store(c, row + r, o, gm_float_total(s));
        }
    }
}

GM_INLINE void gm_linear_float(enum gm_type t, int most, const struct gm_float_call *c,
                               const struct gm_mat *w, int32_t rows)
{
    if (w->packed) {
        gm_float_packed(t, most, c, w, rows);
        return;
    }
    for (int32_t r = 0; r < rows; r += GM_FLOAT_PIECE_ROWS) {
        gm_float_file(t, c, w, r, rows - r < GM_FLOAT_PIECE_ROWS ? rows - r : GM_FLOAT_PIECE_ROWS);
    }
}

/* y = scale * the packed output `id`. */
static inline void gm_float_embed(float *y, const struct gm_mat *w, int32_t id, float scale)
{
    const size_t size = gm_float_size(w->type);
    const uint8_t *p = (const uint8_t *)w->data +
                       (size_t)(id / GM_VF) * gm_float_group_bytes(w->type, w->cols) +
                       (size_t)(id % GM_VF) * size;
    for (int32_t i = 0; i < w->cols; i++, p += GM_VF * size) {
        float x;
        gm_dequant_row(&x, p, w->type, 1);
        y[i] = x * scale;
    }
}

#endif
