/* vec_attend.h - softmax attention of one query row, for both instruction sets.
 *
 * Owns:      attend(): scores of a group's heads over each key, softmax, weighted sum of values.
 * Does not:  store keys and values (vec_point.h). Included by avx2_attend.c, avx512_attend.c only.
 *
 * Order of sums (a pure function of first, last and the data):
 *   score   sixteen lanes over the head's elements, then gm_vf_sum
 *   weights sixteen lanes by position from `first`, then gm_vf_sum
 *   values  per element in order of positions within a page, then pages in order
 */
#ifndef GM_KERNELS_CPU_VEC_ATTEND_H
#define GM_KERNELS_CPU_VEC_ATTEND_H

#include "kernels/cpu/vec.h"

enum {
    GM_ATT_HEADS = 4, /* query heads of one kv head worked on together */
    GM_ATT_DIMS = 4,  /* vectors of the output held in registers per head */
};

/* Elements [i, i + 16) of a stored vector; i a multiple of 16. */
GM_INLINE gm_vf gm_kv_load(enum gm_kv_type t, const uint8_t *p, int32_t i)
{
    switch (t) {
    case GM_KV_F32:
        return gm_vf_load(p + (size_t)i * sizeof(float));
    case GM_KV_F16:
        return gm_vf_from_f16(p + (size_t)i * sizeof(uint16_t));
    case GM_KV_BF16:
        return gm_vf_from_bf16(p + (size_t)i * sizeof(uint16_t));
    default: {
        const uint8_t *block = p + (size_t)(i / GM_QK) * sizeof(struct gm_q8_0);
        gm_vf d = gm_vf_set1(gm_half_to_float(gm_load_u16(block)));
        const uint8_t *q = block + offsetof(struct gm_q8_0, qs) + i % GM_QK;
        return gm_vf_mul(d, gm_vf_from_i8(q));
    }
    }
}

/* One run of positions inside one page, for one kv head. */
struct gm_att_run {
    const uint8_t *vec; /* key or value of the first position */
    size_t stride;      /* bytes to the next position's */
    int32_t count;      /* positions */
    int32_t at;         /* position of the first, counted from a->first */
};

/* The run that starts at position pos: to the page's end or to `last`. */
GM_INLINE struct gm_att_run gm_att_run(const struct gm_attend *a, int32_t pos, int32_t kv_head,
                                       size_t offset)
{
    const size_t bytes = gm_kv_vec_bytes(a->kv.type, a->kv.head_dim);
    struct gm_att_run run;
    int32_t in_page = pos % GM_PAGE;
    int32_t left = a->last - pos + 1;
    run.stride = bytes * (size_t)a->kv.kv_heads;
    run.vec = a->kv.pages[pos / GM_PAGE] + offset + (size_t)in_page * run.stride +
              (size_t)kv_head * bytes;
    run.count = left < GM_PAGE - in_page ? left : GM_PAGE - in_page;
    run.at = pos - a->first;
    return run;
}

/* The heads worked on together: all of one kv head. */
struct gm_att_group {
    const float *q;
    float *out;
    float *scores; /* one row of `stride` floats per head */
    size_t stride;
    int32_t dim;
    int32_t kv_head;
};

/* Scores of `keys` neighbouring positions for `heads` heads; both constants where inlined. */
GM_INLINE void gm_att_score(enum gm_kv_type t, int heads, int keys, const struct gm_att_group *g,
                            const struct gm_att_run *run, int32_t j)
{
    gm_vf acc[2][GM_ATT_HEADS];
#pragma GCC unroll 8
    for (int k = 0; k < keys; k++) {
#pragma GCC unroll 8
        for (int h = 0; h < heads; h++) {
            acc[k][h] = gm_vf_zero();
        }
    }
    const uint8_t *key = run->vec + (size_t)j * run->stride;
    for (int32_t i = 0; i < g->dim; i += GM_VF) {
        gm_vf x[2];
#pragma GCC unroll 8
        for (int k = 0; k < keys; k++) {
            x[k] = gm_kv_load(t, key + (size_t)k * run->stride, i);
        }
#pragma GCC unroll 8
        for (int h = 0; h < heads; h++) {
            gm_vf w = gm_vf_load(g->q + (size_t)h * (size_t)g->dim + i);
#pragma GCC unroll 8
            for (int k = 0; k < keys; k++) {
                acc[k][h] = gm_vf_fma(w, x[k], acc[k][h]);
            }
        }
    }
#pragma GCC unroll 8
    for (int k = 0; k < keys; k++) {
#pragma GCC unroll 8
        for (int h = 0; h < heads; h++) {
            g->scores[(size_t)h * g->stride + (size_t)(run->at + j + k)] = gm_vf_sum(acc[k][h]);
        }
    }
}

GM_INLINE void gm_att_scores(enum gm_kv_type t, int heads, const struct gm_att_group *g,
                             const struct gm_attend *a)
{
    for (int32_t pos = a->first; pos <= a->last;) {
        struct gm_att_run run = gm_att_run(a, pos, g->kv_head, a->kv.k_off);
        int32_t j = 0;
        for (; j + 2 <= run.count; j += 2) {
            gm_att_score(t, heads, 2, g, &run, j);
        }
        if (j < run.count) {
            gm_att_score(t, heads, 1, g, &run, j);
        }
        pos += run.count;
    }
}

/* scores[0..n) -> exp(score - largest), with the soft cap before; returns 1 / their sum. A NaN
 * among them makes the sum NaN. The n floats are followed by room for padding. */
static inline float gm_att_softmax(float *scores, int32_t n, float cap)
{
    const int32_t full = (n + GM_VF - 1) / GM_VF * GM_VF;
    const gm_vf none = gm_vf_set1(-__builtin_inff());
    gm_vf top = none;
    if (cap > 0.0f) {
        const gm_vf c = gm_vf_set1(cap);
        for (int32_t i = n; i < full; i++) {
            scores[i] = 0.0f;
        }
        for (int32_t i = 0; i < full; i += GM_VF) {
            gm_vf s = gm_vf_tanh(gm_vf_div(gm_vf_load(scores + i), c));
            gm_vf_store(scores + i, gm_vf_mul(c, s));
        }
    }
    for (int32_t i = n; i < full; i++) {
        scores[i] = -__builtin_inff();
    }
    for (int32_t i = 0; i < full; i += GM_VF) {
        top = gm_vf_max(gm_vf_load(scores + i), top);
    }
    top = gm_vf_set1(gm_vf_top(top));
    gm_vf sum = gm_vf_zero();
    for (int32_t i = 0; i < full; i += GM_VF) {
        gm_vf e = gm_vf_exp(gm_vf_sub(gm_vf_load(scores + i), top));
        gm_vf_store(scores + i, e);
        sum = gm_vf_add(sum, e);
    }
    return 1.0f / gm_vf_sum(sum);
}

/* out[h][i..i + 16 vecs) += sum over the run of weight * value; heads, vecs constants. */
GM_INLINE void gm_att_values(enum gm_kv_type t, int heads, int vecs, const struct gm_att_group *g,
                             const struct gm_att_run *run, int32_t i)
{
    gm_vf acc[GM_ATT_HEADS][GM_ATT_DIMS];
#pragma GCC unroll 8
    for (int h = 0; h < heads; h++) {
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) {
            acc[h][v] = gm_vf_zero();
        }
    }
    const uint8_t *value = run->vec;
    const float *w = g->scores + run->at;
    for (int32_t j = 0; j < run->count; j++, value += run->stride) {
        gm_vf x[GM_ATT_DIMS];
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) {
            x[v] = gm_kv_load(t, value, i + v * GM_VF);
        }
#pragma GCC unroll 8
        for (int h = 0; h < heads; h++) {
            gm_vf p = gm_vf_set1(w[(size_t)h * g->stride + (size_t)j]);
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++) {
                acc[h][v] = gm_vf_fma(p, x[v], acc[h][v]);
            }
        }
    }
#pragma GCC unroll 8
    for (int h = 0; h < heads; h++) {
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) {
            float *o = g->out + (size_t)h * (size_t)g->dim + (size_t)(i + v * GM_VF);
            gm_vf_store(o, gm_vf_add(gm_vf_load(o), acc[h][v]));
        }
    }
}

/* `heads` query heads of one kv head, from head `head` on. */
GM_INLINE void gm_att_heads(enum gm_kv_type t, int heads, int vecs, const struct gm_attend *a,
                            int32_t head, int32_t kv_head)
{
    const int32_t dim = a->kv.head_dim;
    const int32_t n = a->last - a->first + 1;
    const size_t at = (size_t)head * (size_t)dim;
    const struct gm_att_group g = { .q = a->q + at,
                                    .out = a->out + at,
                                    .scores = a->scratch,
                                    .stride = GM_ATTEND_SCRATCH(1, n),
                                    .dim = dim,
                                    .kv_head = kv_head };
    float inverse[GM_ATT_HEADS];
    gm_att_scores(t, heads, &g, a);
    for (int h = 0; h < heads; h++) {
        inverse[h] = gm_att_softmax(g.scores + (size_t)h * g.stride, n, a->softcap);
    }
    memset(g.out, 0, (size_t)heads * (size_t)dim * sizeof *g.out);
    for (int32_t pos = a->first; pos <= a->last;) {
        struct gm_att_run run = gm_att_run(a, pos, kv_head, a->kv.v_off);
        int32_t i = 0;
        for (; i + vecs * GM_VF <= dim; i += vecs * GM_VF) {
            gm_att_values(t, heads, vecs, &g, &run, i);
        }
        for (; i < dim; i += GM_VF) {
            gm_att_values(t, heads, 1, &g, &run, i);
        }
        pos += run.count;
    }
    for (int h = 0; h < heads; h++) {
        float *o = g.out + (size_t)h * (size_t)dim;
        for (int32_t i = 0; i < dim; i += GM_VF) {
            gm_vf_store(o + i, gm_vf_mul(gm_vf_load(o + i), gm_vf_set1(inverse[h])));
        }
    }
}

/* All heads. `most` and `vecs` say what the registers hold: heads at once, vectors per head. */
GM_INLINE void gm_vec_attend(enum gm_kv_type t, int most, int vecs, const struct gm_attend *a)
{
    if (a->last < a->first) {
        return;
    }
    const int32_t group = a->heads / a->kv.kv_heads;
    for (int32_t head = 0; head < a->heads;) {
        int32_t kv_head = head / group;
        int32_t left = (kv_head + 1) * group - head;
        if (left >= 4 && most >= 4) {
            gm_att_heads(t, 4, vecs, a, head, kv_head);
            head += 4;
        } else if (left >= 2) {
            gm_att_heads(t, 2, vecs, a, head, kv_head);
            head += 2;
        } else {
            gm_att_heads(t, 1, vecs, a, head, kv_head);
            head++;
        }
    }
}

#endif
