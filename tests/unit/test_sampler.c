// uses: services/sampler/noise.c services/sampler/pick.c
/* test_sampler.c - choosing one token, against a slow and obvious version of the same rules.
 *
 * Owns:      noise (published answers, independence), distributions by chi-square, short lists
 *            against the whole vocabulary, greedy ties, lists that break the contract.
 * Does not:  look at stop strings and sequences (test_sampler_seq.c). Every random number comes
 *            from fixed seeds.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/fmath.h"
#include "services/sampler/sampler.h"

enum { VOCAB_MAX = 2000 };

static uint64_t random_state = 1;

static uint64_t random_u64(void) /* splitmix64; has nothing to do with the noise under test */
{
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint32_t below(uint32_t n)
{
    return (uint32_t)(random_u64() % n);
}

static double unit(void)
{
    return (double)(random_u64() >> 11) * 0x1p-53;
}

/* Chi-square value that one of a million fair samples exceeds (Wilson and Hilferty's formula). */
static double chi_limit(double df)
{
    const double t = 1.0 - 2.0 / (9.0 * df) + 4.7534 * sqrt(2.0 / (9.0 * df));
    return df * t * t * t;
}

/* ---- noise ------------------------------------------------------------------------------------
 */

static void test_philox(void)
{
    /* Known answers published with the generator (Random123, kat_vectors, philox4x32 10). */
    static const uint32_t known[3][10] = {
        { 0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        { ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
        { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
          0x94fdcceb, 0x5001e420, 0x24126ea1 },
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        gm_noise_philox(out, known[i], known[i] + 4);
        CU_ASSERT(memcmp(out, known[i] + 6, sizeof out) == 0);
    }
    /* How seed, position and id enter must never change: stored turns are replayed with it. */
    uint32_t out[4];
    gm_noise_philox(out, (uint32_t[]){ 7, 0, 5, 1 }, (uint32_t[]){ 3, 2 });
    CU_ASSERT_EQUAL(gm_noise_uniform(0x200000003u, 0x100000005u, 7), (out[0] + 0.5) / 0x1p32);
}

static void test_gumbel(void)
{
    CU_ASSERT(-gm_log(-gm_log(1.0 - 0x1p-33)) < GM_GUMBEL_MAX);
    CU_ASSERT(-gm_log(-gm_log(1.0 - 0x1p-33)) > GM_GUMBEL_MAX - 0.1);
    CU_ASSERT(-gm_log(-gm_log(0x1p-33)) > -3.14);
    const int n = 200000;
    double sum = 0.0, squares = 0.0;
    for (int i = 0; i < n; i++) {
        const double g = gm_noise_gumbel(9, (uint64_t)i / 500, i % 500);
        sum += g;
        squares += g * g;
    }
    const double mean = sum / n;
    CU_ASSERT_DOUBLE_EQUAL(mean, 0.5772157, 0.015);                     /* Euler's constant */
    CU_ASSERT_DOUBLE_EQUAL(squares / n - mean * mean, 1.6449341, 0.05); /* pi^2 / 6 */
}

/* Pairs of neighbours fill an 8 x 8 grid evenly. */
static void check_pairs(uint64_t d_seed, uint64_t d_position, int32_t d_id)
{
    enum { N = 64000 };
    uint32_t count[64] = { 0 };
    for (uint32_t i = 0; i < N; i++) {
        const uint64_t seed = i / 1600, position = 2 * (i / 40 % 40);
        const int32_t id = (int32_t)(2 * (i % 40));
        const double a = gm_noise_uniform(seed, position, id);
        const double b = gm_noise_uniform(seed + d_seed, position + d_position, id + d_id);
        CU_ASSERT_FATAL(a > 0.0 && a < 1.0 && b > 0.0 && b < 1.0);
        count[(int)(a * 8) * 8 + (int)(b * 8)]++;
    }
    double chi = 0.0;
    for (int i = 0; i < 64; i++)
        chi += (count[i] - N / 64.0) * (count[i] - N / 64.0) / (N / 64.0);
    CU_ASSERT(chi < chi_limit(63));
}

static void test_neighbours(void)
{
    check_pairs(0, 0, 1);
    check_pairs(0, 1, 0);
    check_pairs(1000, 0, 0); /* beyond the seeds in use, so pairs do not share values */
    check_pairs((uint64_t)1 << 32, 0, 0);
    check_pairs(0, (uint64_t)1 << 32, 0);
    check_pairs(0, 1, -1);
}

/* ---- picking ----------------------------------------------------------------------------------
 */

/* A whole vocabulary in falling order, and what the last shard would say of it. */
static struct {
    uint32_t n;
    int32_t ids[VOCAB_MAX];
    float logits[VOCAB_MAX];
} full;

static int compare_places(const void *a, const void *b)
{
    const int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (full.logits[i] != full.logits[j])
        return full.logits[i] > full.logits[j] ? -1 : 1;
    return i < j ? -1 : 1;
}

/* Random logits with ties and bans, sorted. */
static void fill_full(uint32_t n, double spread, double ties, double bans)
{
    float sorted[VOCAB_MAX];
    full.n = n;
    for (uint32_t i = 0; i < n; i++) {
        const double normal = sqrt(-2.0 * log(1.0 - unit())) * cos(6.283185307 * unit());
        full.ids[i] = (int32_t)i;
        full.logits[i] = (float)(normal * spread);
        if (i > 0 && unit() < ties)
            full.logits[i] = full.logits[below(i)];
        if (i > 0 && unit() < bans)
            full.logits[i] = -INFINITY;
    }
    full.logits[0] = (float)spread; /* at least one is allowed */
    qsort(full.ids, n, sizeof full.ids[0], compare_places);
    for (uint32_t i = 0; i < n; i++)
        sorted[i] = full.logits[full.ids[i]];
    memcpy(full.logits, sorted, n * sizeof sorted[0]);
}

static struct gm_cands shortlist(uint32_t n, double temperature, uint32_t position)
{
    double sum = 0.0, t = temperature > 0.0 ? temperature : 1.0;
    for (uint32_t i = 0; i < full.n; i++)
        sum += exp((full.logits[i] - (double)full.logits[0]) / t);
    return (struct gm_cands){ .position = position,
                              .n = n < full.n ? n : full.n,
                              .n_vocab = full.n,
                              .ids = full.ids,
                              .logits = full.logits,
                              .lse_temp = full.logits[0] / t + log(sum) };
}

/* The rules in order, on the whole vocabulary: probabilities of the survivors, 0 for the rest. */
static void slow_probabilities(const struct gm_sampling *p, double *prob)
{
    uint32_t m = full.n;
    double sum = 0.0, prefix = 0.0;
    for (uint32_t i = 0; i < full.n; i++)
        prob[i] = exp((full.logits[i] - (double)full.logits[0]) / p->temperature);
    if (p->top_k > 0 && (uint32_t)p->top_k < m)
        m = (uint32_t)p->top_k;
    for (uint32_t i = 0; i < m; i++)
        sum += prob[i];
    for (uint32_t i = 0; i < m && p->top_p < 1.0f; i++) {
        prefix += prob[i] / sum;
        if (prefix >= (double)p->top_p)
            m = i + 1;
    }
    while (m > 1 && prob[m - 1] < (double)p->min_p * prob[0])
        m--;
    sum = 0.0;
    for (uint32_t i = 0; i < full.n; i++) {
        prob[i] = i < m ? prob[i] : 0.0;
        sum += prob[i];
    }
    for (uint32_t i = 0; i < full.n; i++)
        prob[i] /= sum;
}

/* argmax over the survivors, without any bound. */
static int32_t slow_pick(const struct gm_sampling *p, uint32_t position)
{
    static double prob[VOCAB_MAX];
    double top = -INFINITY;
    int32_t best = -1;
    slow_probabilities(p, prob);
    for (uint32_t i = 0; i < full.n; i++) {
        const double score = prob[i] > 0.0
                                 ? (full.logits[i] - (double)full.logits[0]) / p->temperature +
                                       gm_noise_gumbel(p->seed, position, full.ids[i])
                                 : -INFINITY;
        if (score > top || (score == top && full.ids[i] < best)) {
            top = score;
            best = full.ids[i];
        }
    }
    return best;
}

static const struct filters {
    float temperature;
    int32_t top_k;
    float top_p, min_p;
} filters[] = {
    { 1.0f, 0, 1.0f, 0.0f },    { 0.5f, 0, 1.0f, 0.0f },   { 2.5f, 0, 1.0f, 0.0f },
    { 1.0f, 6, 1.0f, 0.0f },    { 1.0f, 0, 0.8f, 0.0f },   { 1.5f, 10, 0.7f, 0.0f },
    { 1.0f, 0, 1.0f, 0.08f },   { 0.8f, 0, 0.9f, 0.1f },   { 1.2f, 12, 0.95f, 0.05f },
    { 1.0f, 1, 0.5f, 0.0f },    { 1.0f, 0, 1e-3f, 0.0f },  { 1.0f, 0, 1.0f, 1.0f },
    { 1.0f, 1000, 1.0f, 0.0f }, { 1.0f, 64, 0.95f, 0.0f }, { 0.05f, 64, 0.95f, 0.0f },
};
enum { N_FILTERS = sizeof filters / sizeof filters[0] };

static struct gm_sampling params_of(const struct filters *f)
{
    struct gm_sampling p;
    gm_sampling_default(&p);
    p.temperature = f->temperature;
    p.top_k = f->top_k;
    p.top_p = f->top_p;
    p.min_p = f->min_p;
    return p;
}

static void test_distributions(void)
{
    enum { DRAWS = 20000, TOKENS = 24 };
    random_state = 11;
    fill_full(TOKENS, 1.5, 0.1, 0.0);
    for (int f = 0; f < N_FILTERS; f++) {
        struct gm_sampling p = params_of(&filters[f]);
        double prob[VOCAB_MAX], chi = 0.0;
        uint32_t count[TOKENS] = { 0 }, cells = 0;
        slow_probabilities(&p, prob);
        for (uint32_t i = 0; i < DRAWS; i++) { /* half over positions, half over seeds */
            p.seed = i < DRAWS / 2 ? 77 : i;
            const struct gm_cands c = shortlist(TOKENS, p.temperature, i < DRAWS / 2 ? i : 5);
            struct gm_pick pick;
            CU_ASSERT_EQUAL_FATAL(gm_pick(&c, &p, &pick, NULL), GM_OK);
            CU_ASSERT_EQUAL_FATAL(pick.need, 0);
            CU_ASSERT_EQUAL_FATAL(full.ids[pick.index], pick.id);
            count[pick.index]++;
        }
        for (uint32_t i = 0; i < TOKENS; i++) {
            const double want = prob[i] * DRAWS;
            CU_ASSERT(want > 0.0 || count[i] == 0);
            chi += want > 0.0 ? (count[i] - want) * (count[i] - want) / want : 0.0;
            cells += want > 0.0;
        }
        if (cells > 1 && !(chi < chi_limit(cells - 1)))
            printf("\n    filters %d: chi-square %g of %u cells\n", f, chi, cells);
        CU_ASSERT(cells == 1 || chi < chi_limit(cells - 1));
    }
}

/* Short lists, asked longer as told, choose what the whole vocabulary chooses. */
static void test_need_more(void)
{
    uint32_t at_once = 0, asked = 0;
    random_state = 12;
    for (int round = 0; round < 400; round++) {
        const uint32_t n = 1 + below(round % 8 == 0 ? VOCAB_MAX : 300);
        fill_full(n, 0.2 + 4.0 * unit(), 0.1 * (round % 3), 0.3 * (round % 4 == 1));
        for (int f = 0; f < N_FILTERS; f++) {
            struct gm_sampling p = params_of(&filters[f]);
            p.seed = random_u64();
            const uint32_t position = below(100000);
            uint32_t k = 1 + below(round % 2 ? 8 : 64), rounds = 0;
            struct gm_pick pick;
            for (;; rounds++) {
                const struct gm_cands c = shortlist(k, p.temperature, position);
                CU_ASSERT_EQUAL_FATAL(gm_pick(&c, &p, &pick, NULL), GM_OK);
                if (pick.need == 0)
                    break;
                CU_ASSERT_FATAL(pick.need > c.n && pick.need <= n);
                k = pick.need;
            }
            at_once += rounds == 0 && k < n;
            asked += rounds > 0;
            CU_ASSERT_EQUAL(pick.id, slow_pick(&p, position));
        }
    }
    CU_ASSERT(at_once > 500 && asked > 500); /* both ways were taken often */
}

static void test_greedy(void)
{
    struct gm_sampling p;
    gm_sampling_default(&p);
    p.temperature = 0.0f;
    const int32_t ids[] = { 4, 9, 2 };
    const float logits[] = { 3.0f, 3.0f, 3.0f };
    struct gm_cands c = { .n = 2, .n_vocab = 10, .ids = ids, .logits = logits };
    struct gm_pick pick;
    CU_ASSERT_EQUAL(gm_pick(&c, &p, &pick, NULL), GM_OK);
    CU_ASSERT(pick.need == 0 && pick.index == 0 && pick.id == 4);
    c.n = 3; /* a tie with the higher id first breaks the contract, it is not silently taken */
    CU_ASSERT_EQUAL(gm_pick(&c, &p, &pick, NULL), GM_INTERNAL);
    c.n = 1;
    CU_ASSERT_EQUAL(gm_pick(&c, &p, &pick, NULL), GM_OK);
    CU_ASSERT_EQUAL(pick.id, 4);
}

static void test_hostile_lists(void)
{
    static const float odd[] = { NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f, 0.0f, -0.0f };
    random_state = 13;
    uint32_t refused = 0;
    for (int round = 0; round < 20000; round++) {
        struct gm_sampling p = params_of(&filters[below(N_FILTERS)]);
        p.temperature = below(4) ? p.temperature : 1e-6f;
        int32_t ids[8];
        float logits[8];
        for (uint32_t i = 0; i < 8; i++) {
            ids[i] = below(50) ? (int32_t)i : (int32_t)random_u64();
            logits[i] = below(2) ? -(float)i : odd[below(8)];
        }
        if (below(2)) /* falling for sure, so that it gets past the first check */
            for (uint32_t i = 0; i < 8; i++)
                logits[i] = i < 3 ? 3e38f : (i < 6 ? -3e38f : -INFINITY);
        struct gm_cands c = { .n = below(10), .n_vocab = below(12), .ids = ids, .logits = logits };
        c.n = c.n > 8 ? UINT32_MAX : c.n;
        c.lse_temp = below(3) ? (double)odd[below(8)] : 1e308;
        struct gm_pick pick;
        const enum gm_status rc = gm_pick(&c, &p, &pick, NULL);
        CU_ASSERT_FATAL(rc == GM_OK || rc == GM_INTERNAL);
        refused += rc != GM_OK;
        if (rc == GM_OK && pick.need == 0)
            CU_ASSERT_FATAL(pick.index < c.n && logits[pick.index] > -INFINITY);
        if (rc == GM_OK && pick.need > 0)
            CU_ASSERT_FATAL(pick.need > c.n && pick.need <= c.n_vocab);
    }
    CU_ASSERT(refused > 1000 && refused < 19000);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite("sampler: picking", NULL, NULL);
    if (!suite || !CU_add_test(suite, "philox", test_philox) ||
        !CU_add_test(suite, "gumbel", test_gumbel) ||
        !CU_add_test(suite, "neighbours are independent", test_neighbours) ||
        !CU_add_test(suite, "distributions", test_distributions) ||
        !CU_add_test(suite, "short lists are exact", test_need_more) ||
        !CU_add_test(suite, "greedy", test_greedy) ||
        !CU_add_test(suite, "hostile lists", test_hostile_lists))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
