/* quant_enc.c - the encoders declared in quant_enc.h.
 *
 * Owns:      a table of encoders: one block of floats to its bytes.
 * Does not:  decode (dtype.c), or vectorise by hand: the loops are plain enough for a compiler.
 * Rounding:  codes are rounded half up against the scale as it is stored (a half, or a half times a
 *            6-bit or 8-bit number), so the error of a value is at most half a step, except where
 *            a code is cut off at the end of its range.
 */
#include "kernels/quant_enc.h"

enum {
    K_SUBS = GM_QK_K / GM_QK, /* sub-blocks of Q4_K and Q5_K */
    Q6_SUB = 16,              /* elements that share a scale in Q6_K */
    Q6_SUBS = GM_QK_K / Q6_SUB,
    LANES = 8,
};

/* ---- parts -----------------------------------------------------------------------------------
 */

static float inverse(float d)
{
    return d != 0.0f ? 1.0f / d : 0.0f;
}

/* x / d + offset, to the nearest of 0..max. What is no number becomes 0. */
static int code(float x, float inverse_d, int offset, int max)
{
    float v = x * inverse_d + ((float)offset + 0.5f), top = (float)max;
    v = v > 0.0f ? v : 0.0f;
    return (int)(v < top ? v : top);
}

/* n codes at once. */
static void codes(uint8_t *q, const float *x, int n, float d, int offset, int max)
{
    float inv = inverse(d);
    for (int i = 0; i < n; i++)
        q[i] = (uint8_t)code(x[i], inv, offset, max);
}

/* The least and the largest of n values, a multiple of LANES; lanes keep the comparisons apart.
 * What is no number is passed over, unless it is one of the first. */
static void range(const float *x, int n, float *lo, float *hi)
{
    float a[LANES], b[LANES];
    for (int k = 0; k < LANES; k++)
        a[k] = b[k] = x[k];
    for (int i = LANES; i < n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            a[k] = x[i + k] < a[k] ? x[i + k] : a[k];
            b[k] = x[i + k] > b[k] ? x[i + k] : b[k];
        }
    *lo = a[0];
    *hi = b[0];
    for (int k = 1; k < LANES; k++) {
        *lo = a[k] < *lo ? a[k] : *lo;
        *hi = b[k] > *hi ? b[k] : *hi;
    }
}

/* The value of the largest magnitude, with its sign. */
static float extreme(const float *x, int n)
{
    float lo, hi;
    range(x, n, &lo, &hi);
    return hi >= -lo ? hi : lo;
}

/* The largest magnitude. */
static float largest(const float *x, int n)
{
    float v = extreme(x, n);
    return v < 0.0f ? -v : v;
}

/* Element j in the low nibble of byte j, element j + 16 in the high one. */
static void put_nibbles(uint8_t qs[GM_QK / 2], const uint8_t q[GM_QK])
{
    for (int j = 0; j < GM_QK / 2; j++)
        qs[j] = (uint8_t)((q[j] & 15) | (q[j + GM_QK / 2] & 15) << 4);
}

/* The fifth bits: bit j belongs to element j. */
static void put_fifth(uint8_t qh[4], const uint8_t q[GM_QK])
{
    uint32_t high = 0;
    for (int j = 0; j < GM_QK; j++)
        high |= (uint32_t)(q[j] >> 4) << j;
    memcpy(qh, &high, sizeof high);
}

/* ---- blocks of 32 ----------------------------------------------------------------------------
 */

/* Codes around `half`; the extreme value gets the code 0, so that the wider side is used. */
static uint16_t centred(uint8_t q[GM_QK], const float *x, int half)
{
    uint16_t d = gm_f32_to_f16(extreme(x, GM_QK) / (float)-half);
    codes(q, x, GM_QK, gm_f16_to_f32(d), half, 2 * half - 1);
    return d;
}

/* Codes 0..max above a minimum. */
static void above(uint8_t q[GM_QK], const float *x, int max, uint16_t *d, uint16_t *m)
{
    float lo, hi, shifted[GM_QK];
    range(x, GM_QK, &lo, &hi);
    *d = gm_f32_to_f16((hi - lo) / (float)max);
    *m = gm_f32_to_f16(lo);
    float least = gm_f16_to_f32(*m);
    for (int j = 0; j < GM_QK; j++)
        shifted[j] = x[j] - least;
    codes(q, shifted, GM_QK, gm_f16_to_f32(*d), 0, max);
}

static void encode_q4_0(uint8_t *to, const float *x)
{
    struct gm_q4_0 b;
    uint8_t q[GM_QK];
    b.d = centred(q, x, 8);
    put_nibbles(b.qs, q);
    memcpy(to, &b, sizeof b);
}

static void encode_q5_0(uint8_t *to, const float *x)
{
    struct gm_q5_0 b;
    uint8_t q[GM_QK];
    b.d = centred(q, x, 16);
    put_fifth(b.qh, q);
    put_nibbles(b.qs, q);
    memcpy(to, &b, sizeof b);
}

static void encode_q4_1(uint8_t *to, const float *x)
{
    struct gm_q4_1 b;
    uint8_t q[GM_QK];
    above(q, x, 15, &b.d, &b.m);
    put_nibbles(b.qs, q);
    memcpy(to, &b, sizeof b);
}

static void encode_q5_1(uint8_t *to, const float *x)
{
    struct gm_q5_1 b;
    uint8_t q[GM_QK];
    above(q, x, 31, &b.d, &b.m);
    put_fifth(b.qh, q);
    put_nibbles(b.qs, q);
    memcpy(to, &b, sizeof b);
}

static void encode_q8_0(uint8_t *to, const float *x)
{
    struct gm_q8_0 b;
    b.d = gm_f32_to_f16(largest(x, GM_QK) / 127.0f);
    float inv = inverse(gm_f16_to_f32(b.d));
    for (int j = 0; j < GM_QK; j++)
        b.qs[j] = (int8_t)(code(x[j], inv, 127, 254) - 127);
    memcpy(to, &b, sizeof b);
}

/* ---- super-blocks of 256 ---------------------------------------------------------------------
 */

/* What Q4_K and Q5_K share: x = d scale q - dmin min in eight sub-blocks, codes 0..max. */
struct k_block {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t q[GM_QK_K];
};

/* The inverse of the unpacking in dtype.c: j < 4 in the low six bits of s[j] and s[j + 4]; else
 * low four bits in s[j + 4], the top two above those of s[j - 4] and s[j]. */
static void put_scale_min(uint8_t *s, int j, int scale, int min)
{
    if (j < 4) {
        s[j] |= (uint8_t)scale;
        s[j + 4] |= (uint8_t)min;
    } else {
        s[j + 4] |= (uint8_t)((scale & 15) | (min & 15) << 4);
        s[j - 4] |= (uint8_t)((scale >> 4) << 6);
        s[j] |= (uint8_t)((min >> 4) << 6);
    }
}

static void k_encode(struct k_block *b, const float *x, int max)
{
    float below[K_SUBS], step[K_SUBS], shifted[GM_QK], below_max = 0.0f, step_max = 0.0f;
    for (int s = 0; s < K_SUBS; s++) {
        float lo, hi;
        range(x + s * GM_QK, GM_QK, &lo, &hi);
        below[s] = lo < 0.0f ? -lo : 0.0f; /* what is subtracted */
        hi = hi + below[s];
        step[s] = hi > 0.0f ? hi / (float)max : 0.0f;
        below_max = below[s] > below_max ? below[s] : below_max;
        step_max = step[s] > step_max ? step[s] : step_max;
    }
    memset(b->scales, 0, sizeof b->scales);
    b->d = gm_f32_to_f16(step_max / 63.0f);
    b->dmin = gm_f32_to_f16(below_max / 63.0f);
    float d = gm_f16_to_f32(b->d), dmin = gm_f16_to_f32(b->dmin);
    for (int s = 0; s < K_SUBS; s++) {
        int scale = code(step[s], inverse(d), 0, 63), min = code(below[s], inverse(dmin), 0, 63);
        float least = dmin * (float)min;
        put_scale_min(b->scales, s, scale, min);
        for (int j = 0; j < GM_QK; j++)
            shifted[j] = x[s * GM_QK + j] + least;
        codes(b->q + s * GM_QK, shifted, GM_QK, d * (float)scale, 0, max);
    }
}

static void encode_q4_k(uint8_t *to, const float *x)
{
    struct k_block k;
    struct gm_q4_k b;
    k_encode(&k, x, 15);
    b.d = k.d;
    b.dmin = k.dmin;
    memcpy(b.scales, k.scales, sizeof b.scales);
    for (int chunk = 0; chunk < K_SUBS / 2; chunk++) {
        const uint8_t *low = k.q + chunk * 2 * GM_QK, *high = low + GM_QK;
        for (int l = 0; l < GM_QK; l++)
            b.qs[chunk * GM_QK + l] = (uint8_t)(low[l] | high[l] << 4);
    }
    memcpy(to, &b, sizeof b);
}

static void encode_q5_k(uint8_t *to, const float *x)
{
    struct k_block k;
    struct gm_q5_k b;
    k_encode(&k, x, 31);
    b.d = k.d;
    b.dmin = k.dmin;
    memcpy(b.scales, k.scales, sizeof b.scales);
    memset(b.qh, 0, sizeof b.qh);
    for (int chunk = 0; chunk < K_SUBS / 2; chunk++) {
        const uint8_t *low = k.q + chunk * 2 * GM_QK, *high = low + GM_QK;
        for (int l = 0; l < GM_QK; l++) {
            b.qs[chunk * GM_QK + l] = (uint8_t)((low[l] & 15) | (high[l] & 15) << 4);
            b.qh[l] |= (uint8_t)((low[l] >> 4) << (2 * chunk) | (high[l] >> 4) << (2 * chunk + 1));
        }
    }
    memcpy(to, &b, sizeof b);
}

/* Two halves of 128; in each, byte l of ql holds elements l and l + 64, byte l + 32 the elements
 * l + 32 and l + 96, and byte l of qh the upper two bits of all four. */
static void encode_q6_k(uint8_t *to, const float *x)
{
    struct gm_q6_k b;
    float step[Q6_SUBS], step_max = 0.0f;
    uint8_t q[GM_QK_K];
    for (int s = 0; s < Q6_SUBS; s++) {
        step[s] = largest(x + s * Q6_SUB, Q6_SUB) / 31.0f;
        step_max = step[s] > step_max ? step[s] : step_max;
    }
    b.d = gm_f32_to_f16(step_max / 127.0f);
    float d = gm_f16_to_f32(b.d);
    for (int s = 0; s < Q6_SUBS; s++) {
        b.scales[s] = (int8_t)code(step[s], inverse(d), 0, 127);
        codes(q + s * Q6_SUB, x + s * Q6_SUB, Q6_SUB, d * (float)b.scales[s], 32, 63);
    }
    for (int half = 0; half < 2; half++) {
        const uint8_t *p = q + half * 128;
        uint8_t *ql = b.ql + half * 64, *qh = b.qh + half * 32;
        for (int l = 0; l < 32; l++) {
            ql[l] = (uint8_t)((p[l] & 15) | (p[l + 64] & 15) << 4);
            ql[l + 32] = (uint8_t)((p[l + 32] & 15) | (p[l + 96] & 15) << 4);
            qh[l] = (uint8_t)((p[l] >> 4) | (p[l + 32] >> 4) << 2 | (p[l + 64] >> 4) << 4 |
                              (p[l + 96] >> 4) << 6);
        }
    }
    memcpy(to, &b, sizeof b);
}

/* ---- rows ------------------------------------------------------------------------------------
 */

typedef void encode_fn(uint8_t *to, const float *x);

static encode_fn *const block_encoders[GM_TYPE_MAX] = {
    [GM_TYPE_Q4_0] = encode_q4_0, [GM_TYPE_Q4_1] = encode_q4_1, [GM_TYPE_Q5_0] = encode_q5_0,
    [GM_TYPE_Q5_1] = encode_q5_1, [GM_TYPE_Q8_0] = encode_q8_0, [GM_TYPE_Q4_K] = encode_q4_k,
    [GM_TYPE_Q5_K] = encode_q5_k, [GM_TYPE_Q6_K] = encode_q6_k,
};

/* The types without blocks. */
static void encode_floats(uint8_t *to, const float *x, enum gm_type type, size_t cols)
{
    if (type == GM_TYPE_F32) {
        if (cols)
            memcpy(to, x, cols * sizeof *x);
        return;
    }
    for (size_t i = 0; i < cols; i++) {
        uint16_t half = type == GM_TYPE_F16 ? gm_f32_to_f16(x[i]) : gm_f32_to_bf16(x[i]);
        memcpy(to + i * sizeof half, &half, sizeof half);
    }
}

void gm_quant_row(void *to, const float *x, enum gm_type type, size_t cols)
{
    const struct gm_type_info *info = gm_type_info((uint32_t)type);
    if (!info)
        return;
    encode_fn *encode = block_encoders[type];
    if (!encode) {
        encode_floats(to, x, type, cols);
        return;
    }
    uint8_t *p = to;
    for (size_t i = 0; i + info->block_elems <= cols; i += info->block_elems) {
        encode(p, x + i);
        p += info->block_bytes;
    }
}
