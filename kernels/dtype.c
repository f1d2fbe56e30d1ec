/* dtype.c - the table of weight types and the scalar decoders declared in dtype.h.
 *
 * Owns:      gm_type_info, the f16/bf16 conversions, one decoder per block type, and the size of a
 *            stored key or value vector.
 * Does not:  encode weights, vectorise, or check file sizes (common/model does before it maps).
 * Rounding:  every decoder's products are exact in float (d has 11 bits, a scale at most 8, a code
 *            at most 6, and the worst pairs are powers of two); where a minimum is added or
 *            subtracted there is one rounding to float.
 * Alignment: blocks may start at any byte; 16-bit fields are read with memcpy.
 */
#include "kernels/dtype.h"
#include "kernels/kernels.h"

static const struct gm_type_info type_table[GM_TYPE_MAX] = {
    [GM_TYPE_F32] = { "F32", 1, 4 },
    [GM_TYPE_F16] = { "F16", 1, 2 },
    [GM_TYPE_BF16] = { "BF16", 1, 2 },
    [GM_TYPE_Q4_0] = { "Q4_0", GM_QK, sizeof(struct gm_q4_0) },
    [GM_TYPE_Q4_1] = { "Q4_1", GM_QK, sizeof(struct gm_q4_1) },
    [GM_TYPE_Q5_0] = { "Q5_0", GM_QK, sizeof(struct gm_q5_0) },
    [GM_TYPE_Q5_1] = { "Q5_1", GM_QK, sizeof(struct gm_q5_1) },
    [GM_TYPE_Q8_0] = { "Q8_0", GM_QK, sizeof(struct gm_q8_0) },
    [GM_TYPE_Q4_K] = { "Q4_K", GM_QK_K, sizeof(struct gm_q4_k) },
    [GM_TYPE_Q5_K] = { "Q5_K", GM_QK_K, sizeof(struct gm_q5_k) },
    [GM_TYPE_Q6_K] = { "Q6_K", GM_QK_K, sizeof(struct gm_q6_k) },
};

const struct gm_type_info *gm_type_info(uint32_t type)
{
    if (type >= GM_TYPE_MAX || type_table[type].block_elems == 0)
        return NULL;
    return &type_table[type];
}

size_t gm_type_row_bytes(enum gm_type type, size_t cols)
{
    const struct gm_type_info *info = gm_type_info((uint32_t)type);
    return info ? cols / info->block_elems * info->block_bytes : 0;
}

size_t gm_kv_vec_bytes(enum gm_kv_type type, int32_t n)
{
    size_t count = n > 0 ? (size_t)n : 0;
    switch (type) {
    case GM_KV_F32:
        return count * sizeof(float);
    case GM_KV_BF16:
    case GM_KV_F16:
        return count * sizeof(uint16_t);
    case GM_KV_Q8:
        return count / GM_QK * sizeof(struct gm_q8_0);
    }
    return 0;
}

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Integer arithmetic only, so the CPU's treatment of subnormals does not matter. */
float gm_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 0x1f;
    uint32_t mantissa = h & 0x3ff;
    if (exponent == 0x1f)
        return float_of(sign | 0x7f800000 | mantissa << 13);
    if (exponent != 0)
        return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
    if (mantissa == 0)
        return float_of(sign);
    uint32_t up = (uint32_t)__builtin_clz(mantissa) - 21; /* brings the top bit to bit 10 */
    return float_of(sign | (113 - up) << 23 | ((mantissa << up) & 0x3ff) << 13);
}

uint16_t gm_f32_to_f16(float x)
{
    uint32_t u = bits_of(x);
    uint32_t sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (u >> 13 & 0x3ff)); /* a NaN, made quiet */
    if (u >= 0x477ff000)                                      /* 65520: rounds to infinity */
        return (uint16_t)(sign | 0x7c00);
    uint32_t shift = 13;
    uint32_t value = u - (112u << 23);
    if (u < 0x38800000) { /* below 2^-14: a subnormal half */
        if (u <= 0x33000000)
            return (uint16_t)sign; /* at most 2^-25: rounds to zero */
        shift = 126 - (u >> 23);
        value = (u & 0x7fffff) | 0x800000;
    }
    uint32_t kept = value >> shift;
    uint32_t rest = value & ((1u << shift) - 1);
    uint32_t half = 1u << (shift - 1);
    kept += rest > half || (rest == half && (kept & 1)); /* a carry moves into the exponent */
    return (uint16_t)(sign | kept);
}

uint16_t gm_f32_to_bf16(float x)
{
    uint32_t u = bits_of(x);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static uint16_t read_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static float read_f16(const uint8_t *p)
{
    return gm_f16_to_f32(read_u16(p));
}

/* ---- decoders: one block at p into y ------------------------------------------------------- */

static void decode_q4_0(float *y, const uint8_t *p)
{
    const float d = read_f16(p + offsetof(struct gm_q4_0, d));
    const uint8_t *qs = p + offsetof(struct gm_q4_0, qs);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((qs[j] & 15) - 8);
        y[j + 16] = d * (float)((qs[j] >> 4) - 8);
    }
}

static void decode_q4_1(float *y, const uint8_t *p)
{
    const float d = read_f16(p + offsetof(struct gm_q4_1, d));
    const float m = read_f16(p + offsetof(struct gm_q4_1, m));
    const uint8_t *qs = p + offsetof(struct gm_q4_1, qs);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)(qs[j] & 15) + m;
        y[j + 16] = d * (float)(qs[j] >> 4) + m;
    }
}

static void decode_q5_0(float *y, const uint8_t *p)
{
    const float d = read_f16(p + offsetof(struct gm_q5_0, d));
    const uint8_t *qs = p + offsetof(struct gm_q5_0, qs);
    const uint8_t *qh = p + offsetof(struct gm_q5_0, qh);
    for (int j = 0; j < 16; j++) {
        int low = (qs[j] & 15) | (qh[j >> 3] >> (j & 7) & 1) << 4;
        int high = (qs[j] >> 4) | (qh[2 + (j >> 3)] >> (j & 7) & 1) << 4;
        y[j] = d * (float)(low - 16);
        y[j + 16] = d * (float)(high - 16);
    }
}

static void decode_q5_1(float *y, const uint8_t *p)
{
    const float d = read_f16(p + offsetof(struct gm_q5_1, d));
    const float m = read_f16(p + offsetof(struct gm_q5_1, m));
    const uint8_t *qs = p + offsetof(struct gm_q5_1, qs);
    const uint8_t *qh = p + offsetof(struct gm_q5_1, qh);
    for (int j = 0; j < 16; j++) {
        int low = (qs[j] & 15) | (qh[j >> 3] >> (j & 7) & 1) << 4;
        int high = (qs[j] >> 4) | (qh[2 + (j >> 3)] >> (j & 7) & 1) << 4;
        y[j] = d * (float)low + m;
        y[j + 16] = d * (float)high + m;
    }
}

static void decode_q8_0(float *y, const uint8_t *p)
{
    const float d = read_f16(p + offsetof(struct gm_q8_0, d));
    int8_t qs[GM_QK];
    memcpy(qs, p + offsetof(struct gm_q8_0, qs), sizeof qs);
    for (int j = 0; j < GM_QK; j++)
        y[j] = d * (float)qs[j];
}

/* The 6-bit scale and minimum of sub-block j (0..7) out of the twelve packed bytes:
 * j < 4: s[j] & 63 and s[j+4] & 63; else the low four bits from s[j+4], the top two from
 * s[j-4] and s[j]. */
static void k_scale_min(const uint8_t *s, int j, uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (uint8_t)((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        *min = (uint8_t)((s[j + 4] >> 4) | (s[j] >> 6) << 4);
    }
}

/* x = d scale q - dmin min; sub-blocks 2i and 2i+1 share 32 bytes. */
static void decode_q4_k(float *y, const uint8_t *p)
{
    const float d = read_f16(p + offsetof(struct gm_q4_k, d));
    const float dmin = read_f16(p + offsetof(struct gm_q4_k, dmin));
    const uint8_t *scales = p + offsetof(struct gm_q4_k, scales);
    const uint8_t *qs = p + offsetof(struct gm_q4_k, qs);
    for (int i = 0; i < 4; i++, qs += 32, y += 64) {
        uint8_t s0, m0, s1, m1;
        k_scale_min(scales, 2 * i, &s0, &m0);
        k_scale_min(scales, 2 * i + 1, &s1, &m1);
        const float a0 = d * (float)s0, b0 = dmin * (float)m0;
        const float a1 = d * (float)s1, b1 = dmin * (float)m1;
        for (int l = 0; l < 32; l++) {
            y[l] = a0 * (float)(qs[l] & 15) - b0;
            y[l + 32] = a1 * (float)(qs[l] >> 4) - b1;
        }
    }
}

/* As Q4_K; the fifth bit of sub-block j is bit j of qh[l]. */
static void decode_q5_k(float *y, const uint8_t *p)
{
    const float d = read_f16(p + offsetof(struct gm_q5_k, d));
    const float dmin = read_f16(p + offsetof(struct gm_q5_k, dmin));
    const uint8_t *scales = p + offsetof(struct gm_q5_k, scales);
    const uint8_t *qh = p + offsetof(struct gm_q5_k, qh);
    const uint8_t *qs = p + offsetof(struct gm_q5_k, qs);
    for (int i = 0; i < 4; i++, qs += 32, y += 64) {
        uint8_t s0, m0, s1, m1;
        k_scale_min(scales, 2 * i, &s0, &m0);
        k_scale_min(scales, 2 * i + 1, &s1, &m1);
        const float a0 = d * (float)s0, b0 = dmin * (float)m0;
        const float a1 = d * (float)s1, b1 = dmin * (float)m1;
        for (int l = 0; l < 32; l++) {
            int low = (qs[l] & 15) | (qh[l] >> (2 * i) & 1) << 4;
            int high = (qs[l] >> 4) | (qh[l] >> (2 * i + 1) & 1) << 4;
            y[l] = a0 * (float)low - b0;
            y[l + 32] = a1 * (float)high - b1;
        }
    }
}

/* Two halves of 128; x = d scale (q - 32), one signed scale for 16 elements. */
static void decode_q6_k(float *y, const uint8_t *p)
{
    const float d = read_f16(p + offsetof(struct gm_q6_k, d));
    const uint8_t *ql = p + offsetof(struct gm_q6_k, ql);
    const uint8_t *qh = p + offsetof(struct gm_q6_k, qh);
    int8_t scales[16];
    memcpy(scales, p + offsetof(struct gm_q6_k, scales), sizeof scales);
    float a[16];
    for (int j = 0; j < 16; j++)
        a[j] = d * (float)scales[j];
    for (int half = 0; half < 2; half++, ql += 64, qh += 32, y += 128) {
        for (int l = 0; l < 32; l++) {
            const float *s = a + half * 8 + l / 16;
            int q0 = (ql[l] & 15) | (qh[l] & 3) << 4;
            int q1 = (ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4;
            int q2 = (ql[l] >> 4) | (qh[l] >> 4 & 3) << 4;
            int q3 = (ql[l + 32] >> 4) | (qh[l] >> 6) << 4;
            y[l] = s[0] * (float)(q0 - 32);
            y[l + 32] = s[2] * (float)(q1 - 32);
            y[l + 64] = s[4] * (float)(q2 - 32);
            y[l + 96] = s[6] * (float)(q3 - 32);
        }
    }
}

typedef void decode_fn(float *y, const uint8_t *p);

static decode_fn *const block_decoders[GM_TYPE_MAX] = {
    [GM_TYPE_Q4_0] = decode_q4_0, [GM_TYPE_Q4_1] = decode_q4_1, [GM_TYPE_Q5_0] = decode_q5_0,
    [GM_TYPE_Q5_1] = decode_q5_1, [GM_TYPE_Q8_0] = decode_q8_0, [GM_TYPE_Q4_K] = decode_q4_k,
    [GM_TYPE_Q5_K] = decode_q5_k, [GM_TYPE_Q6_K] = decode_q6_k,
};

/* The types without blocks: a whole row at once. */
static void decode_floats(float *y, const uint8_t *p, enum gm_type type, size_t cols)
{
    if (type == GM_TYPE_F32) {
        if (cols)
            memcpy(y, p, cols * sizeof *y);
    } else if (type == GM_TYPE_F16) {
        for (size_t i = 0; i < cols; i++)
            y[i] = read_f16(p + 2 * i);
    } else {
        for (size_t i = 0; i < cols; i++)
            y[i] = gm_bf16_to_f32(read_u16(p + 2 * i));
    }
}

void gm_dequant_row(float *y, const void *src, enum gm_type type, size_t cols)
{
    const struct gm_type_info *info = gm_type_info((uint32_t)type);
    if (!info)
        return;
    decode_fn *decode = block_decoders[type];
    const uint8_t *p = src;
    if (!decode) {
        decode_floats(y, p, type, cols);
        return;
    }
    for (size_t i = 0; i + info->block_elems <= cols; i += info->block_elems) {
        decode(y + i, p);
        p += info->block_bytes;
    }
}
