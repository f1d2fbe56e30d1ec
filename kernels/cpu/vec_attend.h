/* vec_attend.h - softmax attention over pages of keys and values, for both instruction sets.
 *
 * Owns:      attend(), attend_part(), attend_join(): one page for a tile of queries, and how the
 *            parts of pages are folded. The order of sums stands in kernels/kernels.h.
 * Does not:  store keys and values (vec_point.h) or multiply pairs of bf16 (avx512bf16_attend.c,
 *            which takes the walk and the weights from here). Included by *_attend.c only.
 *
 * A query is one head of one row. The queries of one kv head are numbered row * group + head; a
 * tile is up to GM_ATT_Q neighbours of them. Scores have positions in lanes, values have
 * dimensions in lanes, so neither needs a sum across lanes, and which queries share a tile does not
 * touch anybody's bits. The code is written for a KV type, a number of queries and a number of
 * vectors that are constants where it is inlined.
 */
#ifndef GM_KERNELS_CPU_VEC_ATTEND_H
#define GM_KERNELS_CPU_VEC_ATTEND_H

#include "kernels/cpu/vec.h"

#include <float.h>

enum {
    GM_ATT_Q = 6,                 /* queries of the largest tile */
    GM_ATT_V = GM_PAGE / GM_VF,   /* vectors of positions in a page */
    GM_ATT_EXPAND = 8 * GM_ATT_Q, /* from so many queries on a page is turned to floats */
};

/* Vectors held per query in registers: the accumulators of six queries fit the register file. And
 * dimensions or places taken at a time: with two, which one of a pair it is costs nothing. */
#if defined(__AVX512F__)
enum { GM_ATT_VECS = 4, GM_ATT_STEP = 2 };
#else
enum { GM_ATT_VECS = 1, GM_ATT_STEP = 1 };
#endif

/* What is constant where code is inlined: KV type, queries, vectors of one accumulator. */
struct gm_att_shape {
    enum gm_kv_type t;
    int nq, nv;
};

/* One page of one kv head. */
struct gm_att_page {
    const uint8_t *keys;
    const uint8_t *values;
    int32_t dim;
};

/* A tile of queries in one page. */
struct gm_att_tile {
    const float *q[GM_ATT_Q];
    float *part[GM_ATT_Q]; /* record of GM_PART_FLOATS, see kernels.h */
    int32_t lo[GM_ATT_Q];  /* visible places of the page: [lo, hi) */
    int32_t hi[GM_ATT_Q];
    int32_t fresh[GM_ATT_Q];            /* the record holds nothing yet */
    float p[GM_ATT_Q][GM_PAGE];         /* scores, then weights */
    float old_by[GM_VF], new_by[GM_VF]; /* per query: factors of the record and of this page */
};

/* Keys of places [i, i + 16) at dimension d. */
GM_INLINE gm_vf gm_att_key(enum gm_kv_type t, const struct gm_att_page *page, int32_t d, int32_t i)
{
    const size_t at = (size_t)d * GM_PAGE + (size_t)i;
    switch (t) {
    case GM_KV_F32:
        return gm_vf_load(page->keys + at * sizeof(float));
    case GM_KV_F16:
        return gm_vf_from_f16(page->keys + at * sizeof(uint16_t));
    case GM_KV_BF16: {
        const size_t pair = (size_t)(d / 2) * GM_PAGE + (size_t)i;
        const uint8_t *p = page->keys + pair * 2 * sizeof(uint16_t);
        return gm_vf_from_bf16_pairs(p, d % 2);
    }
    default: {
        const size_t scale = (size_t)(d / GM_QK) * GM_PAGE + (size_t)i;
        const size_t codes = (size_t)(page->dim / GM_QK) * GM_PAGE * sizeof(uint16_t);
        return gm_vf_mul(gm_vf_from_f16(page->keys + scale * sizeof(uint16_t)),
                         gm_vf_from_i8(page->keys + codes + at));
    }
    }
}

/* Elements [d, d + 16) of the value at place i. */
GM_INLINE gm_vf gm_att_value(enum gm_kv_type t, const struct gm_att_page *page, int32_t i,
                             int32_t d)
{
    const size_t at = (size_t)i * (size_t)page->dim + (size_t)d;
    switch (t) {
    case GM_KV_F32:
        return gm_vf_load(page->values + at * sizeof(float));
    case GM_KV_F16:
        return gm_vf_from_f16(page->values + at * sizeof(uint16_t));
    case GM_KV_BF16: {
        const size_t pair = (size_t)(i / 2) * (size_t)page->dim + (size_t)d;
        const uint8_t *p = page->values + pair * 2 * sizeof(uint16_t);
        return gm_vf_from_bf16_pairs(p, i % 2);
    }
    default: {
        const uint8_t *block = page->values + at / GM_QK * sizeof(struct gm_q8_0);
        gm_vf scale = gm_vf_set1(gm_half_to_float(gm_load_u16(block)));
        return gm_vf_mul(scale, gm_vf_from_i8(block + offsetof(struct gm_q8_0, qs) + d % GM_QK));
    }
    }
}

/* Adds dimension d of `nq` queries at places [i, i + 16 nv). */
GM_INLINE void gm_att_score_dim(struct gm_att_shape k, gm_vf acc[GM_ATT_Q][GM_ATT_VECS],
                                const float *const *q, const struct gm_att_page *page, int32_t d,
                                int32_t i)
{
    gm_vf x[GM_ATT_VECS];
#pragma GCC unroll 8
    for (int v = 0; v < k.nv; v++) {
        x[v] = gm_att_key(k.t, page, d, i + v * GM_VF);
    }
#pragma GCC unroll 8
    for (int n = 0; n < k.nq; n++) {
        gm_vf w = gm_vf_set1(q[n][d]);
#pragma GCC unroll 8
        for (int v = 0; v < k.nv; v++) {
            acc[n][v] = gm_vf_fma(w, x[v], acc[n][v]);
        }
    }
}

/* Scores of `nq` queries at places [i, i + 16 nv). */
GM_INLINE void gm_att_score(struct gm_att_shape k, struct gm_att_tile *tile,
                            const struct gm_att_page *page, int32_t i)
{
    gm_vf acc[GM_ATT_Q][GM_ATT_VECS];
    const float *q[GM_ATT_Q];
#pragma GCC unroll 8
    for (int n = 0; n < k.nq; n++) {
        q[n] = tile->q[n];
#pragma GCC unroll 8
        for (int v = 0; v < k.nv; v++) {
            acc[n][v] = gm_vf_zero();
        }
    }
    for (int32_t step = 0; step < page->dim / GM_ATT_STEP; step++) {
#pragma GCC unroll 2
        for (int32_t at = 0; at < GM_ATT_STEP; at++) {
            gm_att_score_dim(k, acc, q, page, GM_ATT_STEP * step + at, i);
        }
    }
#pragma GCC unroll 8
    for (int n = 0; n < k.nq; n++) {
#pragma GCC unroll 8
        for (int v = 0; v < k.nv; v++) {
            gm_vf_store(tile->p[n] + i + v * GM_VF, acc[n][v]);
        }
    }
}

/* Lane numbers, to compare places with. */
static const float gm_att_lane[GM_VF] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

/* p[0..64): scores -> soft cap, -inf outside [lo, hi), exp(score - m); returns m in *top and the
 * sum. Without a score above -inf the weights are exp(-inf) = 0; a NaN makes the sum NaN. */
GM_INLINE float gm_att_softmax(float *p, int32_t lo, int32_t hi, float cap, float *top)
{
    gm_vf s[GM_ATT_V];
    const gm_vf none = gm_vf_set1(-__builtin_inff());
    const gm_vf lane = gm_vf_load(gm_att_lane);
    gm_vf most = none;
#pragma GCC unroll 8
    for (int v = 0; v < GM_ATT_V; v++) {
        s[v] = gm_vf_load(p + v * GM_VF);
        if (cap > 0.0f) {
            const gm_vf c = gm_vf_set1(cap);
            s[v] = gm_vf_mul(c, gm_vf_tanh(gm_vf_div(s[v], c)));
        }
        if (lo > 0 || hi < GM_PAGE) {
            const gm_vf place = gm_vf_add(lane, gm_vf_set1((float)(v * GM_VF)));
            s[v] = gm_vf_select(gm_vf_lt(place, gm_vf_set1((float)lo)), none, s[v]);
            s[v] = gm_vf_select(gm_vf_lt(place, gm_vf_set1((float)hi)), s[v], none);
        }
        most = gm_vf_max(s[v], most);
    }
    *top = gm_vf_top(most);
    const gm_vf m = gm_vf_set1(*top < -FLT_MAX ? 0.0f : *top);
#pragma GCC unroll 8
    for (int v = 0; v < GM_ATT_V; v++) {
        s[v] = gm_vf_exp(gm_vf_sub(s[v], m));
        gm_vf_store(p + v * GM_VF, s[v]);
    }
    return gm_vf_sum(gm_vf_add(gm_vf_add(s[0], s[1]), gm_vf_add(s[2], s[3])));
}

/* Lane by lane: *m, *l become those of both; the factors of the two accumulators. */
GM_INLINE void gm_att_fold(gm_vf *m, gm_vf *l, gm_vf m_new, gm_vf l_new, gm_vf *old_by,
                           gm_vf *new_by)
{
    const gm_vf most = gm_vf_max(*m, m_new);
    const gm_vf from = gm_vf_select(gm_vf_lt(most, gm_vf_set1(-FLT_MAX)), gm_vf_zero(), most);
    *old_by = gm_vf_exp(gm_vf_sub(*m, from));
    *new_by = gm_vf_exp(gm_vf_sub(m_new, from));
    *m = most;
    *l = gm_vf_fma(l_new, *new_by, gm_vf_mul(*l, *old_by));
}

/* Weights of the tile's queries in this page, and their records' m and l. */
GM_INLINE void gm_att_weigh(int nq, struct gm_att_tile *tile, float cap)
{
    float m[GM_VF] = { 0 };
    float l[GM_VF] = { 0 };
    float m_new[GM_VF] = { 0 };
    float l_new[GM_VF] = { 0 };
    for (int n = 0; n < nq; n++) {
        l_new[n] = gm_att_softmax(tile->p[n], tile->lo[n], tile->hi[n], cap, &m_new[n]);
        m[n] = tile->fresh[n] ? m_new[n] : tile->part[n][0];
        l[n] = tile->fresh[n] ? 0.0f : tile->part[n][1];
    }
    gm_vf vm = gm_vf_load(m);
    gm_vf vl = gm_vf_load(l);
    gm_vf old_by;
    gm_vf new_by;
    gm_att_fold(&vm, &vl, gm_vf_load(m_new), gm_vf_load(l_new), &old_by, &new_by);
    gm_vf_store(m, vm);
    gm_vf_store(l, vl);
    gm_vf_store(tile->old_by, old_by);
    gm_vf_store(tile->new_by, new_by);
    for (int n = 0; n < nq; n++) {
        tile->part[n][0] = m[n];
        tile->part[n][1] = l[n];
    }
}

/* The places that all queries of a tile see, [all_lo, all_hi) cut to whole pairs of places, and
 * those that any sees. */
struct gm_att_span {
    int32_t all_lo, all_hi, any_lo, any_hi;
};

GM_INLINE struct gm_att_span gm_att_span(int nq, const struct gm_att_tile *tile)
{
    struct gm_att_span s = { 0, GM_PAGE, GM_PAGE, 0 };
    for (int n = 0; n < nq; n++) {
        s.all_lo = tile->lo[n] > s.all_lo ? tile->lo[n] : s.all_lo;
        s.all_hi = tile->hi[n] < s.all_hi ? tile->hi[n] : s.all_hi;
        s.any_lo = tile->lo[n] < s.any_lo ? tile->lo[n] : s.any_lo;
        s.any_hi = tile->hi[n] > s.any_hi ? tile->hi[n] : s.any_hi;
    }
    s.all_lo += s.all_lo % 2;
    s.all_hi -= s.all_hi % 2;
    return s;
}

/* Adds the value at place i, elements [d, d + 16 nv); `ragged`: only for queries that see i. */
GM_INLINE void gm_att_add(struct gm_att_shape k, int ragged, gm_vf acc[GM_ATT_Q][GM_ATT_VECS],
                          const struct gm_att_tile *tile, const struct gm_att_page *page, int32_t i,
                          int32_t d)
{
    gm_vf x[GM_ATT_VECS];
#pragma GCC unroll 8
    for (int v = 0; v < k.nv; v++) {
        x[v] = gm_att_value(k.t, page, i, d + v * GM_VF);
    }
#pragma GCC unroll 8
    for (int n = 0; n < k.nq; n++) {
        if (!ragged || (i >= tile->lo[n] && i < tile->hi[n])) {
            gm_vf w = gm_vf_set1(tile->p[n][i]);
#pragma GCC unroll 8
            for (int v = 0; v < k.nv; v++) {
                acc[n][v] = gm_vf_fma(w, x[v], acc[n][v]);
            }
        }
    }
}

/* Folds the page's weighted values, elements [d, d + 16 nv), into the records. */
GM_INLINE void gm_att_keep(int nq, int nv, gm_vf acc[GM_ATT_Q][GM_ATT_VECS],
                           const struct gm_att_tile *tile, int32_t d)
{
#pragma GCC unroll 8
    for (int n = 0; n < nq; n++) {
        float *out = tile->part[n] + GM_PART_ACC + d;
        const gm_vf old_by = gm_vf_set1(tile->old_by[n]);
        const gm_vf new_by = gm_vf_set1(tile->new_by[n]);
#pragma GCC unroll 8
        for (int v = 0; v < nv; v++) {
            float *o = out + v * GM_VF;
            gm_vf sum = tile->fresh[n]
                            ? acc[n][v]
                            : gm_vf_fma(acc[n][v], new_by, gm_vf_mul(gm_vf_load(o), old_by));
            gm_vf_store(o, sum);
        }
    }
}

/* Weighted values of the page, elements [d, d + 16 nv), into the records. */
GM_INLINE void gm_att_mix(struct gm_att_shape k, struct gm_att_tile *tile,
                          const struct gm_att_page *page, const struct gm_att_span *s, int32_t d)
{
    gm_vf acc[GM_ATT_Q][GM_ATT_VECS];
#pragma GCC unroll 8
    for (int n = 0; n < k.nq; n++) {
#pragma GCC unroll 8
        for (int v = 0; v < k.nv; v++) {
            acc[n][v] = gm_vf_zero();
        }
    }
    int32_t i = s->any_lo;
    for (; i < s->all_lo && i < s->any_hi; i++) {
        gm_att_add(k, 1, acc, tile, page, i, d);
    }
    for (int32_t step = i / GM_ATT_STEP; step < s->all_hi / GM_ATT_STEP; step++, i += GM_ATT_STEP) {
#pragma GCC unroll 2
        for (int32_t at = 0; at < GM_ATT_STEP; at++) {
            gm_att_add(k, 0, acc, tile, page, GM_ATT_STEP * step + at, d);
        }
    }
    for (; i < s->any_hi; i++) {
        gm_att_add(k, 1, acc, tile, page, i, d);
    }
    gm_att_keep(k.nq, k.nv, acc, tile, d);
}

/* One page for one tile: scores, weights, values. */
GM_INLINE void gm_att_run(enum gm_kv_type t, int nq, struct gm_att_tile *tile,
                          const struct gm_att_page *page, float cap)
{
    const struct gm_att_shape wide = { t, nq, GM_ATT_VECS };
    const struct gm_att_shape rest = { t, nq, GM_ATT_VECS < 2 ? GM_ATT_VECS : 2 };
    for (int32_t i = 0; i < GM_PAGE; i += GM_ATT_VECS * GM_VF) {
        gm_att_score(wide, tile, page, i);
    }
    gm_att_weigh(nq, tile, cap);
    const struct gm_att_span s = gm_att_span(nq, tile);
    int32_t d = 0;
    for (; d + GM_ATT_VECS * GM_VF <= page->dim; d += GM_ATT_VECS * GM_VF) {
        gm_att_mix(wide, tile, page, &s, d);
    }
    if (GM_ATT_VECS > 2 && d < page->dim) { /* a multiple of 32 */
        gm_att_mix(rest, tile, page, &s, d);
    }
}

/* Floats of a page, in the same layout: what gm_att_key and gm_att_value would give. */
GM_INLINE void gm_att_expand(enum gm_kv_type t, const struct gm_att_page *page, float *out)
{
    float *values = out + (size_t)GM_PAGE * (size_t)page->dim;
    for (int32_t d = 0; d < page->dim; d++) {
        for (int32_t i = 0; i < GM_PAGE; i += GM_VF) {
            gm_vf_store(out + (size_t)d * GM_PAGE + i, gm_att_key(t, page, d, i));
        }
    }
    for (int32_t i = 0; i < GM_PAGE; i++) {
        for (int32_t d = 0; d < page->dim; d += GM_VF) {
            gm_vf_store(values + (size_t)i * (size_t)page->dim + d, gm_att_value(t, page, i, d));
        }
    }
}

/* What the walk over pages of one kv head knows. */
struct gm_att_walk {
    const struct gm_attend *a;
    int32_t kv_head;
    int32_t group; /* query heads of the kv head */
    float *parts;  /* records of all its queries, in their order */
    int32_t keep;  /* fold into records of earlier pages rather than start new ones */
};

/* Where page `number` of the walk's kv head lies. */
GM_INLINE struct gm_att_page gm_att_page(const struct gm_att_walk *w, int32_t number)
{
    const struct gm_kv_view *kv = &w->a->kv;
    const size_t side = GM_PAGE * gm_kv_vec_bytes(kv->type, kv->head_dim);
    const uint8_t *at = kv->pages[number] + (size_t)w->kv_head * side;
    return (struct gm_att_page){ at + kv->k_off, at + kv->v_off, kv->head_dim };
}

/* Fills the tile of queries [first, first + nq) for page `number`. */
GM_INLINE void gm_att_fill(int nq, struct gm_att_tile *tile, const struct gm_att_walk *w,
                           int32_t first, int32_t number)
{
    const struct gm_attend *a = w->a;
    const size_t dim = (size_t)a->kv.head_dim;
    int32_t row = first / w->group;
    int32_t head = first % w->group;
    for (int n = 0; n < nq; n++) {
        const int32_t at = a->pos + row;
        const int32_t lo = (a->window > 0 ? at - a->window + 1 : 0) - number * GM_PAGE;
        const int32_t hi = at + 1 - number * GM_PAGE;
        const size_t place =
            (size_t)row * (size_t)a->heads + (size_t)(w->kv_head * w->group + head);
        tile->q[n] = a->q + place * dim;
        tile->part[n] = w->parts + (size_t)(first + n) * GM_PART_FLOATS(dim);
        tile->lo[n] = lo > 0 ? lo : 0;
        tile->hi[n] = hi < GM_PAGE ? hi : GM_PAGE;
        tile->fresh[n] = !w->keep || number == gm_attend_first_page(a, row);
        if (++head == w->group) {
            head = 0;
            row++;
        }
    }
}

/* Queries of the next tile, of `left`. */
GM_INLINE int gm_att_take(int32_t left)
{
    return left >= GM_ATT_Q ? GM_ATT_Q : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Queries [begin, end) in one page. */
GM_INLINE void gm_att_tiles(enum gm_kv_type t, const struct gm_att_walk *w,
                            const struct gm_att_page *page, int32_t number, int32_t begin,
                            int32_t end)
{
    struct gm_att_tile tile;
    const float cap = w->a->softcap;
    for (int32_t j = begin; j < end;) {
        const int nq = gm_att_take(end - j);
        gm_att_fill(nq, &tile, w, j, number);
        switch (nq) {
        case GM_ATT_Q:
            gm_att_run(t, GM_ATT_Q, &tile, page, cap);
            break;
        case 4:
            gm_att_run(t, 4, &tile, page, cap);
            break;
        case 2:
            gm_att_run(t, 2, &tile, page, cap);
            break;
        default:
            gm_att_run(t, 1, &tile, page, cap);
            break;
        }
        j += nq;
    }
}

/* How many rows, from row 0 on, have their last visible position left of the page; and how many
 * have their first one in it or left of it. */
GM_INLINE void gm_att_rows(const struct gm_attend *a, int32_t number, int32_t *begin, int32_t *end)
{
    const int64_t start = (int64_t)number * GM_PAGE;
    const int64_t before = start - a->pos;
    const int64_t until = a->window > 0 ? start + GM_PAGE - 1 + a->window - a->pos : a->rows;
    *begin = before <= 0 ? 0 : before < a->rows ? (int32_t)before : a->rows;
    *end = until <= 0 ? 0 : until < a->rows ? (int32_t)until : a->rows;
}

/* What a KV type needs: queries [begin, end) in one page; a page turned to floats, NULL where
 * decoding costs so little that it hides behind the products. */
struct gm_att_type {
    void (*tiles)(const struct gm_att_walk *w, const struct gm_att_page *page, int32_t number,
                  int32_t begin, int32_t end);
    void (*expand)(const struct gm_att_page *page, float *out);
};

/* attend(): all pages from left to right. Turning a page to floats changes no bits, because a
 * stored number is decoded the same way. */
GM_INLINE void gm_vec_attend(const struct gm_attend *a, int32_t kv_head,
                             const struct gm_att_type *type, const struct gm_att_type *f32)
{
    const int32_t group = a->heads / a->kv.kv_heads;
    const size_t dim = (size_t)a->kv.head_dim;
    const struct gm_att_walk w = { a, kv_head, group, a->scratch, 1 };
    float *floats = a->scratch + (size_t)a->rows * (size_t)group * GM_PART_FLOATS(dim);
    const int32_t last = gm_attend_last_page(a, a->rows - 1);
    for (int32_t number = gm_attend_first_page(a, 0); number <= last; number++) {
        struct gm_att_page page = gm_att_page(&w, number);
        const struct gm_att_type *run = type;
        int32_t begin;
        int32_t end;
        gm_att_rows(a, number, &begin, &end);
        if ((end - begin) * group >= GM_ATT_EXPAND && type->expand) {
            type->expand(&page, floats);
            page.keys = (const uint8_t *)floats;
            page.values = (const uint8_t *)(floats + GM_PAGE * dim);
            run = f32;
        }
        run->tiles(&w, &page, number, begin * group, end * group);
    }
    for (int32_t j = 0; j < a->rows * group; j++) {
        const float *part = w.parts + (size_t)j * GM_PART_FLOATS(dim);
        const size_t row = (size_t)(j / group);
        const size_t head = (size_t)(kv_head * group + j % group);
        float *out = a->out + (row * (size_t)a->heads + head) * dim;
        const gm_vf l = gm_vf_set1(part[1]);
        for (size_t d = 0; d < dim; d += GM_VF) {
            gm_vf_store(out + d, gm_vf_div(gm_vf_load(part + GM_PART_ACC + d), l));
        }
    }
}

/* Where the records of page `number` start among the parts of one kv head. */
GM_INLINE size_t gm_att_part_at(const struct gm_attend *a, int32_t number)
{
    const size_t queries = (size_t)a->rows * (size_t)(a->heads / a->kv.kv_heads);
    return (size_t)(number - gm_attend_first_page(a, 0)) * queries * GM_PART_FLOATS(a->kv.head_dim);
}

GM_INLINE void gm_vec_attend_part(const struct gm_attend *a, int32_t kv_head, int32_t number,
                                  float *parts, const struct gm_att_type *type)
{
    const int32_t group = a->heads / a->kv.kv_heads;
    const struct gm_att_walk w = { a, kv_head, group, parts + gm_att_part_at(a, number), 0 };
    const struct gm_att_page page = gm_att_page(&w, number);
    int32_t begin;
    int32_t end;
    gm_att_rows(a, number, &begin, &end);
    type->tiles(&w, &page, number, begin * group, end * group);
}

/* One query: pages [first, last], `part` its record of page `first`, `stride` floats to the next.
 */
GM_INLINE void gm_att_join_query(float *out, const float *part, size_t stride, int32_t pages,
                                 int32_t dim)
{
    gm_vf m = gm_vf_set1(part[0]);
    gm_vf l = gm_vf_set1(part[1]);
    memcpy(out, part + GM_PART_ACC, (size_t)dim * sizeof *out);
    for (int32_t n = 1; n < pages; n++) {
        gm_vf old_by;
        gm_vf new_by;
        part += stride;
        gm_att_fold(&m, &l, gm_vf_set1(part[0]), gm_vf_set1(part[1]), &old_by, &new_by);
        for (int32_t d = 0; d < dim; d += GM_VF) {
            gm_vf old = gm_vf_mul(gm_vf_load(out + d), old_by);
            gm_vf_store(out + d, gm_vf_fma(gm_vf_load(part + GM_PART_ACC + d), new_by, old));
        }
    }
    for (int32_t d = 0; d < dim; d += GM_VF) {
        gm_vf_store(out + d, gm_vf_div(gm_vf_load(out + d), l));
    }
}

GM_INLINE void gm_vec_attend_join(const struct gm_attend *a, int32_t kv_head, int32_t row,
                                  const float *parts)
{
    const int32_t group = a->heads / a->kv.kv_heads;
    const int32_t dim = a->kv.head_dim;
    const int32_t first = gm_attend_first_page(a, row);
    const int32_t pages = gm_attend_last_page(a, row) - first + 1;
    const size_t record = GM_PART_FLOATS(dim);
    const size_t stride = (size_t)a->rows * (size_t)group * record;
    const size_t head = (size_t)row * (size_t)a->heads + (size_t)(kv_head * group);
    parts += gm_att_part_at(a, first) + (size_t)(row * group) * record;
    for (int32_t n = 0; n < group; n++) {
        float *out = a->out + (head + (size_t)n) * (size_t)dim;
        gm_att_join_query(out, parts + (size_t)n * record, stride, pages, dim);
    }
}

#endif
