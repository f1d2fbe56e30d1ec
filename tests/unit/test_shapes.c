// uses: tests/unit/shapes.c
/* test_shapes.c - every class of Gemma's shapes against the reference framework's logits, on all
 * kernel sets of this CPU: tests/golden/shapes.
 *
 * Owns:      the golden limits on the small models of each class, in both dialects and with Q, K
 *            and V as one tensor; bits that do not depend on cuts and chunks, for each class.
 * Does not:  check the table of variants (test_config.c) or what a file may not say
 *            (test_shapes_refused.c).
 * Use:       test_shapes --bits prints one line "shape kernels kv hash" per result, so that builds
 *            can be compared (tools/check-bits.sh).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/base/log.h"
#include "tests/unit/shapes.h"

/* tests/golden/README.md */
static const double exact_logprob = 2e-3, fast_kl = 0.01, fast_margin = 0.05, fast_same = 0.97;

enum { WHOLE = SHAPE_CONTEXT };

static float *room_for(const struct shape_want *want)
{
    float *x = malloc((size_t)want->n * (size_t)want->vocab * sizeof *x);
    CU_ASSERT_PTR_NOT_NULL_FATAL(x);
    return x;
}

static size_t bytes_of(const struct shape_want *want)
{
    return (size_t)want->n * (size_t)want->vocab * sizeof(float);
}

static double log_sum_exp(const float *row, int32_t n)
{
    double most = -INFINITY, sum = 0.0;
    for (int32_t i = 0; i < n; i++)
        most = fmax(most, (double)row[i]);
    for (int32_t i = 0; i < n; i++)
        sum += exp((double)row[i] - most);
    return most + log(sum);
}

/* ---- against the reference ---------------------------------------------------------------------
 */

static double worst_logprob(const struct shape_want *want, const float *got)
{
    double worst = 0.0;
    for (int32_t p = 0; p < want->n; p++) {
        const float *a = want->logits + (size_t)p * (size_t)want->vocab;
        const float *b = got + (size_t)p * (size_t)want->vocab;
        double la = log_sum_exp(a, want->vocab), lb = log_sum_exp(b, want->vocab);
        for (int32_t i = 0; i < want->vocab; i++) {
            double gap = fabs((double)a[i] - la - ((double)b[i] - lb));
            if (!(gap <= worst))
                worst = gap;
        }
    }
    return worst;
}

struct fast {
    double kl; /* summed over positions */
    int32_t n; /* positions */
    int32_t clear, same;
};

static void add_fast(struct fast *f, const struct shape_want *want, const float *got)
{
    for (int32_t p = 0; p < want->n; p++) {
        const float *a = want->logits + (size_t)p * (size_t)want->vocab;
        const float *b = got + (size_t)p * (size_t)want->vocab;
        double la = log_sum_exp(a, want->vocab), lb = log_sum_exp(b, want->vocab);
        int32_t best = 0, ours = 0;
        double second = -INFINITY;
        for (int32_t i = 0; i < want->vocab; i++) {
            double x = (double)a[i] - la;
            f->kl += exp(x) * (x - ((double)b[i] - lb));
            best = a[i] > a[best] ? i : best;
            ours = b[i] > b[ours] ? i : ours;
        }
        for (int32_t i = 0; i < want->vocab; i++)
            if (i != best)
                second = fmax(second, (double)a[i]);
        f->n++;
        if ((double)a[best] - second > fast_margin) {
            f->clear++;
            f->same += best == ours;
        }
    }
}

static void test_exact(void)
{
    double worst = 0.0;
    for (int shape = 0; shape < SHAPES; shape++) {
        struct shape_want want;
        shape_want_read(&want, shape);
        float *got = room_for(&want), *first = room_for(&want);
        for (int d = 0; d < SHAPE_DIALECTS; d++) {
            char path[SHAPE_PATH_MAX];
            if (!shape_file(shape, (enum shape_dialect)d, path))
                continue;
            shape_run(&(struct shape_setting){ path, &gm_ref, GM_KV_F32, 1, WHOLE, 2 }, &want, got);
            double gap = worst_logprob(&want, got);
            worst = fmax(worst, gap);
            if (!(gap <= exact_logprob)) {
                printf("\n  %s, %s: a log-probability differs by %g", shape_names[shape],
                       shape_dialect_names[d], gap);
                CU_FAIL("the reference has other values");
            }
            if (d == 0)
                memcpy(first, got, bytes_of(&want));
            CU_ASSERT_EQUAL(memcmp(first, got, bytes_of(&want)), 0);
        }
        free(first);
        free(got);
        shape_want_free(&want);
    }
    printf("worst difference of a log-probability %.1e ", worst);
}

/* The divergence is within the limit for each shape alone, the best tokens over all of them. */
static void check_fast(const struct gm_kernels *k, enum gm_kv_type kv)
{
    struct fast all = { 0 };
    double worst = 0.0;
    for (int shape = 0; shape < SHAPES; shape++) {
        struct shape_want want;
        struct fast one = { 0 };
        char path[SHAPE_PATH_MAX];
        shape_want_read(&want, shape);
        float *got = room_for(&want);
        CU_ASSERT_TRUE_FATAL(shape_file(shape, SHAPE_LLAMA, path));
        shape_run(&(struct shape_setting){ path, k, kv, 1, WHOLE, 2 }, &want, got);
        add_fast(&one, &want, got);
        double kl = one.kl / one.n;
        worst = fmax(worst, kl);
        if (!(kl <= fast_kl)) {
            printf("\n  %s, %s: mean KL %g", shape_names[shape], k->id, kl);
            CU_FAIL("the shape is far off");
        }
        all.clear += one.clear;
        all.same += one.same;
        free(got);
        shape_want_free(&want);
    }
    printf("%s/%d: worst KL %.5f, same best %d of %d; ", k->id, (int)kv, worst, (int)all.same,
           (int)all.clear);
    CU_ASSERT(all.clear > 400);
    CU_ASSERT(all.same >= fast_same * all.clear);
}

static void test_fast(void)
{
    for (const char *const *set = gm_kernels_available(); *set; set++)
        for (int kv = GM_KV_F32; kv <= GM_KV_BF16; kv++)
            check_fast(gm_kernels_select(*set, NULL), (enum gm_kv_type)kv);
}

/* ---- bits --------------------------------------------------------------------------------------
 */

static void check_bits(int shape, const char *path, const struct gm_kernels *k)
{
    static const struct {
        int32_t slices, chunk, threads;
    } ways[] = { { 1, 1, 1 }, { 2, WHOLE, 1 }, { 2, 7, 2 }, { SHAPE_LAYERS_MAX, 11, 1 } };
    struct shape_want want;
    shape_want_read(&want, shape);
    float *whole = room_for(&want), *got = room_for(&want);
    shape_run(&(struct shape_setting){ path, k, GM_KV_BF16, 1, WHOLE, 2 }, &want, whole);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        shape_run(&(struct shape_setting){ path, k, GM_KV_BF16, ways[i].slices, ways[i].chunk,
                                           ways[i].threads },
                  &want, got);
        if (memcmp(whole, got, bytes_of(&want)) != 0) {
            printf("\n  %s, %s: %d slices, %d positions a step", shape_names[shape], k->id,
                   (int)ways[i].slices, (int)ways[i].chunk);
            CU_FAIL("other bits");
        }
    }
    free(got);
    free(whole);
    shape_want_free(&want);
}

static void test_bits(void)
{
    for (int shape = 0; shape < SHAPES; shape++) {
        char path[SHAPE_PATH_MAX];
        CU_ASSERT_TRUE_FATAL(shape_file(shape, SHAPE_LLAMA, path));
        for (const char *const *set = gm_kernels_available(); *set; set++)
            check_bits(shape, path, gm_kernels_select(*set, NULL));
    }
}

/* The windows are shorter than the text and the classes are what their names say. */
static void test_classes(void)
{
    struct gm_config cfg[SHAPES];
    for (int shape = 0; shape < SHAPES; shape++) {
        struct shape_want want;
        char path[SHAPE_PATH_MAX];
        CU_ASSERT_TRUE_FATAL(shape_file(shape, SHAPE_OLLAMA, path));
        shape_config(path, &cfg[shape]);
        shape_want_read(&want, shape);
        CU_ASSERT(cfg[shape].window > 0 && 2 * cfg[shape].window < want.n);
        CU_ASSERT_EQUAL(cfg[shape].vocab, want.vocab);
        CU_ASSERT(cfg[shape].local[0]);
        shape_want_free(&want);
    }
    CU_ASSERT(cfg[0].attn_softcap == 4.0f && cfg[0].final_softcap == 6.0f);
    CU_ASSERT(cfg[1].attn_softcap == 50.0f && fabsf(cfg[1].query_scale * sqrtf(24) - 1) < 1e-6f);
    CU_ASSERT(cfg[2].heads == cfg[2].kv_heads && cfg[2].head_dim == 64);
    CU_ASSERT(!cfg[3].local[5] && !cfg[3].local[11] && cfg[3].rope_divisor_global == 1.0f);
    CU_ASSERT(cfg[4].heads == cfg[4].kv_heads && cfg[4].final_softcap == 0.0f);
    CU_ASSERT(cfg[5].layers == 4 && cfg[5].local[3]);
    CU_ASSERT(cfg[6].rope_divisor_global == 8.0f && cfg[6].local[7] && !cfg[6].local[5]);
    CU_ASSERT(cfg[7].layers == 7 && !cfg[7].local[5] && cfg[7].local[6]);
    CU_ASSERT(cfg[8].layers == 26 && !cfg[8].local[23] && cfg[8].local[25]);
    CU_ASSERT(cfg[9].rope_divisor_global == 8.0f && cfg[9].qk_norm);
    CU_ASSERT(fabsf(cfg[9].query_scale * sqrtf(24) - 1) < 1e-6f);
}

/* ---- lines for other builds --------------------------------------------------------------------
 */

static void print_bits(void)
{
    printf("\n"); /* behind the test's name */
    for (int shape = 0; shape < SHAPES; shape++) {
        struct shape_want want;
        char path[SHAPE_PATH_MAX];
        shape_want_read(&want, shape);
        float *got = room_for(&want);
        CU_ASSERT_TRUE_FATAL(shape_file(shape, SHAPE_LLAMA, path));
        for (const char *const *set = gm_kernels_available(); *set; set++)
            for (int kv = GM_KV_F32; kv <= GM_KV_Q8; kv++) {
                const struct gm_kernels *k = gm_kernels_select(*set, NULL);
                shape_run(&(struct shape_setting){ path, k, (enum gm_kv_type)kv, 1, 16, 1 }, &want,
                          got);
                printf("bits %s %s %d %016llx\n", shape_names[shape], k->id, kv,
                       (unsigned long long)XXH3_64bits(got, bytes_of(&want)));
            }
        free(got);
        shape_want_free(&want);
    }
}

int main(int argc, char **argv)
{
    gm_log_set_level(GM_LOG_ERROR);
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("shapes", shape_folder_open, shape_folder_close);
    bool lines = argc > 1 && strcmp(argv[1], "--bits") == 0;
    if (!suite || (lines && !CU_add_test(suite, "bits", print_bits)) ||
        (!lines && (!CU_add_test(suite, "what the files say", test_classes) ||
                    !CU_add_test(suite, "exact kernels, all dialects", test_exact) ||
                    !CU_add_test(suite, "all kernel sets", test_fast) ||
                    !CU_add_test(suite, "cuts and chunks: the same bits", test_bits))))
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
