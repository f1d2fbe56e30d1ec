/* vec_point.h - the kernels over single rows and elements, for both instruction sets.
 *
 * Owns:      rms_norm, rms_norm_add, rope, kv_store (floats), gelu_mul, axpy, softcap, logsumexp,
 *            top_k, all_finite; contracts in kernels/kernels.h.
 * Does not:  read weights. Included by avx2_point.c and avx512_point.c only.
 *
 * An element's result does not depend on its place: tails go through the same instructions with
 * padding.
 */
#ifndef GM_KERNELS_CPU_VEC_POINT_H
#define GM_KERNELS_CPU_VEC_POINT_H

#include "kernels/cpu/vec.h"
#include "kernels/fmath.h"

#include <float.h>
#include <math.h>

/* Floats of a row that are left at i, at most one vector. */
GM_INLINE size_t gm_left(size_t n, size_t i)
{
    return n - i < GM_VF ? n - i : GM_VF;
}

/* 1 / sqrt(mean(x^2) + eps): sixteen lanes, then gm_vf_sum. */
GM_INLINE float gm_inverse_rms(const float *x, size_t dim, float eps)
{
    gm_vf sum = gm_vf_zero();
    for (size_t i = 0; i < dim; i += GM_VF) {
        gm_vf v = gm_vf_load_n(x + i, gm_left(dim, i));
        sum = gm_vf_fma(v, v, sum);
    }
    return 1.0f / sqrtf(gm_vf_sum(sum) / (float)dim + eps);
}

GM_INLINE void gm_vec_rms_norm(float *y, const float *x, const float *w, int32_t rows, int32_t dim,
                               float eps)
{
    const size_t n = (size_t)dim;
    for (int32_t r = 0; r < rows; r++, x += n, y += n) {
        gm_vf inverse = gm_vf_set1(gm_inverse_rms(x, n, eps));
        for (size_t i = 0; i < n; i += GM_VF) {
            size_t left = gm_left(n, i);
            gm_vf v = gm_vf_mul(gm_vf_load_n(x + i, left), inverse);
            gm_vf_store_n(y + i, gm_vf_mul(v, gm_vf_load_n(w + i, left)), left);
        }
    }
}

GM_INLINE void gm_vec_rms_norm_add(float *h, const float *x, const float *w, int32_t rows,
                                   int32_t dim, float eps)
{
    const size_t n = (size_t)dim;
    for (int32_t r = 0; r < rows; r++, x += n, h += n) {
        gm_vf inverse = gm_vf_set1(gm_inverse_rms(x, n, eps));
        for (size_t i = 0; i < n; i += GM_VF) {
            size_t left = gm_left(n, i);
            gm_vf v = gm_vf_mul(gm_vf_load_n(x + i, left), inverse);
            v = gm_vf_mul(v, gm_vf_load_n(w + i, left));
            gm_vf_store_n(h + i, gm_vf_add(gm_vf_load_n(h + i, left), v), left);
        }
    }
}

/* Pairs (cos, sin) of `left` angles as two vectors. */
GM_INLINE void gm_load_angles(const float *cs, size_t left, gm_vf *c, gm_vf *s)
{
    size_t floats = 2 * left;
    gm_vf a = gm_vf_load_n(cs, gm_left(floats, 0));
    gm_vf b = floats > GM_VF ? gm_vf_load_n(cs + GM_VF, floats - GM_VF) : gm_vf_zero();
    gm_vf_unzip(a, b, c, s);
}

GM_INLINE void gm_vec_rope(float *x, const float *cs, int32_t heads, int32_t head_dim, float scale)
{
    const size_t half = (size_t)head_dim / 2;
    const gm_vf k = gm_vf_set1(scale);
    for (size_t i = 0; i < half; i += GM_VF) {
        size_t left = gm_left(half, i);
        gm_vf c;
        gm_vf s;
        gm_load_angles(cs + 2 * i, left, &c, &s);
        float *p = x + i;
        for (int32_t n = 0; n < heads; n++, p += head_dim) {
            gm_vf a = gm_vf_load_n(p, left);
            gm_vf b = gm_vf_load_n(p + half, left);
            gm_vf first = gm_vf_sub(gm_vf_mul(a, c), gm_vf_mul(b, s));
            gm_vf second = gm_vf_add(gm_vf_mul(b, c), gm_vf_mul(a, s));
            gm_vf_store_n(p, gm_vf_mul(first, k), left);
            gm_vf_store_n(p + half, gm_vf_mul(second, k), left);
        }
    }
}

/* Stores `n` 16-bit codes at one position of a page of keys: GM_PAGE codes between neighbours. */
GM_INLINE void gm_scatter_u16(uint8_t *dst, const uint16_t *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++, dst += GM_PAGE * sizeof *x) {
        memcpy(dst, x + i, sizeof *x);
    }
}

/* The same for pairs of codes: GM_PAGE pairs between neighbours. */
GM_INLINE void gm_scatter_pairs(uint8_t *dst, const uint16_t *x, int32_t n)
{
    for (int32_t i = 0; i < n; i += 2, dst += GM_PAGE * 2 * sizeof *x) {
        memcpy(dst, x + i, 2 * sizeof *x);
    }
}

/* One kv head at place `at` of a page of BF16 pairs; keys and values: the page's sides. Only the
 * place's own elements are written: rows of one prompt are stored side by side by threads. */
GM_INLINE void gm_vec_store_pairs(uint8_t *keys, uint8_t *values, size_t at, const float *k,
                                  const float *v, int32_t dim)
{
    uint16_t code[GM_HEAD_DIM_MAX];
    uint8_t *value = values + at / 2 * (size_t)dim * 2 * sizeof *code;
    for (int32_t i = 0; i < dim; i += GM_VF) {
        gm_vf_to_bf16(code + i, gm_vf_load(k + i));
        gm_vf_to_bf16_pairs(value + (size_t)i * 2 * sizeof *code, gm_vf_load(v + i), at % 2);
    }
    gm_scatter_pairs(keys + at * 2 * sizeof *code, code, dim);
}

/* One kv head at place `at` of F32 or F16 pages. */
GM_INLINE void gm_vec_store_head(enum gm_kv_type t, uint8_t *keys, uint8_t *values, size_t at,
                                 const float *k, const float *v, int32_t dim)
{
    const size_t bytes = t == GM_KV_F32 ? sizeof(float) : sizeof(uint16_t);
    uint8_t *key = keys + at * bytes;
    uint8_t *value = values + at * (size_t)dim * bytes;
    if (t == GM_KV_F32) {
        for (int32_t i = 0; i < dim; i++, key += GM_PAGE * sizeof *k) {
            memcpy(key, k + i, sizeof *k);
        }
        memcpy(value, v, (size_t)dim * sizeof *v);
        return;
    }
    uint16_t code[GM_HEAD_DIM_MAX];
    for (int32_t i = 0; i < dim; i += GM_VF) {
        gm_vf_to_f16(code + i, gm_vf_load(k + i));
        gm_vf_to_f16(value + 2 * (size_t)i, gm_vf_load(v + i));
    }
    gm_scatter_u16(key, code, dim);
}

/* All but Q8, whose rounding is gm_ref's. */
GM_INLINE void gm_vec_kv_store(const struct gm_kv_view *kv, int32_t pos, const float *k,
                               const float *v)
{
    if (kv->type == GM_KV_Q8) {
        gm_ref.kv_store(kv, pos, k, v);
        return;
    }
    const size_t side = GM_PAGE * gm_kv_vec_bytes(kv->type, kv->head_dim);
    const size_t at = (size_t)(pos % GM_PAGE);
    uint8_t *keys = kv->pages[pos / GM_PAGE] + kv->k_off;
    uint8_t *values = kv->pages[pos / GM_PAGE] + kv->v_off;
    for (int32_t h = 0; h < kv->kv_heads; h++) {
        if (kv->type == GM_KV_BF16) {
            gm_vec_store_pairs(keys, values, at, k, v, kv->head_dim);
        } else {
            gm_vec_store_head(kv->type, keys, values, at, k, v, kv->head_dim);
        }
        keys += side;
        values += side;
        k += kv->head_dim;
        v += kv->head_dim;
    }
}

/* gelu_tanh(z) = z / (1 + exp(-2u)), u = sqrt(2/pi) (z + 0.044715 z^3): the same number as
 * z/2 (1 + tanh u) without the cancellation at large negative z. */
GM_INLINE gm_vf gm_vf_gelu(gm_vf z)
{
    const gm_vf one = gm_vf_set1(1.0f);
    gm_vf zz = gm_vf_mul(z, z);
    gm_vf u = gm_vf_fma(gm_vf_mul(zz, z), gm_vf_set1(0.044715f), z);
    u = gm_vf_mul(u, gm_vf_set1(1.5957691216f)); /* 2 sqrt(2/pi) */
    gm_vf e = gm_vf_exp(gm_vf_sub(gm_vf_zero(), gm_vf_abs(u)));
    gm_vf top = gm_vf_select(gm_vf_lt(u, gm_vf_zero()), gm_vf_mul(z, e), z);
    return gm_vf_div(top, gm_vf_add(one, e));
}

GM_INLINE void gm_vec_gelu_mul(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += GM_VF) {
        size_t left = gm_left(n, i);
        gm_vf g = gm_vf_gelu(gm_vf_load_n(gate + i, left));
        gm_vf_store_n(y + i, gm_vf_mul(g, gm_vf_load_n(up + i, left)), left);
    }
}

GM_INLINE void gm_vec_axpy(float *y, const float *x, float scale, size_t n)
{
    const gm_vf k = gm_vf_set1(scale);
    for (size_t i = 0; i < n; i += GM_VF) {
        size_t left = gm_left(n, i);
        gm_vf v = gm_vf_fma(k, gm_vf_load_n(x + i, left), gm_vf_load_n(y + i, left));
        gm_vf_store_n(y + i, v, left);
    }
}

GM_INLINE void gm_vec_softcap(float *x, float cap, size_t n)
{
    const gm_vf c = gm_vf_set1(cap);
    for (size_t i = 0; i < n; i += GM_VF) {
        size_t left = gm_left(n, i);
        gm_vf v = gm_vf_tanh(gm_vf_div(gm_vf_load_n(x + i, left), c));
        gm_vf_store_n(x + i, gm_vf_mul(c, v), left);
    }
}

enum { GM_LSE_RUN = 64 }; /* vectors summed in float before the sum goes on in double */

/* The largest x[i]; NaN elements may count nothing. */
GM_INLINE float gm_lse_top(const float *x, size_t n)
{
    gm_vf top[4];
    size_t i = 0;
    for (int j = 0; j < 4; j++) {
        top[j] = gm_vf_set1(-__builtin_inff());
    }
    for (; i + 4 * GM_VF <= n; i += 4 * GM_VF) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            top[j] = gm_vf_max(gm_vf_load(x + i + j * GM_VF), top[j]);
        }
    }
    float best = gm_vf_top(gm_vf_max(gm_vf_max(top[0], top[1]), gm_vf_max(top[2], top[3])));
    for (; i < n; i++) {
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

/* top inv_t + log(sum exp((x - top) inv_t)): floats within a run of vectors, then double. Where the
 * largest is not finite, the scale not positive or the sum a NaN, gm_ref's answer is the answer. */
GM_INLINE double gm_vec_logsumexp(const float *x, size_t n, float inv_t)
{
    const float top = gm_lse_top(x, n);
    if (!(fabsf(top) <= FLT_MAX) || !(inv_t >= FLT_MIN && inv_t <= FLT_MAX)) {
        return gm_ref.logsumexp(x, n, inv_t);
    }
    const gm_vf k = gm_vf_set1(inv_t);
    const gm_vf t = gm_vf_set1(top);
    double total = 0.0;
    for (size_t i = 0; i < n;) {
        gm_vf sum = gm_vf_zero();
        for (int run = 0; run < GM_LSE_RUN && i < n; run++, i += GM_VF) {
            float part[GM_VF];
            const float *p = x + i;
            if (n - i < GM_VF) {
                gm_vf_store(part, gm_vf_set1(-__builtin_inff()));
                memcpy(part, p, (n - i) * sizeof *x);
                p = part;
            }
            sum = gm_vf_add(sum, gm_vf_exp(gm_vf_mul(gm_vf_sub(gm_vf_load(p), t), k)));
        }
        total += (double)gm_vf_sum(sum);
    }
    return total == total ? (double)top * (double)inv_t + gm_log(total)
                          : gm_ref.logsumexp(x, n, inv_t);
}

/* Rises with the float; both zeros are equal. Not for NaN. The low half makes lower ids larger. */
GM_INLINE uint64_t gm_topk_key(float x, int32_t id)
{
    float v = x + 0.0f; /* -0 becomes +0 */
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (uint64_t)u << 32 | (uint32_t)~id;
}

/* Moves the key at `at` down in a min-heap of n keys. */
static inline void gm_topk_sift(uint64_t *heap, int32_t at, int32_t n)
{
    const uint64_t key = heap[at];
    for (int32_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && heap[child + 1] < heap[child]) {
            child++;
        }
        if (heap[child] >= key) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = key;
}

/* Offers x[from..to) one by one to a full heap. */
static inline void gm_topk_offer(uint64_t *heap, int32_t k, const float *x, int32_t from,
                                 int32_t to)
{
    for (int32_t i = from; i < to; i++) {
        uint64_t key = gm_topk_key(x[i], i);
        if (x[i] == x[i] && key > heap[0]) {
            heap[0] = key;
            gm_topk_sift(heap, 0, k);
        }
    }
}

/* The smallest value kept: a later element must be strictly larger to get in. */
static inline float gm_topk_floor(const uint64_t *heap, const float *x)
{
    return x[(int32_t) ~(uint32_t)heap[0]];
}

/* A min-heap of the k best; vectors whose elements all lie at or below its floor are skipped. */
GM_INLINE int32_t gm_vec_top_k(int32_t *ids, float *values, const float *x, int32_t n, int32_t k)
{
    enum { STEP = 4 * GM_VF };
    uint64_t heap[GM_TOPK_MAX];
    int32_t i = 0;
    int32_t have = 0;
    k = k > GM_TOPK_MAX ? GM_TOPK_MAX : k;
    for (; i < n && have < k; i++) {
        if (x[i] == x[i]) {
            heap[have++] = gm_topk_key(x[i], i);
        }
    }
    for (int32_t j = have / 2 - 1; j >= 0; j--) {
        gm_topk_sift(heap, j, have);
    }
    if (have > 0 && have == k) {
        gm_vf floor = gm_vf_set1(gm_topk_floor(heap, x));
        for (; n - i >= STEP; i += STEP) {
            gm_vf a = gm_vf_max(gm_vf_load(x + i), floor);
            gm_vf b = gm_vf_max(gm_vf_load(x + i + GM_VF), floor);
            gm_vf c = gm_vf_max(gm_vf_load(x + i + 2 * GM_VF), floor);
            gm_vf d = gm_vf_max(gm_vf_load(x + i + 3 * GM_VF), floor);
            if (gm_vf_gt_bits(gm_vf_max(gm_vf_max(a, b), gm_vf_max(c, d)), floor)) {
                gm_topk_offer(heap, k, x, i, i + STEP);
                floor = gm_vf_set1(gm_topk_floor(heap, x));
            }
        }
        gm_topk_offer(heap, k, x, i, n);
    }
    for (int32_t j = have - 1; j > 0; j--) {
        uint64_t smallest = heap[0];
        heap[0] = heap[j];
        heap[j] = smallest;
        gm_topk_sift(heap, 0, j);
    }
    for (int32_t j = 0; j < have; j++) {
        ids[j] = (int32_t) ~(uint32_t)heap[j];
        values[j] = x[ids[j]];
    }
    return have;
}

GM_INLINE int gm_vec_all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += GM_VF) {
        if (gm_vf_any_odd(gm_vf_load_n(x + i, gm_left(n, i)))) {
            return 0;
        }
    }
    return 1;
}

#endif
