/* support_quant.c - simple encoders of every weight type, for files that tests write.
 *
 * Owns:      gm_fake_encode: scales from the largest value of a block, plain rounding.
 * Does not:  search for the best scales as real quantisers do. The decoders in kernels/dtype.c are
 *            the layouts' reference.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/support_gguf.h"

static int code(float x, float d, int offset, int max)
{
    int q = d != 0.0f ? (int)lrintf(x / d) + offset : offset;
    return q < 0 ? 0 : q > max ? max : q;
}

static float largest(const float *x, int n)
{
    float a = 0.0f;
    for (int i = 0; i < n; i++)
        a = fmaxf(a, fabsf(x[i]));
    return a;
}

static void range(const float *x, int n, float *lo, float *hi)
{
    *lo = *hi = x[0];
    for (int i = 1; i < n; i++) {
        *lo = fminf(*lo, x[i]);
        *hi = fmaxf(*hi, x[i]);
    }
}

static void put_q4(uint8_t qs[16], const int q[GM_QK])
{
    for (int j = 0; j < GM_QK / 2; j++)
        qs[j] = (uint8_t)((q[j] & 15) | (q[j + GM_QK / 2] & 15) << 4);
}

static void put_q5(uint8_t qh[4], uint8_t qs[16], const int q[GM_QK])
{
    uint32_t high = 0;
    for (int j = 0; j < GM_QK; j++)
        high |= (uint32_t)(q[j] >> 4) << j;
    memcpy(qh, &high, 4);
    put_q4(qs, q);
}

static void encode_q8_0(void *to, const float *x)
{
    struct gm_q8_0 b;
    b.d = gm_f32_to_f16(largest(x, GM_QK) / 127.0f);
    for (int j = 0; j < GM_QK; j++)
        b.qs[j] = (int8_t)(code(x[j], gm_f16_to_f32(b.d), 127, 254) - 127);
    memcpy(to, &b, sizeof b);
}

/* Q4_0 and Q5_0: signed codes around `half`. */
static void encode_centred(void *to, const float *x, int half)
{
    int q[GM_QK];
    uint16_t d = gm_f32_to_f16(largest(x, GM_QK) / (float)(half - 1));
    for (int j = 0; j < GM_QK; j++)
        q[j] = code(x[j], gm_f16_to_f32(d), half, 2 * half - 1);
    if (half == 8) {
        struct gm_q4_0 b = { .d = d };
        put_q4(b.qs, q);
        memcpy(to, &b, sizeof b);
    } else {
        struct gm_q5_0 b = { .d = d };
        put_q5(b.qh, b.qs, q);
        memcpy(to, &b, sizeof b);
    }
}

/* Q4_1 and Q5_1: codes 0..max above a minimum. */
static void encode_above(void *to, const float *x, int max)
{
    int q[GM_QK];
    float lo, hi;
    range(x, GM_QK, &lo, &hi);
    uint16_t d = gm_f32_to_f16((hi - lo) / (float)max), m = gm_f32_to_f16(lo);
    for (int j = 0; j < GM_QK; j++)
        q[j] = code(x[j] - gm_f16_to_f32(m), gm_f16_to_f32(d), 0, max);
    if (max == 15) {
        struct gm_q4_1 b = { .d = d, .m = m };
        put_q4(b.qs, q);
        memcpy(to, &b, sizeof b);
    } else {
        struct gm_q5_1 b = { .d = d, .m = m };
        put_q5(b.qh, b.qs, q);
        memcpy(to, &b, sizeof b);
    }
}

/* The shared part of Q4_K and Q5_K: eight sub-blocks of 32, codes 0..max. */
struct k_block {
    uint16_t d, dmin;
    uint8_t scales[12];
    int q[GM_QK_K];
};

static void encode_k(struct k_block *b, const float *x, int max)
{
    float lo[8], step[8], step_max = 0.0f, lo_max = 0.0f;
    for (int s = 0; s < 8; s++) {
        float hi;
        range(x + s * 32, 32, &lo[s], &hi);
        lo[s] = fmaxf(-lo[s], 0.0f); /* what is subtracted */
        step[s] = fmaxf(hi + lo[s], 0.0f) / (float)max;
        step_max = fmaxf(step_max, step[s]);
        lo_max = fmaxf(lo_max, lo[s]);
    }
    memset(b->scales, 0, sizeof b->scales);
    b->d = gm_f32_to_f16(step_max / 63.0f);
    b->dmin = gm_f32_to_f16(lo_max / 63.0f);
    float d = gm_f16_to_f32(b->d), dmin = gm_f16_to_f32(b->dmin);
    for (int s = 0; s < 8; s++) {
        int scale = code(step[s], d, 0, 63), least = code(lo[s], dmin, 0, 63);
        if (s < 4) {
            b->scales[s] |= (uint8_t)scale;
            b->scales[s + 4] |= (uint8_t)least;
        } else {
            b->scales[s + 4] |= (uint8_t)((scale & 15) | (least & 15) << 4);
            b->scales[s - 4] |= (uint8_t)((scale >> 4) << 6);
            b->scales[s] |= (uint8_t)((least >> 4) << 6);
        }
        for (int j = 0; j < 32; j++)
            b->q[s * 32 + j] = code(x[s * 32 + j] + dmin * (float)least, d * (float)scale, 0, max);
    }
}

static void encode_q4_k(void *to, const float *x)
{
    struct k_block k;
    struct gm_q4_k b;
    encode_k(&k, x, 15);
    b.d = k.d;
    b.dmin = k.dmin;
    memcpy(b.scales, k.scales, sizeof b.scales);
    for (int chunk = 0; chunk < 4; chunk++)
        for (int l = 0; l < 32; l++)
            b.qs[chunk * 32 + l] = (uint8_t)(k.q[chunk * 64 + l] | k.q[chunk * 64 + 32 + l] << 4);
    memcpy(to, &b, sizeof b);
}

static void encode_q5_k(void *to, const float *x)
{
    struct k_block k;
    struct gm_q5_k b;
    encode_k(&k, x, 31);
    b.d = k.d;
    b.dmin = k.dmin;
    memcpy(b.scales, k.scales, sizeof b.scales);
    memset(b.qh, 0, sizeof b.qh);
    for (int chunk = 0; chunk < 4; chunk++)
        for (int l = 0; l < 32; l++) {
            int low = k.q[chunk * 64 + l], high = k.q[chunk * 64 + 32 + l];
            b.qs[chunk * 32 + l] = (uint8_t)((low & 15) | (high & 15) << 4);
            b.qh[l] |= (uint8_t)((low >> 4) << (2 * chunk) | (high >> 4) << (2 * chunk + 1));
        }
    memcpy(to, &b, sizeof b);
}

static void encode_q6_k(void *to, const float *x)
{
    struct gm_q6_k b;
    memset(&b, 0, sizeof b);
    b.d = gm_f32_to_f16(largest(x, GM_QK_K) / 31.0f / 127.0f);
    float d = gm_f16_to_f32(b.d);
    for (int s = 0; s < 16; s++)
        b.scales[s] = (int8_t)code(largest(x + s * 16, 16) / 31.0f, d, 0, 127);
    for (int i = 0; i < GM_QK_K; i++) {
        int half = i / 128, quarter = i % 128 / 32, l = i % 32;
        int q = code(x[i], d * (float)b.scales[i / 16], 32, 63);
        b.ql[half * 64 + (quarter & 1) * 32 + l] |= (uint8_t)((q & 15) << (quarter >= 2 ? 4 : 0));
        b.qh[half * 32 + l] |= (uint8_t)((q >> 4) << (2 * quarter));
    }
    memcpy(to, &b, sizeof b);
}

static void encode_block(void *to, const float *x, enum gm_type type)
{
    uint16_t half = 0;
    switch (type) {
    case GM_TYPE_F32:
        memcpy(to, x, sizeof *x);
        return;
    case GM_TYPE_F16:
        half = gm_f32_to_f16(*x);
        memcpy(to, &half, sizeof half);
        return;
    case GM_TYPE_BF16:
        half = gm_f32_to_bf16(*x);
        memcpy(to, &half, sizeof half);
        return;
    case GM_TYPE_Q4_0:
        encode_centred(to, x, 8);
        return;
    case GM_TYPE_Q5_0:
        encode_centred(to, x, 16);
        return;
    case GM_TYPE_Q4_1:
        encode_above(to, x, 15);
        return;
    case GM_TYPE_Q5_1:
        encode_above(to, x, 31);
        return;
    case GM_TYPE_Q8_0:
        encode_q8_0(to, x);
        return;
    case GM_TYPE_Q4_K:
        encode_q4_k(to, x);
        return;
    case GM_TYPE_Q5_K:
        encode_q5_k(to, x);
        return;
    case GM_TYPE_Q6_K:
        encode_q6_k(to, x);
        return;
    case GM_TYPE_MAX:
        break;
    }
    abort();
}

void gm_fake_encode(void *row, const float *x, enum gm_type type, size_t cols)
{
    const struct gm_type_info *info = gm_type_info((uint32_t)type);
    if (!info || cols % info->block_elems != 0)
        abort();
    for (size_t i = 0; i < cols / info->block_elems; i++)
        encode_block((uint8_t *)row + i * info->block_bytes, x + i * info->block_elems, type);
}
