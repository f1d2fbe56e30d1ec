/* attend.c - reference attention over paged keys and values, and how they are stored.
 *
 * Owns:      kv_store, gm_kv_load and attend: softmax(q k / softcap) v for rows of queries.
 * Does not:  own pages or choose the window (common/model) or scale q (rope does).
 * Order:     first pass: the largest score; second pass: exp(score - largest) and the weighted
 *            values, both added in rising position, in double. Scores are computed again in the
 *            second pass rather than stored, so nothing is rounded to float before the end.
 *            A part holds nothing: attend_join computes the row, so it has attend's bits.
 */
#include "kernels/fmath.h"
#include "kernels/ref/ref.h"

enum { TILE = 8 }; /* query heads that share one decoding of a key */

#define F16_MAX 65504.0f

/* One block of 32: d = amax/127 as f16 (at most the largest f16), q = x/d to nearest, half to
 * even, within +-127. A block with a NaN or an infinity gets such a d and decodes to NaN. */
static struct gm_q8_0 q8_block(const float *x)
{
    struct gm_q8_0 block = { 0, { 0 } };
    float amax = 0.0f;
    for (int j = 0; j < GM_QK; j++) {
        float a = x[j] < 0.0f ? -x[j] : x[j];
        amax = a > amax || a != a ? a : amax;
        if (amax != amax)
            break;
    }
    float scale = amax / 127.0f;
    if (amax <= 3.4028235e38f && scale > F16_MAX)
        scale = F16_MAX;
    block.d = gm_f32_to_f16(scale);
    const double d = (double)gm_f16_to_f32(block.d);
    if (d > 0.0 && d <= (double)F16_MAX) {
        for (int j = 0; j < GM_QK; j++) {
            double q = (double)x[j] / d;
            q = q > 127.0 ? 127.0 : q < -127.0 ? -127.0 : q;
            block.qs[j] = (int8_t)((q + GM_FM_ROUND) - GM_FM_ROUND);
        }
    }
    return block;
}

/* Where the keys (offset k_off) or values (v_off) of one kv head start in the page of `pos`. */
static uint8_t *side_of(const struct gm_kv_view *kv, size_t offset, int32_t pos, int32_t kv_head)
{
    const size_t side = GM_PAGE * gm_kv_vec_bytes(kv->type, kv->head_dim);
    return kv->pages[pos / GM_PAGE] + offset + (size_t)kv_head * side;
}

static const enum gm_type stored_as[] = {
    [GM_KV_F32] = GM_TYPE_F32,
    [GM_KV_BF16] = GM_TYPE_BF16,
    [GM_KV_F16] = GM_TYPE_F16,
    [GM_KV_Q8] = GM_TYPE_Q8_0,
};

/* Bytes of a stored element that is no block. */
static size_t elem_bytes(enum gm_kv_type type)
{
    return type == GM_KV_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* One element in F32, BF16 or F16. */
static void put_elem(uint8_t *dst, float x, enum gm_kv_type type)
{
    if (type == GM_KV_F32) {
        memcpy(dst, &x, sizeof x);
        return;
    }
    uint16_t h = type == GM_KV_F16 ? gm_f32_to_f16(x) : gm_f32_to_bf16(x);
    memcpy(dst, &h, sizeof h);
}

/* Where element i of the key at place `at` stands among the elements of a page's keys. */
static size_t key_index(enum gm_kv_type type, int32_t at, int32_t i)
{
    return type == GM_KV_BF16 ? (size_t)((i / 2 * GM_PAGE + at) * 2 + i % 2)
                              : (size_t)(i * GM_PAGE + at);
}

/* The same among its values. */
static size_t value_index(enum gm_kv_type type, int32_t dim, int32_t at, int32_t i)
{
    return type == GM_KV_BF16 ? (size_t)((at / 2 * dim + i) * 2 + at % 2) : (size_t)(at * dim + i);
}

/* Place `at` of a page's keys and values gets k[dim], v[dim]. */
static void store_plain(uint8_t *keys, uint8_t *values, int32_t at, const float *k, const float *v,
                        int32_t dim, enum gm_kv_type type)
{
    const size_t bytes = elem_bytes(type);
    for (int32_t i = 0; i < dim; i++) {
        put_elem(keys + key_index(type, at, i) * bytes, k[i], type);
        put_elem(values + value_index(type, dim, at, i) * bytes, v[i], type);
    }
}

static void store_q8(uint8_t *keys, uint8_t *values, int32_t at, const float *k, const float *v,
                     int32_t dim)
{
    const int32_t blocks = dim / GM_QK;
    uint8_t *codes = keys + (size_t)(blocks * GM_PAGE) * sizeof(uint16_t);
    for (int32_t b = 0; b < blocks; b++) {
        struct gm_q8_0 block = q8_block(k + (size_t)b * GM_QK);
        memcpy(keys + (size_t)(b * GM_PAGE + at) * sizeof block.d, &block.d, sizeof block.d);
        for (int32_t j = 0; j < GM_QK; j++)
            codes[(b * GM_QK + j) * GM_PAGE + at] = (uint8_t)block.qs[j];
        block = q8_block(v + (size_t)b * GM_QK);
        memcpy(values + (size_t)(at * blocks + b) * sizeof block, &block, sizeof block);
    }
}

void gm_ref_kv_store(const struct gm_kv_view *kv, int32_t pos, const float *k, const float *v)
{
    const int32_t dim = kv->head_dim, at = pos % GM_PAGE;
    for (int32_t h = 0; h < kv->kv_heads; h++, k += dim, v += dim) {
        uint8_t *keys = side_of(kv, kv->k_off, pos, h);
        uint8_t *values = side_of(kv, kv->v_off, pos, h);
        if (kv->type == GM_KV_Q8)
            store_q8(keys, values, at, k, v, dim);
        else
            store_plain(keys, values, at, k, v, dim, kv->type);
    }
}

/* The key of place `at`, brought together into a row that gm_dequant_row reads. */
static void gather_key(uint8_t *row, const uint8_t *keys, int32_t at, int32_t dim,
                       enum gm_kv_type type)
{
    if (type != GM_KV_Q8) {
        const size_t bytes = elem_bytes(type);
        for (int32_t i = 0; i < dim; i++)
            memcpy(row + (size_t)i * bytes, keys + key_index(type, at, i) * bytes, bytes);
        return;
    }
    const uint8_t *codes = keys + (size_t)(dim / GM_QK * GM_PAGE) * sizeof(uint16_t);
    for (int32_t b = 0; b < dim / GM_QK; b++) {
        struct gm_q8_0 block;
        memcpy(&block.d, keys + (size_t)(b * GM_PAGE + at) * sizeof block.d, sizeof block.d);
        for (int32_t j = 0; j < GM_QK; j++)
            block.qs[j] = (int8_t)codes[(b * GM_QK + j) * GM_PAGE + at];
        memcpy(row + (size_t)b * sizeof block, &block, sizeof block);
    }
}

/* The same for the value. */
static void gather_value(uint8_t *row, const uint8_t *values, int32_t at, int32_t dim,
                         enum gm_kv_type type)
{
    if (type == GM_KV_Q8) {
        const size_t bytes = gm_kv_vec_bytes(type, dim);
        memcpy(row, values + (size_t)at * bytes, bytes);
        return;
    }
    const size_t bytes = elem_bytes(type);
    for (int32_t i = 0; i < dim; i++)
        memcpy(row + (size_t)i * bytes, values + value_index(type, dim, at, i) * bytes, bytes);
}

void gm_kv_load(const struct gm_kv_view *kv, int32_t pos, int32_t kv_head, float *k, float *v)
{
    uint8_t row[GM_HEAD_DIM_MAX * sizeof(float)];
    const int32_t at = pos % GM_PAGE;
    const size_t dim = (size_t)kv->head_dim;
    gather_key(row, side_of(kv, kv->k_off, pos, kv_head), at, kv->head_dim, kv->type);
    gm_dequant_row(k, row, stored_as[kv->type], dim);
    gather_value(row, side_of(kv, kv->v_off, pos, kv_head), at, kv->head_dim, kv->type);
    gm_dequant_row(v, row, stored_as[kv->type], dim);
}

/* Up to TILE query heads that read one kv head. */
struct tile {
    double q[TILE][GM_HEAD_DIM_MAX];
    double out[TILE][GM_HEAD_DIM_MAX];
    double largest[TILE];
    double weight[TILE]; /* sum of exp(score - largest) */
};

/* The positions a row sees. */
struct range {
    int32_t first, last;
};

static double score_of(const double *q, const double *key, int32_t head_dim, double softcap)
{
    struct gm_ref_sum sum = { { 0.0 } };
    gm_ref_dot(&sum, q, key, (size_t)head_dim);
    double score = gm_ref_total(&sum);
    return softcap > 0.0 ? softcap * gm_tanh(score / softcap) : score;
}

static void load(const struct gm_kv_view *kv, int32_t pos, int32_t kv_head, double *key,
                 double *value)
{
    float k[GM_HEAD_DIM_MAX], v[GM_HEAD_DIM_MAX];
    gm_kv_load(kv, pos, kv_head, k, v);
    for (int32_t i = 0; i < kv->head_dim; i++) {
        key[i] = (double)k[i];
        value[i] = (double)v[i];
    }
}

static void find_largest(struct tile *t, const struct gm_attend *a, struct range seen,
                         int32_t kv_head, int32_t count)
{
    double key[GM_HEAD_DIM_MAX], value[GM_HEAD_DIM_MAX];
    for (int32_t n = 0; n < count; n++)
        t->largest[n] = -GM_FM_INF;
    for (int32_t pos = seen.first; pos <= seen.last; pos++) {
        load(&a->kv, pos, kv_head, key, value);
        for (int32_t n = 0; n < count; n++) {
            double s = score_of(t->q[n], key, a->kv.head_dim, (double)a->softcap);
            t->largest[n] = s > t->largest[n] || s != s ? s : t->largest[n];
        }
    }
}

static void weigh_values(struct tile *t, const struct gm_attend *a, struct range seen,
                         int32_t kv_head, int32_t count)
{
    double key[GM_HEAD_DIM_MAX], value[GM_HEAD_DIM_MAX];
    const int32_t dim = a->kv.head_dim;
    memset(t->out, 0, sizeof t->out);
    memset(t->weight, 0, sizeof t->weight);
    for (int32_t pos = seen.first; pos <= seen.last; pos++) {
        load(&a->kv, pos, kv_head, key, value);
        for (int32_t n = 0; n < count; n++) {
            double s = score_of(t->q[n], key, dim, (double)a->softcap);
            double e = gm_exp(s - t->largest[n]);
            t->weight[n] += e;
            double *out = t->out[n];
            for (int32_t i = 0; i < dim; i++)
                out[i] += e * value[i];
        }
    }
}

static void attend_row(const struct gm_attend *a, int32_t kv_head, int32_t row)
{
    const int32_t dim = a->kv.head_dim, group = a->heads / a->kv.kv_heads;
    const int32_t at = a->pos + row;
    const struct range seen = { a->window > 0 && at >= a->window ? at - a->window + 1 : 0, at };
    struct tile t;
    for (int32_t first = 0; first < group; first += TILE) {
        const int32_t count = group - first < TILE ? group - first : TILE;
        const size_t head = (size_t)row * (size_t)a->heads + (size_t)(kv_head * group + first);
        const float *q = a->q + head * (size_t)dim;
        float *out = a->out + head * (size_t)dim;
        for (int32_t n = 0; n < count; n++)
            for (int32_t i = 0; i < dim; i++)
                t.q[n][i] = (double)q[n * dim + i];
        find_largest(&t, a, seen, kv_head, count);
        weigh_values(&t, a, seen, kv_head, count);
        for (int32_t n = 0; n < count; n++)
            for (int32_t i = 0; i < dim; i++)
                out[n * dim + i] = (float)(t.out[n][i] / t.weight[n]);
    }
}

void gm_ref_attend(const struct gm_attend *a, int32_t kv_head)
{
    for (int32_t row = 0; row < a->rows; row++)
        attend_row(a, kv_head, row);
}

void gm_ref_attend_part(const struct gm_attend *a, int32_t kv_head, int32_t page, float *parts)
{
    (void)a;
    (void)kv_head;
    (void)page;
    (void)parts;
}

void gm_ref_attend_join(const struct gm_attend *a, int32_t kv_head, int32_t row, const float *parts)
{
    (void)parts;
    attend_row(a, kv_head, row);
}
