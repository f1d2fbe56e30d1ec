/* test_pool.c - the worker pool: every item once, chunks cut as promised, idle means asleep, and
 * the same floating-point mode everywhere.
 *
 * Owns:      the checks of kernels/pool.h.
 * Does not:  time anything.
 */
#include "kernels/pool.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { ITEMS_MAX = 5000, RUNS = 3000 };

struct tally {
    _Atomic unsigned char hits[ITEMS_MAX];
    int32_t items, grain;
    int threads;
    _Atomic int bad; /* chunks that break a rule */
    _Atomic unsigned other_modes;
};

static void count(void *ctx, int32_t begin, int32_t end, int worker)
{
    struct tally *t = ctx;
    int ok = begin >= 0 && begin < end && end <= t->items && begin % t->grain == 0 &&
             (end % t->grain == 0 || end == t->items) && worker >= 0 && worker < t->threads;
    if (!ok) {
        atomic_fetch_add(&t->bad, 1);
        return;
    }
    for (int32_t i = begin; i < end; i++) {
        atomic_fetch_add(&t->hits[i], 1);
    }
#if defined(__x86_64__)
    unsigned mode = _mm_getcsr() & ~0x3fu;
    if (mode != 0x9fc0u) {
        atomic_fetch_add(&t->other_modes, 1);
    }
#endif
}

static int run_once(struct gm_pool *pool, struct tally *t, int32_t items, int32_t grain)
{
    for (int i = 0; i < ITEMS_MAX; i++) {
        atomic_store_explicit(&t->hits[i], 0, memory_order_relaxed);
    }
    t->items = items;
    t->grain = grain;
    gm_pool_run(pool, items, grain, count, t);
    for (int i = 0; i < ITEMS_MAX; i++) {
        if (t->hits[i] != (i < items ? 1 : 0)) {
            return 0;
        }
    }
    return 1;
}

static void test_every_item_once(void)
{
    static const int threads[] = { 1, 2, 3, 8 };
    static const int32_t shapes[][2] = { { 1, 1 },  { 7, 1 },    { 7, 16 },   { 16, 16 },
                                         { 17, 4 }, { 640, 32 }, { 4999, 1 }, { 5000, 64 } };
    static struct tally t;
    for (size_t i = 0; i < sizeof threads / sizeof threads[0]; i++) {
        struct gm_pool *pool = gm_pool_new(threads[i]);
        CU_ASSERT_PTR_NOT_NULL_FATAL(pool);
        CU_ASSERT_EQUAL(gm_pool_threads(pool), threads[i]);
        t.threads = threads[i];
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            CU_ASSERT_TRUE(run_once(pool, &t, shapes[s][0], shapes[s][1]));
        }
        gm_pool_free(&pool);
        CU_ASSERT_PTR_NULL(pool);
    }
    CU_ASSERT_EQUAL(t.bad, 0);
    CU_ASSERT_EQUAL(t.other_modes, 0);
}

static void never(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)begin;
    (void)end;
    (void)worker;
    *(int *)ctx = 1;
}

static void test_nothing_to_do(void)
{
    struct gm_pool *pool = gm_pool_new(2);
    int called = 0;
    gm_pool_run(pool, 0, 16, never, &called);
    gm_pool_run(pool, -5, 16, never, &called);
    CU_ASSERT_EQUAL(called, 0);
    gm_pool_free(&pool);
    gm_pool_free(&pool); /* a second free of NULL does nothing */
}

static void add_range(void *ctx, int32_t begin, int32_t end, int worker)
{
    _Atomic int64_t *sum = ctx;
    int64_t s = 0;
    for (int32_t i = begin; i < end; i++) {
        s += i;
    }
    (void)worker;
    atomic_fetch_add(sum, s);
}

static void nap(long us)
{
    struct timespec t = { 0, us * 1000 };
    nanosleep(&t, NULL);
}

/* Back-to-back runs, with pauses that let workers fall asleep in between. */
static void test_many_runs(void)
{
    struct gm_pool *pool = gm_pool_new(3);
    int wrong = 0;
    for (int r = 0; r < RUNS; r++) {
        _Atomic int64_t sum = 0;
        int64_t n = 100 + r % 50;
        gm_pool_run(pool, (int32_t)n, 8, add_range, (void *)&sum);
        wrong += sum != n * (n - 1) / 2;
        if (r % 64 == 0) {
            nap(r % 128 ? 60 : 15);
        }
    }
    CU_ASSERT_EQUAL(wrong, 0);
    gm_pool_free(&pool);
}

static void test_idle_is_free(void)
{
    struct gm_pool *pool = gm_pool_new(4);
    _Atomic int64_t sum = 0;
    gm_pool_run(pool, 100, 1, add_range, (void *)&sum);
    nap(2000); /* past the spin */
    struct timespec a;
    struct timespec b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    nap(100000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double used_ms = (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) * 1e-6;
    CU_ASSERT_TRUE(used_ms < 2.0);
    gm_pool_free(&pool);
}

static void test_new_sets_mode(void)
{
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();
    _mm_setcsr(0x1f80 | 0x2000); /* another rounding mode, no flushing */
    struct gm_pool *pool = gm_pool_new(1);
    CU_ASSERT_EQUAL(_mm_getcsr() & ~0x3fu, 0x9fc0u);
    gm_pool_free(&pool);
    _mm_setcsr(before);
#endif
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS) {
        return EXIT_FAILURE;
    }
    CU_pSuite s = CU_add_suite("pool", NULL, NULL);
    CU_add_test(s, "every item once, cut by the grain", test_every_item_once);
    CU_add_test(s, "nothing to do", test_nothing_to_do);
    CU_add_test(s, "many runs", test_many_runs);
    CU_add_test(s, "idle workers sleep", test_idle_is_free);
    CU_add_test(s, "floating-point mode", test_new_sets_mode);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
