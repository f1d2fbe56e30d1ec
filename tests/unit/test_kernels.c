// uses: tests/unit/kernels_linear.c tests/unit/kernels_packed.c tests/unit/kernels_attend.c
// uses: tests/unit/kernels_point.c tests/unit/kernels_bench.c
// uses: services/cli/kernels_bench.c services/cli/kernels_peak.c services/cli/kernels_linear.c
// uses: services/cli/kernels_attend.c services/cli/kernels_point.c
/* test_kernels.c - every kernel set this CPU can run, entry by entry, against gm_ref.
 *
 * Owns:      the list of checks, the loop over sets, the command line:
 *            --only TEXT   runs cases whose name contains TEXT
 *            --set NAME    runs one set
 *            --bench       prints times and shares of the machine's limits instead of testing;
 *                          fails when a result differs from ref
 *            GM_SEED=n in the environment repeats a run.
 * Does not:  hold the checks (kernels_linear.c, kernels_attend.c, kernels_point.c) or prove ref
 *            (test_ref.c).
 */
#include "tests/unit/kernels_check.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SETS_MAX = 16 };

static struct gm_check check;
static const struct gm_kernels *sets[SETS_MAX];
static int set_count;

static void run(gm_check_fn *fn)
{
    const unsigned failures = check.failures, cases = check.cases;
    for (int s = 0; s < set_count; s++) {
        check.set = sets[s]->id;
        fn(&check, sets[s]);
    }
    CU_ASSERT_EQUAL(check.failures, failures);
    CU_ASSERT_TRUE(check.only != NULL || check.cases > cases);
}

#define CHECK(name)                                                                                \
    static void test_##name(void)                                                                  \
    {                                                                                              \
        run(gm_check_##name);                                                                      \
    }
CHECK(linear)
CHECK(linear_exact)
CHECK(linear_cuts)
CHECK(linear_special)
CHECK(embed)
CHECK(packed)
CHECK(kv_store)
CHECK(attend)
CHECK(attend_ways)
CHECK(attend_bits)
CHECK(attend_order)
CHECK(norms)
CHECK(rope)
CHECK(gelu)
CHECK(axpy)
CHECK(softcap)
CHECK(logsumexp)
CHECK(top_k)
CHECK(finite)

static void test_selection(void)
{
    const char *why = NULL;
    CU_ASSERT_PTR_EQUAL(gm_kernels_select("ref", &why), &gm_ref);
    CU_ASSERT_PTR_NULL(gm_kernels_select("no such set", &why));
    CU_ASSERT_PTR_NOT_NULL(why);
    for (int s = 0; s < set_count; s++)
        for (int t = 0; t < s; t++)
            CU_ASSERT_STRING_NOT_EQUAL(sets[s]->id, sets[t]->id);
}

/* The harness must be able to fail: a wrong value, a NaN, a write behind a buffer. */
static void test_harness(void)
{
    static struct gm_check c;
    memcpy(&c, &check, sizeof c);
    c.only = NULL;
    c.failures = GM_CHECK_SHOWN_MAX; /* counts, prints nothing */
    gm_check_begin(&c, "harness");
    float *a = gm_check_floats(&c, 8), *b = gm_check_bytes(&c, 32, 4);
    CU_ASSERT_TRUE(a[0] != a[0]);
    gm_check_fill(&c, a, 8, 10.0f);
    memcpy(b, a, 32);
    gm_check_near(&c, a, b, 8, 0.0, 0.0);
    gm_check_same(&c, a, b, 32, "");
    CU_ASSERT_EQUAL(c.failures, GM_CHECK_SHOWN_MAX);
    b[7] += 1.0f;
    gm_check_near(&c, a, b, 8, 0.0, 0.5);
    gm_check_same(&c, a, b, 32, "");
    b[7] = b[7] - b[7] + __builtin_nanf("");
    gm_check_near(&c, a, b, 8, 1e9, 1e9);
    CU_ASSERT_EQUAL(c.failures, GM_CHECK_SHOWN_MAX + 3);
    uint8_t *behind = (uint8_t *)b + 32, *front = (uint8_t *)a - 1;
    behind[0] = 0;
    front[0] = 0;
    gm_check_end(&c);
    CU_ASSERT_EQUAL(c.failures, GM_CHECK_SHOWN_MAX + 5);
}

/* All sets, or the one named. */
static int take_sets(const char *only)
{
    const char *const *names = gm_kernels_available();
    for (; *names && set_count < SETS_MAX; names++) {
        const char *why = "";
        if (only && strcmp(only, *names) != 0)
            continue;
        const struct gm_kernels *k = gm_kernels_select(*names, &why);
        if (!k) {
            printf("set %s is listed but cannot be had: %s\n", *names, why);
            return 0;
        }
        printf("set %s: %s\n", *names, k->id);
        sets[set_count++] = k;
    }
    return set_count > 0;
}

static int run_suite(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return EXIT_FAILURE;
    CU_pSuite s = CU_add_suite("kernels", NULL, NULL);
    CU_add_test(s, "the harness can fail", test_harness);
    CU_add_test(s, "sets by name", test_selection);
    CU_add_test(s, "linear", test_linear);
    CU_add_test(s, "linear, inputs that quantise exactly", test_linear_exact);
    CU_add_test(s, "linear, same bits for any batch and cut", test_linear_cuts);
    CU_add_test(s, "linear, NaN, infinity, nothing to do", test_linear_special);
    CU_add_test(s, "embed", test_embed);
    CU_add_test(s, "packed weights", test_packed);
    CU_add_test(s, "kv_store", test_kv_store);
    CU_add_test(s, "attend", test_attend);
    CU_add_test(s, "attend, same bits in every way", test_attend_ways);
    CU_add_test(s, "attend, same bits anywhere", test_attend_bits);
    CU_add_test(s, "attend, order of sums", test_attend_order);
    CU_add_test(s, "rms_norm, rms_norm_add", test_norms);
    CU_add_test(s, "rope, rope_angles", test_rope);
    CU_add_test(s, "gelu_mul", test_gelu);
    CU_add_test(s, "axpy", test_axpy);
    CU_add_test(s, "softcap", test_softcap);
    CU_add_test(s, "logsumexp", test_logsumexp);
    CU_add_test(s, "top_k", test_top_k);
    CU_add_test(s, "all_finite", test_finite);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    const char *set = NULL;
    int bench = 0;
    gm_check_init(&check);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0) {
            bench = 1;
        } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
            check.only = argv[++i];
        } else if (strcmp(argv[i], "--set") == 0 && i + 1 < argc) {
            set = argv[++i];
        } else {
            printf("usage: test_kernels [--only TEXT] [--set NAME] [--bench]\n");
            return EXIT_FAILURE;
        }
    }
    if (!take_sets(set))
        return EXIT_FAILURE;
    if (bench)
        return gm_bench_kernels(sets, set_count, check.only) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    return run_suite();
}
