/* attend.c - reference attention over paged keys and values, and how they are stored.
 *
 * Owns:      kv_store and attend: softmax(q k / softcap) v for one query row, all heads.
 * Does not:  own pages or choose the window (common/model) or scale q (rope does).
 * Order:     first pass: the largest score; second pass: exp(score - largest) and the weighted
 *            values, both added in rising position, in double. Scores are computed again in the
 *            second pass rather than stored, so nothing is rounded to float before the end and
 *            `scratch` is not used.
 */
#include "kernels/fmath.h"
#include "kernels/ref/ref.h"

enum { TILE = 8 }; /* query heads that share one decoding of a key */

#define F16_MAX 65504.0f

/* One block of 32: d = amax/127 as f16 (at most the largest f16), q = x/d to nearest, half to
 * even, within +-127. A block with a NaN or an infinity gets such a d and decodes to NaN. */
static void store_q8_block(uint8_t *dst, const float *x)
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
    memcpy(dst, &block, sizeof block);
}

void gm_ref_kv_store(void *dst, const float *x, int32_t n, enum gm_kv_type type)
{
    uint8_t *out = dst;
    switch (type) {
    case GM_KV_F32:
        if (n > 0)
            memcpy(out, x, (size_t)n * sizeof *x);
        break;
    case GM_KV_BF16:
    case GM_KV_F16:
        for (int32_t i = 0; i < n; i++) {
            uint16_t h = type == GM_KV_F16 ? gm_f32_to_f16(x[i]) : gm_f32_to_bf16(x[i]);
            memcpy(out + (size_t)i * sizeof h, &h, sizeof h);
        }
        break;
    case GM_KV_Q8:
        for (int32_t i = 0; i + GM_QK <= n; i += GM_QK)
            store_q8_block(out + (size_t)(i / GM_QK) * sizeof(struct gm_q8_0), x + i);
        break;
    }
}

static const enum gm_type stored_as[] = {
    [GM_KV_F32] = GM_TYPE_F32,
    [GM_KV_BF16] = GM_TYPE_BF16,
    [GM_KV_F16] = GM_TYPE_F16,
    [GM_KV_Q8] = GM_TYPE_Q8_0,
};

/* Decodes one stored vector (offset k_off or v_off) of position `pos` and kv head `head`. */
static void load(double *out, const struct gm_kv_view *kv, size_t offset, int32_t pos, int32_t head)
{
    float x[GM_HEAD_DIM_MAX];
    size_t slot = (size_t)(pos % GM_PAGE) * (size_t)kv->kv_heads + (size_t)head;
    const uint8_t *page = kv->pages[pos / GM_PAGE] + offset;
    gm_dequant_row(x, page + slot * gm_kv_vec_bytes(kv->type, kv->head_dim), stored_as[kv->type],
                   (size_t)kv->head_dim);
    for (int32_t i = 0; i < kv->head_dim; i++)
        out[i] = (double)x[i];
}

/* Up to TILE query heads that read one kv head. */
struct tile {
    double q[TILE][GM_HEAD_DIM_MAX];
    double out[TILE][GM_HEAD_DIM_MAX];
    double largest[TILE];
    double weight[TILE]; /* sum of exp(score - largest) */
};

static double score_of(const double *q, const double *key, int32_t head_dim, double softcap)
{
    struct gm_ref_sum sum = { { 0.0 } };
    gm_ref_dot(&sum, q, key, (size_t)head_dim);
    double score = gm_ref_total(&sum);
    return softcap > 0.0 ? softcap * gm_tanh(score / softcap) : score;
}

static void find_largest(struct tile *t, const struct gm_attend *a, int32_t kv_head, int32_t count)
{
    double key[GM_HEAD_DIM_MAX];
    for (int32_t n = 0; n < count; n++)
        t->largest[n] = -GM_FM_INF;
    for (int32_t pos = a->first; pos <= a->last; pos++) {
        load(key, &a->kv, a->kv.k_off, pos, kv_head);
        for (int32_t n = 0; n < count; n++) {
            double s = score_of(t->q[n], key, a->kv.head_dim, (double)a->softcap);
            t->largest[n] = s > t->largest[n] || s != s ? s : t->largest[n];
        }
    }
}

static void weigh_values(struct tile *t, const struct gm_attend *a, int32_t kv_head, int32_t count)
{
    double key[GM_HEAD_DIM_MAX], value[GM_HEAD_DIM_MAX];
    const int32_t dim = a->kv.head_dim;
    memset(t->out, 0, sizeof t->out);
    memset(t->weight, 0, sizeof t->weight);
    for (int32_t pos = a->first; pos <= a->last; pos++) {
        load(key, &a->kv, a->kv.k_off, pos, kv_head);
        load(value, &a->kv, a->kv.v_off, pos, kv_head);
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

void gm_ref_attend(const struct gm_attend *a)
{
    const int32_t dim = a->kv.head_dim;
    if (a->last < a->first)
        return;
    const int32_t group = a->heads / a->kv.kv_heads;
    struct tile t;
    for (int32_t head = 0; head < a->heads;) {
        int32_t kv_head = head / group;
        int32_t left = (kv_head + 1) * group - head;
        int32_t count = left < TILE ? left : TILE;
        const float *q = a->q + (size_t)head * (size_t)dim;
        float *out = a->out + (size_t)head * (size_t)dim;
        for (int32_t n = 0; n < count; n++)
            for (int32_t i = 0; i < dim; i++)
                t.q[n][i] = (double)q[n * dim + i];
        find_largest(&t, a, kv_head, count);
        weigh_values(&t, a, kv_head, count);
        for (int32_t n = 0; n < count; n++)
            for (int32_t i = 0; i < dim; i++)
                out[n * dim + i] = (float)(t.out[n][i] / t.weight[n]);
        head += count;
    }
}
