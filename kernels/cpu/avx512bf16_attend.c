/* avx512bf16_attend.c - attention with AVX512_BF16: products of bf16 pairs.
 *
 * Owns:      one page of bf16 keys and values for a tile of queries, and the choice by KV type.
 * Does not:  walk pages, weigh scores or fold parts (vec_attend.h); compute other KV types
 *            (avx512_attend.c); store keys and values (avx512_point.c).
 *
 * VDPBF16PS adds two products to each of sixteen floats. A page lies in the pairs it wants: for
 * scores two dimensions of sixteen positions, for values two positions of sixteen dimensions.
 * Queries and weights are rounded to bf16 and broadcast as pairs. A tile's 6 x 4 sums stay in
 * registers: 24 products for 4 loads and 6 broadcasts.
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx512_set.h"
#include "kernels/cpu/avx512bf16_set.h"

#include "kernels/cpu/vec_attend.h"

#include <stdalign.h>

/* Two bf16: the first in the low half. */
enum { PAIR = 2 * sizeof(uint16_t), FIRST = 0x0000ffff };
#define SECOND 0xffff0000u

/* A tile of queries in one page, and what it multiplies with. */
struct pairs_tile {
    struct gm_att_tile t;
    alignas(64) uint32_t q[GM_ATT_Q][GM_HEAD_DIM_MAX / 2];
    alignas(64) uint32_t w[GM_ATT_Q][GM_PAGE / 2]; /* weights */
};

/* n (a multiple of 32) floats rounded to bf16, to nearest even. */
GM_INLINE void round_pairs(uint32_t *out, const float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i += 2 * GM_VF) {
        __m512bh pairs = _mm512_cvtne2ps_pbh(gm_vf_load(x + i + GM_VF), gm_vf_load(x + i));
        _mm512_storeu_si512(out + i / 2, (__m512i)pairs);
    }
}

/* Sixteen times acc + x0 w0 + x1 w1, the second product first. */
GM_INLINE gm_vf dot(gm_vf acc, __m512i x, __m512i w)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)w);
}

GM_INLINE void clear(int nq, int nv, gm_vf acc[GM_ATT_Q][GM_ATT_VECS])
{
#pragma GCC unroll 8
    for (int n = 0; n < nq; n++) {
#pragma GCC unroll 8
        for (int v = 0; v < nv; v++) {
            acc[n][v] = gm_vf_zero();
        }
    }
}

/* Scores of `nq` queries at all places of the page. */
GM_INLINE void score(int nq, struct pairs_tile *tile, const struct gm_att_page *page)
{
    gm_vf acc[GM_ATT_Q][GM_ATT_VECS];
    const uint8_t *keys = page->keys;
    clear(nq, GM_ATT_V, acc);
    for (int32_t pair = 0; pair < page->dim / 2; pair++, keys += GM_PAGE * PAIR) {
        __m512i x[GM_ATT_V];
#pragma GCC unroll 8
        for (int v = 0; v < GM_ATT_V; v++) {
            x[v] = _mm512_loadu_si512(keys + v * GM_VF * PAIR);
        }
#pragma GCC unroll 8
        for (int n = 0; n < nq; n++) {
            const __m512i w = _mm512_set1_epi32((int32_t)tile->q[n][pair]);
#pragma GCC unroll 8
            for (int v = 0; v < GM_ATT_V; v++) {
                acc[n][v] = dot(acc[n][v], x[v], w);
            }
        }
    }
#pragma GCC unroll 8
    for (int n = 0; n < nq; n++) {
#pragma GCC unroll 8
        for (int v = 0; v < GM_ATT_V; v++) {
            gm_vf_store(tile->t.p[n] + v * GM_VF, acc[n][v]);
        }
    }
}

/* The halves of places 2 pair and 2 pair + 1 that query n sees. */
GM_INLINE uint32_t seen(const struct gm_att_tile *t, int n, int32_t pair)
{
    const int32_t lo = t->lo[n] - 2 * pair;
    const int32_t hi = t->hi[n] - 2 * pair;
    return (lo <= 0 && hi > 0 ? FIRST : 0u) | (lo <= 1 && hi > 1 ? SECOND : 0u);
}

/* Adds the values of one pair of places, elements [d, d + 16 nv). `ragged`: a query that sees one
 * of the two takes 0 for the other, which may be NaN or not yet written, and no query adds what
 * it does not see at all. */
GM_INLINE void add_pair(struct gm_att_shape k, int ragged, gm_vf acc[GM_ATT_Q][GM_ATT_VECS],
                        const struct pairs_tile *tile, const struct gm_att_page *page, int32_t pair,
                        int32_t d)
{
    const uint8_t *at = page->values + ((size_t)pair * (size_t)page->dim + (size_t)d) * PAIR;
    __m512i x[GM_ATT_VECS];
#pragma GCC unroll 8
    for (int v = 0; v < k.nv; v++) {
        x[v] = _mm512_loadu_si512(at + v * GM_VF * PAIR);
    }
#pragma GCC unroll 8
    for (int n = 0; n < k.nq; n++) {
        const uint32_t bits = ragged ? seen(&tile->t, n, pair) : FIRST | SECOND;
        if (ragged && bits == 0) {
            continue;
        }
        const __m512i w = _mm512_set1_epi32((int32_t)tile->w[n][pair]);
        const __m512i mask = _mm512_set1_epi32((int32_t)bits);
#pragma GCC unroll 8
        for (int v = 0; v < k.nv; v++) {
            acc[n][v] = dot(acc[n][v], ragged ? _mm512_and_si512(x[v], mask) : x[v], w);
        }
    }
}

/* Weighted values of the page, elements [d, d + 16 nv), into the records. */
GM_INLINE void mix(struct gm_att_shape k, struct pairs_tile *tile, const struct gm_att_page *page,
                   const struct gm_att_span *s, int32_t d)
{
    gm_vf acc[GM_ATT_Q][GM_ATT_VECS];
    const int32_t end = (s->any_hi + 1) / 2;
    int32_t pair = s->any_lo / 2;
    clear(k.nq, k.nv, acc);
    for (; pair < s->all_lo / 2 && pair < end; pair++) {
        add_pair(k, 1, acc, tile, page, pair, d);
    }
    for (; pair < s->all_hi / 2; pair++) {
        add_pair(k, 0, acc, tile, page, pair, d);
    }
    for (; pair < end; pair++) {
        add_pair(k, 1, acc, tile, page, pair, d);
    }
    gm_att_keep(k.nq, k.nv, acc, &tile->t, d);
}

/* One page for one tile: scores, weights, values. */
GM_INLINE void run(int nq, struct pairs_tile *tile, const struct gm_att_page *page, float cap)
{
    for (int n = 0; n < nq; n++) {
        round_pairs(tile->q[n], tile->t.q[n], page->dim);
    }
    score(nq, tile, page);
    gm_att_weigh(nq, &tile->t, cap);
    for (int n = 0; n < nq; n++) {
        round_pairs(tile->w[n], tile->t.p[n], GM_PAGE);
    }
    const struct gm_att_shape wide = { GM_KV_BF16, nq, GM_ATT_VECS };
    const struct gm_att_shape rest = { GM_KV_BF16, nq, 2 };
    const struct gm_att_span s = gm_att_span(nq, &tile->t);
    int32_t d = 0;
    for (; d + GM_ATT_VECS * GM_VF <= page->dim; d += GM_ATT_VECS * GM_VF) {
        mix(wide, tile, page, &s, d);
    }
    if (d < page->dim) { /* a multiple of 32 */
        mix(rest, tile, page, &s, d);
    }
}

static void tiles(const struct gm_att_walk *w, const struct gm_att_page *page, int32_t number,
                  int32_t begin, int32_t end)
{
    struct pairs_tile tile;
    const float cap = w->a->softcap;
    for (int32_t j = begin; j < end;) {
        const int nq = gm_att_take(end - j);
        gm_att_fill(nq, &tile.t, w, j, number);
        switch (nq) {
        case GM_ATT_Q:
            run(GM_ATT_Q, &tile, page, cap);
            break;
        case 4:
            run(4, &tile, page, cap);
            break;
        case 2:
            run(2, &tile, page, cap);
            break;
        default:
            run(1, &tile, page, cap);
            break;
        }
        j += nq;
    }
}

static const struct gm_att_type pairs = { tiles, NULL };

void gm_avx512bf16_attend(const struct gm_attend *a, int32_t kv_head)
{
    if (a->kv.type == GM_KV_BF16) {
        gm_vec_attend(a, kv_head, &pairs, &pairs);
    } else {
        gm_avx512_attend(a, kv_head);
    }
}

void gm_avx512bf16_attend_part(const struct gm_attend *a, int32_t kv_head, int32_t page,
                               float *parts)
{
    if (a->kv.type == GM_KV_BF16) {
        gm_vec_attend_part(a, kv_head, page, parts, &pairs);
    } else {
        gm_avx512_attend_part(a, kv_head, page, parts);
    }
}

void gm_avx512bf16_attend_join(const struct gm_attend *a, int32_t kv_head, int32_t row,
                               const float *parts)
{
    gm_avx512_attend_join(a, kv_head, row, parts);
}

#endif
