/* test_dtype.c - weight types: the table, the f16 and bf16 conversions, hand-made blocks of every
 * type decoded element by element.
 *
 * Owns:      expected values written from the published layouts, not from the decoders.
 * Does not:  test kernels (test_kernels.c).
 */
#include "kernels/dtype.h"
#include "kernels/kernels.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void test_table(void)
{
    static const struct {
        enum gm_type type;
        const char *name;
        size_t elems, bytes;
    } want[] = {
        { GM_TYPE_F32, "F32", 1, 4 },       { GM_TYPE_F16, "F16", 1, 2 },
        { GM_TYPE_BF16, "BF16", 1, 2 },     { GM_TYPE_Q4_0, "Q4_0", 32, 18 },
        { GM_TYPE_Q4_1, "Q4_1", 32, 20 },   { GM_TYPE_Q5_0, "Q5_0", 32, 22 },
        { GM_TYPE_Q5_1, "Q5_1", 32, 24 },   { GM_TYPE_Q8_0, "Q8_0", 32, 34 },
        { GM_TYPE_Q4_K, "Q4_K", 256, 144 }, { GM_TYPE_Q5_K, "Q5_K", 256, 176 },
        { GM_TYPE_Q6_K, "Q6_K", 256, 210 },
    };
    const size_t count = sizeof want / sizeof want[0];
    for (size_t i = 0; i < count; i++) {
        const struct gm_type_info *info = gm_type_info((uint32_t)want[i].type);
        CU_ASSERT_PTR_NOT_NULL_FATAL(info);
        CU_ASSERT_STRING_EQUAL(info->name, want[i].name);
        CU_ASSERT_EQUAL(info->block_elems, want[i].elems);
        CU_ASSERT_EQUAL(info->block_bytes, want[i].bytes);
        CU_ASSERT_EQUAL(gm_type_row_bytes(want[i].type, 512), 512 / want[i].elems * want[i].bytes);
    }
    size_t known = 0;
    for (uint32_t t = 0; t < 200; t++)
        known += gm_type_info(t) != NULL;
    CU_ASSERT_EQUAL(known, count);
    CU_ASSERT_PTR_NULL(gm_type_info(4)); /* retired */
    CU_ASSERT_PTR_NULL(gm_type_info(UINT32_MAX));
    CU_ASSERT_EQUAL(gm_kv_vec_bytes(GM_KV_F32, 256), 1024);
    CU_ASSERT_EQUAL(gm_kv_vec_bytes(GM_KV_BF16, 256), 512);
    CU_ASSERT_EQUAL(gm_kv_vec_bytes(GM_KV_F16, 96), 192);
    CU_ASSERT_EQUAL(gm_kv_vec_bytes(GM_KV_Q8, 64), 68);
    CU_ASSERT_EQUAL(gm_kv_vec_bytes(GM_KV_Q8, -1), 0);
}

/* The value of a finite half by its definition. */
static double half_value(uint16_t h)
{
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const double size = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h & 0x8000 ? -size : size;
}

static void test_f16_all(void)
{
    unsigned bad = 0;
    for (uint32_t h = 0; h < 0x10000; h++) {
        const float x = gm_f16_to_f32((uint16_t)h);
        const uint16_t back = gm_f32_to_f16(x);
        if ((h & 0x7c00) != 0x7c00)
            bad += (double)x != half_value((uint16_t)h) || back != h;
        else if (h & 0x3ff)
            bad += !isnan(x) || (back & 0x7e00) != 0x7e00;
        else
            bad += !isinf(x) || back != h;
    }
    CU_ASSERT_EQUAL(bad, 0);
    CU_ASSERT_TRUE(signbit(gm_f16_to_f32(0x8000)));
}

/* Between every two neighbours: the middle goes to the even one, anything else to the nearer. */
static void test_f16_rounding(void)
{
    unsigned bad = 0;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        const double low = half_value((uint16_t)h), high = half_value((uint16_t)(h + 1));
        const float middle = (float)((low + high) / 2); /* exact: one more bit than a half has */
        const uint32_t even = h & 1 ? h + 1 : h;
        bad += gm_f32_to_f16(middle) != even;
        bad += gm_f32_to_f16(-middle) != (even | 0x8000);
        bad += gm_f32_to_f16(nextafterf(middle, 0.0f)) != h;
        bad += gm_f32_to_f16(nextafterf(middle, 1e9f)) != h + 1;
    }
    CU_ASSERT_EQUAL(bad, 0);
    CU_ASSERT_EQUAL(gm_f32_to_f16(65519.996f), 0x7bff);
    CU_ASSERT_EQUAL(gm_f32_to_f16(65520.0f), 0x7c00);
    CU_ASSERT_EQUAL(gm_f32_to_f16(-3e38f), 0xfc00);
    CU_ASSERT_EQUAL(gm_f32_to_f16(1e-45f), 0);
}

static void test_bf16(void)
{
    CU_ASSERT_EQUAL(gm_f32_to_bf16(1.0f), 0x3f80);
    CU_ASSERT_EQUAL(gm_f32_to_bf16(0x1.01p0f), 0x3f80);      /* middle: to even */
    CU_ASSERT_EQUAL(gm_f32_to_bf16(0x1.03p0f), 0x3f82);      /* middle: to even */
    CU_ASSERT_EQUAL(gm_f32_to_bf16(0x1.010002p0f), 0x3f81);  /* above the middle */
    CU_ASSERT_EQUAL(gm_f32_to_bf16(-0x1.00fffep0f), 0xbf80); /* below the middle */
    CU_ASSERT_EQUAL(gm_f32_to_bf16(3.4028235e38f), 0x7f80);  /* rounds to infinity */
    CU_ASSERT_EQUAL(gm_f32_to_bf16(-INFINITY), 0xff80);
    uint32_t u = 0x7f800001; /* a NaN whose high half alone would read as infinity */
    float nan;
    memcpy(&nan, &u, sizeof nan);
    CU_ASSERT_TRUE(isnan(gm_bf16_to_f32(gm_f32_to_bf16(nan))));
    unsigned bad = 0;
    for (uint32_t h = 0; h < 0x10000; h++) {
        const float x = gm_bf16_to_f32((uint16_t)h);
        bad += !isnan(x) && gm_f32_to_bf16(x) != h;
    }
    CU_ASSERT_EQUAL(bad, 0);
}

/* ---- blocks: codes are chosen, packed here, and the value of each element is the formula ------
 */

enum { ROOM = 256 };

static int code_of(int i, int limit)
{
    return (i * 7 + i / 5 * 3 + 1) % limit;
}

/* Decodes a copy that starts at an odd address, and compares with want. */
static void expect(const void *block, size_t bytes, enum gm_type type, const double *want, int n)
{
    uint8_t odd[ROOM * 2 + 1];
    float y[ROOM];
    memcpy(odd + 1, block, bytes);
    gm_dequant_row(y, odd + 1, type, (size_t)n);
    int bad = 0;
    for (int i = 0; i < n; i++)
        bad += (double)y[i] != want[i];
    CU_ASSERT_EQUAL(bad, 0);
}

static void test_small_blocks(void)
{
    struct gm_q4_0 q4_0 = { .d = 0xb800 };              /* -0.5 */
    struct gm_q4_1 q4_1 = { .d = 0x3400, .m = 0xbc00 }; /* 0.25, -1 */
    struct gm_q5_0 q5_0 = { .d = 0x4000 };              /* 2 */
    struct gm_q5_1 q5_1 = { .d = 0x3400, .m = 0x4200 }; /* 0.25, 3 */
    struct gm_q8_0 q8_0 = { .d = 0x3555 };              /* 0.333251953125 */
    double w40[32], w41[32], w50[32], w51[32], w80[32];
    for (int i = 0; i < 32; i++) {
        const int c4 = code_of(i, 16), c5 = code_of(i, 32), shift = i < 16 ? 0 : 4;
        q4_0.qs[i % 16] = (uint8_t)(q4_0.qs[i % 16] | c4 << shift);
        q5_0.qs[i % 16] = (uint8_t)(q5_0.qs[i % 16] | (c5 & 15) << shift);
        q5_0.qh[i / 8] = (uint8_t)(q5_0.qh[i / 8] | (c5 >> 4) << (i % 8));
        q8_0.qs[i] = (int8_t)(code_of(i, 256) - 128);
        w40[i] = -0.5 * (c4 - 8);
        w41[i] = 0.25 * c4 - 1;
        w50[i] = 2.0 * (c5 - 16);
        w51[i] = 0.25 * c5 + 3;
        w80[i] = 0.333251953125 * (code_of(i, 256) - 128);
    }
    memcpy(q4_1.qs, q4_0.qs, sizeof q4_1.qs);
    memcpy(q5_1.qs, q5_0.qs, sizeof q5_1.qs);
    memcpy(q5_1.qh, q5_0.qh, sizeof q5_1.qh);
    expect(&q4_0, sizeof q4_0, GM_TYPE_Q4_0, w40, 32);
    expect(&q4_1, sizeof q4_1, GM_TYPE_Q4_1, w41, 32);
    expect(&q5_0, sizeof q5_0, GM_TYPE_Q5_0, w50, 32);
    expect(&q5_1, sizeof q5_1, GM_TYPE_Q5_1, w51, 32);
    expect(&q8_0, sizeof q8_0, GM_TYPE_Q8_0, w80, 32);
}

/* Packs eight 6-bit scales and minimums, the reverse of the published unpacking. */
static void pack_scales(uint8_t s[12], const int scale[8], const int min[8])
{
    for (int j = 0; j < 4; j++) {
        s[j] = (uint8_t)(scale[j] | (scale[j + 4] >> 4) << 6);
        s[j + 4] = (uint8_t)(min[j] | (min[j + 4] >> 4) << 6);
        s[j + 8] = (uint8_t)((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
    }
}

static void test_k_blocks(void)
{
    static const int scale[8] = { 1, 63, 17, 32, 48, 15, 33, 62 };
    static const int min[8] = { 0, 60, 31, 16, 63, 1, 47, 20 };
    struct gm_q4_k q4 = { .d = 0x2c00, .dmin = 0x3000 }; /* 1/16, 1/8 */
    struct gm_q5_k q5 = { .d = 0x2c00, .dmin = 0xb000 }; /* 1/16, -1/8 */
    double w4[256], w5[256];
    pack_scales(q4.scales, scale, min);
    pack_scales(q5.scales, scale, min);
    for (int i = 0; i < 256; i++) {
        const int sub = i / 32, c4 = code_of(i, 16), c5 = code_of(i, 32);
        const int byte = sub / 2 * 32 + i % 32, shift = sub % 2 * 4;
        q4.qs[byte] = (uint8_t)(q4.qs[byte] | c4 << shift);
        q5.qs[byte] = (uint8_t)(q5.qs[byte] | (c5 & 15) << shift);
        q5.qh[i % 32] = (uint8_t)(q5.qh[i % 32] | (c5 >> 4) << sub);
        w4[i] = 0.0625 * scale[sub] * c4 - 0.125 * min[sub];
        w5[i] = 0.0625 * scale[sub] * c5 + 0.125 * min[sub];
    }
    expect(&q4, sizeof q4, GM_TYPE_Q4_K, w4, 256);
    expect(&q5, sizeof q5, GM_TYPE_Q5_K, w5, 256);
}

static void test_q6_k(void)
{
    struct gm_q6_k q = { .d = 0x2c00 }; /* 1/16 */
    double want[256];
    for (int j = 0; j < 16; j++)
        q.scales[j] = (int8_t)(j * 16 - 128 + j);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, quarter = i % 128 / 32, l = i % 32, code = code_of(i, 64);
        const int byte = half * 64 + quarter % 2 * 32 + l;
        q.ql[byte] = (uint8_t)(q.ql[byte] | (code & 15) << (quarter / 2 * 4));
        q.qh[half * 32 + l] = (uint8_t)(q.qh[half * 32 + l] | (code >> 4) << (2 * quarter));
        want[i] = 0.0625 * q.scales[i / 16] * (code - 32); /* one scale per 16 in a row */
    }
    expect(&q, sizeof q, GM_TYPE_Q6_K, want, 256);
}

static void test_rows(void)
{
    const float floats[5] = { 1.5f, -0.0f, 3e-40f, -2e30f, 7.0f };
    const uint16_t halves[5] = { 0x3e00, 0x8000, 0x0001, 0xfbff, 0x4700 };
    double want32[5], want16[5], wantb[5];
    uint16_t brain[5];
    for (int i = 0; i < 5; i++) {
        want32[i] = (double)floats[i];
        want16[i] = half_value(halves[i]);
        brain[i] = gm_f32_to_bf16((float)(i - 2));
        wantb[i] = i - 2;
    }
    expect(floats, sizeof floats, GM_TYPE_F32, want32, 5);
    expect(halves, sizeof halves, GM_TYPE_F16, want16, 5);
    expect(brain, sizeof brain, GM_TYPE_BF16, wantb, 5);

    struct gm_q8_0 blocks[3]; /* blocks follow each other */
    float y[97];
    memset(blocks, 0, sizeof blocks);
    for (int b = 0; b < 3; b++) {
        blocks[b].d = gm_f32_to_f16((float)(b + 1));
        memset(blocks[b].qs, b + 5, sizeof blocks[b].qs);
    }
    y[96] = -1.0f;
    gm_dequant_row(y, blocks, GM_TYPE_Q8_0, 96);
    CU_ASSERT_EQUAL(y[0], 5.0f);
    CU_ASSERT_EQUAL(y[32], 12.0f);
    CU_ASSERT_EQUAL(y[95], 21.0f);
    CU_ASSERT_EQUAL(y[96], -1.0f);
    y[0] = 9.0f;
    gm_dequant_row(y, blocks, GM_TYPE_Q8_0, 0);
    gm_dequant_row(y, blocks, (enum gm_type)5, 32);
    CU_ASSERT_EQUAL(y[0], 9.0f);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return EXIT_FAILURE;
    CU_pSuite s = CU_add_suite("dtype", NULL, NULL);
    CU_add_test(s, "table of types", test_table);
    CU_add_test(s, "f16: all 65536", test_f16_all);
    CU_add_test(s, "f16: rounding between all neighbours", test_f16_rounding);
    CU_add_test(s, "bf16", test_bf16);
    CU_add_test(s, "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0", test_small_blocks);
    CU_add_test(s, "Q4_K Q5_K", test_k_blocks);
    CU_add_test(s, "Q6_K", test_q6_k);
    CU_add_test(s, "rows", test_rows);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
