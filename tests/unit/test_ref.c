// uses: tests/unit/kernels_linear.c
/* test_ref.c - the specification itself: fmath.h and gm_ref against long double formulas written
 * naively here, known values, and bits that must be the same in every build.
 *
 * Owns:      the independent formulas.
 * Does not:  test other sets (test_kernels.c).
 */
#include "kernels/fmath.h"
#include "tests/unit/kernels_check.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

static struct gm_check check;

/* See test_bits. */
#define BITS 0x5bdda29255e5b868u

static double relative(double got, long double want)
{
    if (isnan(got) || isnan(want))
        return isnan(got) && isnan(want) ? 0.0 : 1e300;
    long double size = fabsl(want) > 1e-300L ? fabsl(want) : 1e-300L;
    return (double)(fabsl((long double)got - want) / size);
}

/* ---- fmath.h ------------------------------------------------------------------------------- */

enum { SAMPLES = 200000 };

static void test_exp_log_tanh(void)
{
    double worst_exp = 0.0, worst_log = 0.0, worst_tanh = 0.0;
    gm_check_begin(&check, "exp log tanh");
    for (int i = 0; i < SAMPLES; i++) {
        const double x = (gm_check_unit(&check) * 2 - 1) * (i % 2 ? 690.0 : 2.0);
        const double y = (i % 3 ? 1.0 : 1e-3) * (i % 5 ? x : x * 0.1);
        const double z = i % 2 ? gm_exp(x) : 0.5 + gm_check_unit(&check);
        worst_exp = fmax(worst_exp, relative(gm_exp(x), expl((long double)x)));
        worst_log = fmax(worst_log, relative(gm_log(z), logl((long double)z)));
        worst_tanh = fmax(worst_tanh, relative(gm_tanh(y), tanhl((long double)y)));
    }
    printf("worst relative: exp %.2g log %.2g tanh %.2g ", worst_exp, worst_log, worst_tanh);
    CU_ASSERT_TRUE(worst_exp < 1e-15);
    CU_ASSERT_TRUE(worst_log < 1e-15);
    CU_ASSERT_TRUE(worst_tanh < 4e-15);
    CU_ASSERT_TRUE(relative(gm_exp(709.7), expl(709.7L)) < 1e-13); /* 709.7 is no double */
    CU_ASSERT_TRUE(fabs(gm_exp(-740.25) - (double)expl(-740.25L)) <= 5e-324);
    CU_ASSERT_TRUE(gm_exp(0.0) == 1.0 && gm_exp(-800.0) == 0.0 && gm_exp(-INFINITY) == 0.0);
    CU_ASSERT_TRUE(isinf(gm_exp(800.0)) && isinf(gm_exp(INFINITY)) && isnan(gm_exp(NAN)));
    CU_ASSERT_TRUE(gm_log(1.0) == 0.0 && gm_log(0.0) == -INFINITY && gm_log(INFINITY) == INFINITY);
    CU_ASSERT_TRUE(isnan(gm_log(-1.0)) && isnan(gm_log(NAN)));
    CU_ASSERT_TRUE(relative(gm_log(5e-324), logl((long double)5e-324)) < 1e-14);
    CU_ASSERT_TRUE(gm_tanh(INFINITY) == 1.0 && gm_tanh(-INFINITY) == -1.0 && isnan(gm_tanh(NAN)));
    CU_ASSERT_TRUE(signbit(gm_tanh(-0.0)));
}

static void test_sincos(void)
{
    double worst = 0.0, worst_far = 0.0, s, c;
    gm_check_begin(&check, "sincos");
    for (int i = 0; i < SAMPLES; i++) {
        double a = (gm_check_unit(&check) * 2 - 1) * (i % 2 ? 2e5 : 10.0);
        if (i % 4 == 0) /* the float next to a multiple of pi/2, where the reduction cancels */
            a = (double)(float)(round(a) * 1.5707963267948966);
        gm_sincos(a, &s, &c);
        worst = fmax(worst, relative(s, sinl((long double)a)));
        worst = fmax(worst, relative(c, cosl((long double)a)));
        a = (double)(float)((gm_check_unit(&check) * 2 - 1) * 3e9);
        gm_sincos(a, &s, &c);
        worst_far = fmax(worst_far, fabs(s - (double)sinl((long double)a)));
        worst_far = fmax(worst_far, fabs(c - (double)cosl((long double)a)));
    }
    printf("worst relative below 2e5: %.2g, absolute below 3e9: %.2g ", worst, worst_far);
    CU_ASSERT_TRUE(worst < 1e-14);
    CU_ASSERT_TRUE(worst_far < 1e-14);
    gm_sincos(0.0, &s, &c);
    CU_ASSERT_TRUE(s == 0.0 && c == 1.0);
    gm_sincos(INFINITY, &s, &c);
    CU_ASSERT_TRUE(isnan(s) && isnan(c));
}

/* ---- linear, norms, RoPE, GELU -----------------------------------------------------------------
 */

static void test_linear(void)
{
    enum { ROWS = 35, OUTS = 6, COLS = 1280 };
    for (size_t t = 0; t < GM_CHECK_TYPES; t++) {
        gm_check_begin(&check, "ref linear %s", gm_type_info(gm_check_types[t])->name);
        /* plain floats: an odd number of columns, so that the padding is met */
        const int32_t cols = t < 3 ? COLS - 3 : COLS;
        struct gm_mat m = gm_check_mat(&check, gm_check_types[t], OUTS, cols, 0);
        float *x = gm_check_floats(&check, ROWS * COLS), *w = gm_check_floats(&check, COLS);
        float *y = gm_check_floats(&check, ROWS * OUTS), *e = gm_check_floats(&check, COLS);
        void *act = gm_check_bytes(&check, ROWS * gm_ref.act_bytes(cols), 0);
        gm_check_fill(&check, x, ROWS * COLS, 1e4f);
        gm_ref.prepare(act, x, COLS, ROWS, cols, true);
        gm_ref.linear(y, OUTS, &m, act, ROWS, 0, OUTS);
        unsigned bad = 0;
        for (int o = 0; o < OUTS; o++) {
            gm_dequant_row(w, (const uint8_t *)m.data + (size_t)o * m.row_bytes, m.type,
                           (size_t)cols);
            gm_ref.embed(e, &m, o, 25.25f);
            for (int i = 0; i < cols; i++)
                bad += e[i] != w[i] * 25.25f;
            for (int r = 0; r < ROWS; r++) {
                long double sum = 0.0L, size = 0.0L;
                for (int i = 0; i < cols; i++) {
                    const long double p = (long double)w[i] * (long double)x[r * COLS + i];
                    sum += p;
                    size += fabsl(p);
                }
                const long double off = fabsl((long double)y[r * OUTS + o] - sum);
                bad += off > 0x1p-24L * fabsl(sum) * 1.01L + 1e-14L * size + 1e-44L;
            }
        }
        CU_ASSERT_EQUAL(bad, 0);
        gm_check_end(&check);
    }
}

static void test_norms(void)
{
    static const float x[4] = { 3.0f, -4.0f, 12.0f, 0.0f }, w[4] = { 1.0f, 2.0f, 0.5f, 7.0f };
    float y[4], h[4] = { 100.0f, 1.0f, -1.0f, 5.0f };
    gm_ref.rms_norm(y, x, w, 1, 4, 0.0f); /* sqrt(169/4) = 6.5 */
    CU_ASSERT_EQUAL(y[0], (float)(3 / 6.5));
    CU_ASSERT_EQUAL(y[1], (float)(-8 / 6.5));
    CU_ASSERT_EQUAL(y[2], (float)(6 / 6.5));
    CU_ASSERT_EQUAL(y[3], 0.0f);
    gm_ref.rms_norm_add(h, x, w, 1, 4, 0.0f);
    CU_ASSERT_EQUAL(h[0], (float)(100 + 3 / 6.5));
    CU_ASSERT_EQUAL(h[3], 5.0f);
    const float small = 1e-3f, one = 1.0f; /* eps 3e-6: 1e-3 / sqrt(1e-6 + 3e-6) = 1/2 */
    gm_ref.rms_norm(y, &small, &one, 1, 1, 3e-6f);
    CU_ASSERT_TRUE(fabsf(y[0] - 0.5f) < 1e-6f);
}

static void test_rope(void)
{
    enum { HALF = 128 };
    static float freq[HALF], cs[2 * HALF], x[2 * HALF], y[2 * HALF];
    unsigned bad = 0;
    gm_check_begin(&check, "ref rope");
    gm_check_fill_normal(&check, x, 2 * HALF, 1.0f);
    for (int i = 0; i < HALF; i++)
        freq[i] = (float)pow(1e4, -i / 128.0);
    for (int32_t pos = 0; pos < 131072; pos = pos * 3 + 1) {
        gm_ref.rope_angles(cs, pos, freq, HALF);
        memcpy(y, x, sizeof y);
        gm_ref.rope(y, cs, 1, 2 * HALF, 0.5f);
        for (int i = 0; i < HALF; i++) {
            const long double a = (long double)((float)pos * freq[i]); /* rounded to float */
            bad += fabsl((long double)cs[2 * i] - cosl(a)) > 0x1p-25L + 1e-14L;
            bad += fabsl((long double)cs[2 * i + 1] - sinl(a)) > 0x1p-25L + 1e-14L;
            const long double p = (long double)x[i], q = (long double)x[i + HALF];
            bad += fabsl((long double)y[i] - 0.5L * (p * cosl(a) - q * sinl(a))) > 1e-6L;
            bad += fabsl((long double)y[i + HALF] - 0.5L * (q * cosl(a) + p * sinl(a))) > 1e-6L;
        }
    }
    CU_ASSERT_EQUAL(bad, 0);
    float quarter[4] = { 1.0f, 2.0f, 3.0f, 4.0f }; /* a turn of 90 degrees: (a, b) -> (-b, a) */
    static const float turn[4] = { 0.0f, 1.0f, 0.0f, 1.0f };
    gm_ref.rope(quarter, turn, 1, 4, 2.0f);
    CU_ASSERT_TRUE(quarter[0] == -6.0f && quarter[1] == -8.0f);
    CU_ASSERT_TRUE(quarter[2] == 2.0f && quarter[3] == 4.0f);
}

static void test_pointwise(void)
{
    unsigned bad = 0;
    const long double pi = 3.14159265358979323846264338327950288L;
    for (int i = -2000; i <= 2000; i++) {
        const float z = (float)i / 200.0f, up = 1.75f;
        float y;
        gm_ref.gelu_mul(&y, &z, &up, 1);
        const long double l = (long double)z;
        const long double t = tanhl(sqrtl(2 / pi) * (l + 0.044715L * l * l * l));
        const long double want = l / 2 * (1 + t) * 1.75L;
        bad += fabsl((long double)y - want) > 0x1p-24L * fabsl(want) * 1.01L + 1e-18L;
    }
    CU_ASSERT_EQUAL(bad, 0);
    float one = 1.0f, y;
    gm_ref.gelu_mul(&y, &one, &one, 1);
    CU_ASSERT_TRUE(fabsf(y - 0.84119199f) < 6e-8f); /* gelu_tanh(1) as published */
    float v[3] = { 30.0f, -1e9f, 1e-20f };
    gm_ref.softcap(v, 30.0f, 3);
    CU_ASSERT_TRUE(fabsf(v[0] - 22.847824f) < 2e-6f); /* 30 tanh(1) */
    CU_ASSERT_TRUE(v[1] == -30.0f && v[2] == 1e-20f);
    float a[2] = { 1.0f, -2.0f }, b[2] = { 10.0f, 0.5f };
    gm_ref.axpy(a, b, 0.25f, 2);
    CU_ASSERT_TRUE(a[0] == 3.5f && a[1] == -1.875f);
}

/* ---- attention ----------------------------------------------------------------------------- */

enum { HEADS = 6, KV_HEADS = 2, DIM = 64, LAST = 150 };
static float keys[LAST + 1][KV_HEADS][DIM], values[LAST + 1][KV_HEADS][DIM];

/* One head by the formula, without pages. */
static unsigned bad_head(const struct gm_attend *a, int head)
{
    const int first = a->window > 0 ? a->pos - a->window + 1 : 0;
    static long double weight[LAST + 1];
    long double total = 0.0L;
    const int kv = head / (HEADS / KV_HEADS);
    unsigned bad = 0;
    for (int p = first; p <= a->pos; p++) {
        long double s = 0.0L;
        for (int i = 0; i < DIM; i++)
            s += (long double)a->q[head * DIM + i] * (long double)keys[p][kv][i];
        if (a->softcap > 0.0f)
            s = (long double)a->softcap * tanhl(s / (long double)a->softcap);
        weight[p] = expl(s);
        total += weight[p];
    }
    for (int i = 0; i < DIM; i++) {
        long double want = 0.0L;
        for (int p = first; p <= a->pos; p++)
            want += weight[p] / total * (long double)values[p][kv][i];
        bad += fabsl((long double)a->out[head * DIM + i] - want) > 1e-7L * (1 + fabsl(want));
    }
    return bad;
}

static void test_attend(void)
{
    static const int32_t windows[][2] = { { 0, 0 }, { 0, LAST }, { 70, LAST }, { 64, 127 } };
    static float q[HEADS * DIM], out[HEADS * DIM];
    uint8_t *pages[LAST / GM_PAGE + 1];
    gm_check_begin(&check, "ref attend");
    const size_t vec = gm_kv_vec_bytes(GM_KV_F32, DIM), side = GM_PAGE * KV_HEADS * vec;
    for (size_t p = 0; p <= LAST / GM_PAGE; p++)
        pages[p] = gm_check_bytes(&check, 2 * side, 0);
    const struct gm_kv_view kv = { pages, 0, side, GM_KV_F32, KV_HEADS, DIM };
    for (int pos = 0; pos <= LAST; pos++) {
        gm_check_fill_normal(&check, keys[pos][0], KV_HEADS * DIM, 1.0f);
        gm_check_fill_normal(&check, values[pos][0], KV_HEADS * DIM, 1.0f);
        gm_ref.kv_store(&kv, pos, keys[pos][0], values[pos][0]);
    }
    gm_check_fill_normal(&check, q, HEADS * DIM, 0.4f);
    for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++) {
        for (int cap = 0; cap <= 5; cap += 5) {
            const int first = windows[w][0], last = windows[w][1];
            const struct gm_attend a = { .q = q,
                                         .out = out,
                                         .kv = kv,
                                         .heads = HEADS,
                                         .rows = 1,
                                         .pos = last,
                                         .window = first > 0 ? last - first + 1 : 0,
                                         .softcap = (float)cap };
            uint8_t *kept = pages[0];
            if (first >= GM_PAGE)
                pages[0] = NULL; /* left of the window */
            for (int h = 0; h < KV_HEADS; h++)
                gm_ref.attend(&a, h);
            pages[0] = kept;
            unsigned bad = 0;
            for (int h = 0; h < HEADS; h++)
                bad += bad_head(&a, h);
            CU_ASSERT_EQUAL(bad, 0);
        }
    }
    gm_check_end(&check);
}

/* ---- head ---------------------------------------------------------------------------------- */

static void test_logsumexp(void)
{
    enum { N = 3000 };
    static float x[N];
    gm_check_begin(&check, "ref lse");
    gm_check_fill_normal(&check, x, N, 5.0f);
    for (int t = 1; t < 20; t += 3) {
        const float inv_t = (float)t / 7.0f;
        long double sum = 0.0L;
        for (int i = 0; i < N; i++)
            sum += expl((long double)x[i] * (long double)inv_t);
        CU_ASSERT_TRUE(relative(gm_ref.logsumexp(x, N, inv_t), logl(sum)) < 1e-14);
    }
    const float big[3] = { 3e38f, -INFINITY, 3e38f };
    CU_ASSERT_TRUE(gm_ref.logsumexp(big, 3, 1.0f) == (double)3e38f);
    CU_ASSERT_TRUE(gm_ref.logsumexp(big + 1, 1, 0.5f) == -INFINITY);
    CU_ASSERT_TRUE(gm_ref.logsumexp(big, 0, 1.0f) == -INFINITY);
    const float odd[3] = { 1.0f, NAN, INFINITY };
    CU_ASSERT_TRUE(isnan(gm_ref.logsumexp(odd, 2, 1.0f)));
    CU_ASSERT_TRUE(gm_ref.logsumexp(odd + 2, 1, 1.0f) == INFINITY);
}

/* Selection by the rule: the largest not yet taken, the lowest index among equals. */
static void test_top_k(void)
{
    enum { N = 500 };
    static float x[N], values_out[N];
    static int32_t ids[N];
    static uint8_t taken[N];
    unsigned bad = 0;
    gm_check_begin(&check, "ref top");
    for (int round = 0; round < 20; round++) {
        gm_check_fill(&check, x, N, 3e38f);
        for (int i = round; i < N; i += 9)
            x[i] = round % 2 ? NAN : round % 3 ? INFINITY : -INFINITY;
        const int32_t got = gm_ref.top_k(ids, values_out, x, N, N);
        int32_t numbers = 0;
        memset(taken, 0, sizeof taken);
        for (int i = 0; i < N; i++)
            numbers += !isnan(x[i]);
        CU_ASSERT_EQUAL(got, numbers);
        for (int32_t j = 0; j < got; j++) {
            int best = -1;
            for (int i = 0; i < N; i++)
                if (!taken[i] && !isnan(x[i]) && (best < 0 || x[i] > x[best]))
                    best = i;
            taken[best] = 1;
            bad += ids[j] != best || memcmp(&values_out[j], &x[best], sizeof x[0]) != 0;
        }
    }
    CU_ASSERT_EQUAL(bad, 0);
    CU_ASSERT_EQUAL(gm_ref.top_k(ids, values_out, x, N, -3), 0);
    CU_ASSERT_EQUAL(gm_ref.top_k(ids, values_out, x, -1, 3), 0);
}

/* ---- the same bits in every build ------------------------------------------------------------ */

static uint64_t mix(uint64_t hash, const void *data, size_t bytes)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

/* Release, sanitizer and other compilers' builds must all give this number; it changes only with
 * gm_ref.id. The inputs come from the harness's own generator with a fixed seed. */
static void test_bits(void)
{
    struct gm_check fixed = { .seed = 20 };
    uint64_t hash = 0xcbf29ce484222325u;
    gm_check_begin(&fixed, "bits");
    for (int i = 0; i < 20000; i++) {
        const double x = (gm_check_unit(&fixed) * 2 - 1) * 300.0;
        double v[5] = { gm_exp(x), gm_log(fabs(x)), gm_tanh(x * 0.01), 0.0, 0.0 };
        gm_sincos(x * 500.0, &v[3], &v[4]);
        hash = mix(hash, v, sizeof v);
    }
    enum { N = 640 };
    float x[N], w[N], y[N];
    _Alignas(64) double act[N];
    gm_check_fill_normal(&fixed, x, N, 2.0f);
    gm_check_fill_normal(&fixed, w, N, 2.0f);
    const struct gm_mat m = { w, GM_TYPE_F32, 10, 64, 256, false };
    gm_ref.prepare(act, x, 64, 10, 64, true);
    gm_ref.linear(y, 10, &m, act, 10, 0, 10);
    hash = mix(hash, y, 100 * sizeof *y);
    gm_ref.rms_norm(y, x, w, 1, N, 1e-6f);
    hash = mix(hash, y, sizeof y);
    gm_ref.gelu_mul(y, x, w, N);
    hash = mix(hash, y, sizeof y);
    const double lse = gm_ref.logsumexp(x, N, 1.25f);
    hash = mix(hash, &lse, sizeof lse);
    if (hash != BITS)
        printf("hash is 0x%016llx ", (unsigned long long)hash);
    CU_ASSERT_TRUE(hash == BITS);
}

int main(void)
{
    gm_check_init(&check);
    if (CU_initialize_registry() != CUE_SUCCESS)
        return EXIT_FAILURE;
    CU_pSuite s = CU_add_suite("ref", NULL, NULL);
    CU_add_test(s, "exp, log, tanh", test_exp_log_tanh);
    CU_add_test(s, "sincos", test_sincos);
    CU_add_test(s, "linear, embed", test_linear);
    CU_add_test(s, "rms_norm", test_norms);
    CU_add_test(s, "rope", test_rope);
    CU_add_test(s, "gelu, softcap, axpy", test_pointwise);
    CU_add_test(s, "attend", test_attend);
    CU_add_test(s, "logsumexp", test_logsumexp);
    CU_add_test(s, "top_k", test_top_k);
    CU_add_test(s, "same bits in every build", test_bits);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures == 0 && check.failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
