/* test_head.c - candidates: against a plain double computation, and the row restored bit for bit.
 *
 * Owns:      random rows with random penalties, biases and bans, ties and non-finite logits.
 * Does not:  test top_k and logsumexp themselves (test_ref.c, test_kernels.c).
 */
#include "common/model/model.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 3000, IDS_MAX = 4000, K_MAX = 100, ROUNDS = 120, FEW = 8 };

static uint64_t state = 7;

static uint32_t below(uint32_t limit)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % limit;
}

static float logit(void)
{
    return ((float)below(4001) - 2000.0f) / 128.0f; /* coarse, so that ties happen */
}

struct round {
    float row[VOCAB];
    double want[VOCAB];
    int32_t ids[IDS_MAX], bias_ids[FEW], banned[FEW];
    float bias[FEW];
    struct gm_adjust a;
};

static void make_round(struct round *r, bool penalties, int32_t n_ids)
{
    for (int i = 0; i < VOCAB; i++)
        r->row[i] = logit();
    for (int i = 0; i < n_ids; i++)
        r->ids[i] = (int32_t)below(VOCAB / 3);
    if (n_ids > 2)
        r->ids[0] = -4, r->ids[1] = VOCAB; /* ids that are no token change nothing */
    for (int i = 0; i < FEW; i++) {
        r->bias_ids[i] = (int32_t)below(VOCAB);
        r->banned[i] = (int32_t)below(VOCAB);
        r->bias[i] = below(4) ? logit() : -INFINITY;
    }
    r->a = (struct gm_adjust){ 1.0f,        0.0f,    0.0f, r->ids,    n_ids, n_ids / 2,
                               r->bias_ids, r->bias, FEW,  r->banned, FEW };
    if (penalties) {
        r->a.repeat_penalty = 1.25f;
        r->a.presence = 0.5f;
        r->a.frequency = 0.125f;
    }
}

/* The definition, token by token. */
static void adjust_plainly(struct round *r)
{
    const struct gm_adjust *a = &r->a;
    for (int32_t t = 0; t < VOCAB; t++) {
        double x = (double)r->row[t];
        int seen = 0, outputs = 0;
        for (int32_t i = 0; i < a->n_ids; i++) {
            seen |= a->ids[i] == t;
            outputs += a->ids[i] == t && i >= a->prompt_len;
        }
        if (seen)
            x = x > 0 ? x / (double)a->repeat_penalty : x * (double)a->repeat_penalty;
        if (outputs)
            x -= (double)a->presence + (double)a->frequency * outputs;
        for (int i = 0; i < a->n_bias; i++)
            x += a->bias_ids[i] == t ? (double)a->bias_values[i] : 0.0;
        for (int i = 0; i < a->n_banned; i++)
            x = a->banned[i] == t ? -INFINITY : x;
        r->want[t] = x;
    }
}

static double lse(const double *x, double t)
{
    double largest = -INFINITY, sum = 0.0;
    for (int i = 0; i < VOCAB; i++)
        largest = x[i] / t > largest ? x[i] / t : largest;
    for (int i = 0; i < VOCAB; i++)
        sum += exp(x[i] / t - largest);
    return largest + log(sum);
}

/* With the chunks' sums given, as the head gives them, the results have the same bits. */
static void check_chunks(const struct gm_kernels *k, struct round *r, float temperature,
                         const struct gm_candidates *want)
{
    enum { CHUNKS = (VOCAB + GM_HEAD_CHUNK - 1) / GM_HEAD_CHUNK };
    const float inv_t = temperature > 0.0f ? 1.0f / temperature : 1.0f;
    double raw[CHUNKS], warm[CHUNKS];
    int32_t ids[K_MAX];
    float values[K_MAX], raws[K_MAX];
    struct gm_candidates c = { .k = K_MAX, .ids = ids, .logits = values, .raw = raws };
    c.chunks_raw = raw;
    c.chunks_t = warm;
    CU_ASSERT_EQUAL(gm_head_chunks(VOCAB), CHUNKS);
    for (int i = 0; i < CHUNKS; i++) {
        const int at = i * GM_HEAD_CHUNK,
                  n = VOCAB - at < GM_HEAD_CHUNK ? VOCAB - at : GM_HEAD_CHUNK;
        raw[i] = k->logsumexp(r->row + at, (size_t)n, 1.0f);
        warm[i] = k->logsumexp(r->row + at, (size_t)n, inv_t);
    }
    gm_head_choose(k, r->row, VOCAB, &r->a, temperature, &c);
    CU_ASSERT_EQUAL(memcmp(&c.lse_raw, &want->lse_raw, sizeof c.lse_raw), 0);
    CU_ASSERT_EQUAL(memcmp(&c.lse_t, &want->lse_t, sizeof c.lse_t), 0);
    CU_ASSERT_EQUAL(memcmp(ids, want->ids, sizeof ids), 0);
}

static void check_round(const struct gm_kernels *k, struct round *r, float temperature)
{
    static float before[VOCAB];
    static double raw[VOCAB];
    int32_t ids[K_MAX];
    float values[K_MAX], raws[K_MAX];
    struct gm_candidates c = { .k = K_MAX, .ids = ids, .logits = values, .raw = raws };
    memcpy(before, r->row, sizeof before);
    adjust_plainly(r);
    for (int i = 0; i < VOCAB; i++)
        raw[i] = (double)r->row[i];
    gm_head_choose(k, r->row, VOCAB, &r->a, temperature, &c);
    CU_ASSERT_EQUAL(memcmp(before, r->row, sizeof before), 0);
    check_chunks(k, r, temperature, &c);
    CU_ASSERT_EQUAL(c.k, K_MAX);
    CU_ASSERT_DOUBLE_EQUAL(c.lse_raw, lse(raw, 1.0), 1e-4);
    CU_ASSERT_DOUBLE_EQUAL(c.lse_t, lse(r->want, temperature > 0 ? (double)temperature : 1.0),
                           1e-4);
    for (int32_t i = 0; i < c.k; i++) {
        CU_ASSERT_DOUBLE_EQUAL((double)values[i], r->want[ids[i]], 1e-5);
        CU_ASSERT_EQUAL(raws[i], before[ids[i]]);
        CU_ASSERT_TRUE(i == 0 || values[i - 1] > values[i] ||
                       (values[i - 1] == values[i] && ids[i - 1] < ids[i]));
        r->want[ids[i]] = -INFINITY;
    }
    for (int i = 0; i < VOCAB; i++) /* nothing better was left out */
        CU_ASSERT_TRUE(r->want[i] <= (double)values[c.k - 1] + 1e-5);
}

static void against_definition(void)
{
    static struct round r;
    for (const char *const *set = gm_kernels_available(); *set; set++) {
        const struct gm_kernels *k = gm_kernels_select(*set, NULL);
        for (int i = 0; i < ROUNDS; i++) {
            static const float temperatures[] = { 0.0f, 1.0f, 0.7f, 2.0f };
            make_round(&r, i % 3 != 0, (int32_t)below(i % 10 == 0 ? IDS_MAX : 300));
            check_round(k, &r, temperatures[i % 4]);
        }
    }
}

/* More candidates than the kernel's top_k gives: the whole row in order, ties by id, no NaN. */
static void long_lists(void)
{
    enum { N = 3 * GM_TOPK_MAX };
    static float row[N], values[N], raws[N];
    static int32_t ids[N];
    int32_t nans = 0;
    for (int i = 0; i < N; i++) {
        row[i] = i % 97 == 0 ? NAN : i % 7 == 0 ? (i % 2 ? -0.0f : 0.0f) : logit();
        nans += isnan(row[i]) != 0;
    }
    const struct gm_adjust a = { .repeat_penalty = 1.0f };
    struct gm_candidates c = { .k = N, .ids = ids, .logits = values, .raw = raws };
    gm_head_choose(&gm_ref, row, N, &a, 1.0f, &c);
    CU_ASSERT_EQUAL_FATAL(c.k, N - nans);
    for (int32_t i = 1; i < c.k; i++)
        CU_ASSERT_TRUE(values[i] < values[i - 1] ||
                       (values[i] == values[i - 1] && ids[i] > ids[i - 1]));
    int32_t few_ids[GM_TOPK_MAX];
    float few[GM_TOPK_MAX], few_raw[GM_TOPK_MAX];
    struct gm_candidates f = { .k = GM_TOPK_MAX, .ids = few_ids, .logits = few, .raw = few_raw };
    gm_head_choose(&gm_ref, row, N, &a, 1.0f, &f);
    CU_ASSERT_EQUAL(f.k, GM_TOPK_MAX);
    CU_ASSERT_EQUAL(memcmp(few_ids, ids, sizeof few_ids), 0); /* both ways agree */
}

static void odd_rows(void)
{
    static float row[VOCAB];
    static float before[VOCAB];
    int32_t ids[K_MAX], banned[VOCAB];
    float values[K_MAX], raws[K_MAX];
    for (int i = 0; i < VOCAB; i++) {
        row[i] = i % 5 == 0 ? NAN : i % 5 == 1 ? -INFINITY : logit();
        banned[i] = i;
    }
    memcpy(before, row, sizeof row);
    struct gm_adjust a = { .repeat_penalty = 1.5f,
                           .ids = banned,
                           .n_ids = VOCAB,
                           .prompt_len = 0,
                           .presence = 1.0f,
                           .banned = banned,
                           .n_banned = VOCAB - 3 };
    struct gm_candidates c = { .k = K_MAX, .ids = ids, .logits = values, .raw = raws };
    gm_head_choose(&gm_ref, row, VOCAB, &a, 1.0f, &c);
    CU_ASSERT_EQUAL(memcmp(before, row, sizeof row), 0);
    CU_ASSERT_TRUE(c.k > 3); /* forbidden tokens stay in the list, as the sampler expects */
    for (int32_t i = 3; i < c.k; i++)
        CU_ASSERT_TRUE(values[i] == -INFINITY);
    a.n_banned = VOCAB;
    c.k = K_MAX;
    gm_head_choose(&gm_ref, row, VOCAB, &a, 1.0f, &c);
    CU_ASSERT_TRUE(c.k > 0 && values[0] == -INFINITY);
    CU_ASSERT_EQUAL(memcmp(before, row, sizeof row), 0);
    a = (struct gm_adjust){ .repeat_penalty = 1.0f };
    c.k = 1;
    gm_head_choose(&gm_ref, row, VOCAB, &a, 1.0f, &c);
    CU_ASSERT_EQUAL(c.k, 1);
    CU_ASSERT_EQUAL(values[0], raws[0]);
}

static void logprobs(void)
{
    static float row[VOCAB];
    static double wide[VOCAB];
    int32_t ids[FEW + 2];
    double p[FEW + 2];
    for (int i = 0; i < VOCAB; i++)
        wide[i] = (double)(row[i] = logit());
    const double sum = gm_head_lse_of(&gm_ref, row, VOCAB, 1.0f);
    gm_head_logprobs(&gm_ref, row, VOCAB, FEW, ids, p, sum);
    CU_ASSERT_DOUBLE_EQUAL(sum, lse(wide, 1.0), 1e-4);
    for (int i = 0; i < FEW; i++) {
        CU_ASSERT_DOUBLE_EQUAL(p[i], wide[ids[i]] - sum, 1e-9);
        CU_ASSERT_TRUE(i == 0 || p[i - 1] >= p[i]);
    }
    gm_head_logprobs(&gm_ref, row, FEW, FEW + 2, ids, p, sum);
    CU_ASSERT_EQUAL(ids[FEW], -1);
    CU_ASSERT_TRUE(isinf(p[FEW + 1]));
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("head", NULL, NULL);
    CU_add_test(suite, "against the definition", against_definition);
    CU_add_test(suite, "rows with NaN, infinity and bans", odd_rows);
    CU_add_test(suite, "more candidates than top_k gives", long_lists);
    CU_add_test(suite, "log-probabilities", logprobs);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
