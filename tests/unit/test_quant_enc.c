/* test_quant_enc.c - the encoders of weight blocks: exact data comes back exactly, any data within
 * a step, hostile data without harm.
 *
 * Owns:      expectations for kernels/quant_enc.c; blocks written by hand from the layouts.
 * Does not:  test the decoders (test_dtype.c does, from hand-made blocks of its own).
 */
#include "kernels/quant_enc.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/support_check.h"

enum { ROWS = 64, COLS = 2 * GM_QK_K };

static struct gm_check check;

/* Types, and the largest relative error (rms) that normal data may have. */
static const struct {
    enum gm_type type;
    double rms_max;
} types[] = {
    { GM_TYPE_F32, 0.0 },   { GM_TYPE_F16, 4e-4 },  { GM_TYPE_BF16, 3e-3 }, { GM_TYPE_Q8_0, 0.008 },
    { GM_TYPE_Q4_0, 0.11 }, { GM_TYPE_Q4_1, 0.10 }, { GM_TYPE_Q5_0, 0.06 }, { GM_TYPE_Q5_1, 0.05 },
    { GM_TYPE_Q4_K, 0.10 }, { GM_TYPE_Q5_K, 0.05 }, { GM_TYPE_Q6_K, 0.03 },
};
enum { TYPES = sizeof types / sizeof types[0] };

/* Values that a block of the type holds exactly: every code, and in super-blocks every kind of
 * packed scale. The scale of a block is 1. */
static void exact_row(float x[GM_QK_K], enum gm_type type)
{
    for (int i = 0; i < GM_QK_K; i++) {
        int j = i % GM_QK, sub = i / GM_QK;
        switch (type) {
        case GM_TYPE_Q8_0:
            x[i] = (float)(j == 0 ? 127 : j == 1 ? -127 : 7 * (j - 16));
            break;
        case GM_TYPE_Q4_0:
            x[i] = (float)(j % 16 - 8);
            break;
        case GM_TYPE_Q5_0:
            x[i] = (float)(j - 16);
            break;
        case GM_TYPE_Q4_1:
            x[i] = (float)(j % 16 + 3);
            break;
        case GM_TYPE_Q5_1:
            x[i] = (float)(j - 40);
            break;
        case GM_TYPE_Q4_K:
            x[i] = (float)((sub * 8 + 7) * (j % 16) - (63 - sub * 9));
            break;
        case GM_TYPE_Q5_K:
            x[i] = (float)((63 - sub * 8) * j - (sub * 9));
            break;
        case GM_TYPE_Q6_K: /* 16 to a scale: 127, 119 ... 7; the codes -31..31 in steps */
            x[i] = (float)((127 - i / 16 * 8) * (i % 16 == 0 ? 31 : i % 16 * 4 - 31));
            break;
        default:
            x[i] = (float)(i - 100);
        }
    }
    if (type == GM_TYPE_Q5_K)
        x[7 * GM_QK] = -63.0f; /* the largest minimum, so that its unit is 1 */
}

static void test_exact(void)
{
    for (size_t t = 0; t < TYPES; t++) {
        float x[GM_QK_K], y[GM_QK_K];
        uint8_t row[sizeof x];
        exact_row(x, types[t].type);
        gm_quant_row(row, x, types[t].type, GM_QK_K);
        gm_dequant_row(y, row, types[t].type, GM_QK_K);
        int wrong = 0;
        for (int i = 0; i < GM_QK_K; i++)
            wrong += x[i] != y[i];
        CU_ASSERT_EQUAL(wrong, 0);
        if (wrong)
            printf("%s: %d values differ\n", gm_type_info((uint32_t)types[t].type)->name, wrong);
    }
}

/* The bytes themselves, for two types. */
static void test_bytes(void)
{
    float x[GM_QK_K];
    struct gm_q4_0 b4[GM_QK_K / GM_QK];
    struct gm_q5_0 b5[GM_QK_K / GM_QK];
    const uint8_t high[4] = { 0, 0, 0xff, 0xff };
    exact_row(x, GM_TYPE_Q4_0);
    gm_quant_row(b4, x, GM_TYPE_Q4_0, GM_QK_K);
    exact_row(x, GM_TYPE_Q5_0);
    gm_quant_row(b5, x, GM_TYPE_Q5_0, GM_QK_K);
    for (int b = 0; b < GM_QK_K / GM_QK; b++) {
        CU_ASSERT_EQUAL(b4[b].d, 0x3c00);
        CU_ASSERT_EQUAL(b5[b].d, 0x3c00);
        CU_ASSERT_EQUAL(memcmp(b5[b].qh, high, sizeof high), 0);
        for (int j = 0; j < GM_QK / 2; j++) {
            CU_ASSERT_EQUAL(b4[b].qs[j], j * 17); /* j and j + 16 have the same four bits */
            CU_ASSERT_EQUAL(b5[b].qs[j], j * 17);
        }
    }
}

static void test_error(void)
{
    for (size_t t = 0; t < TYPES; t++) {
        double square = 0.0, error = 0.0, bias = 0.0;
        (void)gm_check_begin(&check, "error of type %d", (int)types[t].type);
        for (int r = 0; r < ROWS; r++) {
            float x[COLS], y[COLS];
            uint8_t row[sizeof x];
            gm_check_fill_normal(&check, x, COLS, 0.03f);
            gm_quant_row(row, x, types[t].type, COLS);
            gm_dequant_row(y, row, types[t].type, COLS);
            for (int i = 0; i < COLS; i++) {
                double e = (double)y[i] - (double)x[i];
                square += (double)x[i] * (double)x[i];
                error += e * e;
                bias += e;
            }
        }
        double rms = sqrt(error / square), n = (double)ROWS * COLS;
        CU_ASSERT(rms <= types[t].rms_max);
        CU_ASSERT(fabs(bias / n) <= 0.01 * sqrt(square / n));
        if (rms > types[t].rms_max)
            printf("%s: %g\n", gm_type_info((uint32_t)types[t].type)->name, rms);
        gm_check_end(&check);
    }
}

/* Nothing outside the row is written, at any address, and its bytes depend on x alone. */
static void test_hostile(void)
{
    static const float odd[] = { NAN, INFINITY, -INFINITY, 1e30f, -1e30f, 1e-42f, 0.0f };
    for (size_t t = 0; t < TYPES; t++) {
        size_t bytes = gm_type_row_bytes(types[t].type, COLS);
        (void)gm_check_begin(&check, "hostile rows of type %d", (int)types[t].type);
        uint8_t *a = gm_check_bytes(&check, bytes, 0), *b = gm_check_bytes(&check, bytes, 1);
        float *x = gm_check_floats(&check, COLS), y[COLS];
        gm_check_fill(&check, x, COLS, 6e4f);
        gm_quant_row(a, x, types[t].type, COLS);
        gm_dequant_row(y, a, types[t].type, COLS);
        for (int i = 0; i < COLS; i++)
            CU_ASSERT(isfinite(y[i]) && fabsf(y[i]) <= 7e4f);
        for (size_t k = 0; k < sizeof odd / sizeof odd[0]; k++) {
            for (size_t i = k; i < COLS; i += 1 + 37 * k)
                x[i] = odd[k];
            gm_quant_row(a, x, types[t].type, COLS);
            memset(b, (int)k, bytes);
            gm_quant_row(b, x, types[t].type, COLS);
            CU_ASSERT_EQUAL(memcmp(a, b, bytes), 0);
        }
        memset(x, 0, COLS * sizeof *x);
        gm_quant_row(a, x, types[t].type, COLS);
        gm_dequant_row(y, a, types[t].type, COLS);
        for (int i = 0; i < COLS; i++)
            CU_ASSERT_EQUAL(y[i], 0.0f);
        gm_check_end(&check);
    }
    uint8_t kept = 77;
    const float one = 1.0f;
    gm_quant_row(&kept, &one, (enum gm_type)5, 1);
    gm_quant_row(&kept, &one, GM_TYPE_Q8_0, 0);
    CU_ASSERT_EQUAL(kept, 77);
    CU_ASSERT_EQUAL(check.failures, 0);
}

int main(void)
{
    gm_check_init(&check);
    if (CU_initialize_registry() != CUE_SUCCESS)
        return EXIT_FAILURE;
    CU_pSuite s = CU_add_suite("quant_enc", NULL, NULL);
    if (!s || !CU_add_test(s, "exact values come back", test_exact) ||
        !CU_add_test(s, "bytes written by hand", test_bytes) ||
        !CU_add_test(s, "error of normal values", test_error) ||
        !CU_add_test(s, "hostile values", test_hostile))
        return EXIT_FAILURE;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
