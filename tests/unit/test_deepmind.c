// test_deepmind.c - DeepMind's sampling: JAX's noise and the choices of the `gemma` package.
//
// Owns:      the generator, the four methods against golden/deepmind.txt, lists that are too short.
// Does not:  stand up the service (test_sampler.c) or JAX (tests/golden/make_deepmind.py does).
// uses: services/sampler/deepmind.c services/sampler/pick.c services/sampler/noise.c
// uses: services/sampler/seq.c services/sampler/stop.c
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/sampler/deepmind.h"

enum { VOCAB_MAX = 20000, STEPS = 24, LINE_MAX_BYTES = 4096 };

/* ---- the generator --------------------------------------------------------------------------- */

/* Threefry-2x32-20's published known answers (Random123's kat_vectors). */
static void test_threefry(void)
{
    static const uint32_t kat[3][6] = {
        { 0, 0, 0, 0, 0x6b200159u, 0x99ba4efeu },
        { 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0x1cb996fcu, 0xbb002be7u },
        { 0x13198a2eu, 0x03707344u, 0x243f6a88u, 0x85a308d3u, 0xc4923a9cu, 0x483df7a0u },
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[2];
        gm_dm_threefry(out, kat[i], kat[i] + 2);
        CU_ASSERT_EQUAL(out[0], kat[i][4]);
        CU_ASSERT_EQUAL(out[1], kat[i][5]);
    }
}

/* The numbers of JAX's own documentation. */
static void test_published(void)
{
    const uint32_t key[2] = { 0, 0 };
    struct gm_dm_chain chain;
    uint32_t current[2];
    gm_dm_chain_start(&chain, 0);
    gm_dm_chain_key(&chain, 0, 0, current);
    CU_ASSERT_DOUBLE_EQUAL(gm_dm_uniform(key, 0), 0.947667, 5e-7);
    CU_ASSERT_DOUBLE_EQUAL(gm_dm_uniform(current, 0), 0.00729382, 5e-9);
}

static void test_chain_in_any_order(void)
{
    struct gm_dm_chain chain, fresh;
    uint32_t a[2], b[2];
    static const uint32_t steps[] = { 5, 6, 6, 2, 300, 0, 299 };
    gm_dm_chain_start(&chain, 77);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        gm_dm_chain_start(&fresh, 77);
        gm_dm_chain_key(&chain, 77, steps[i], a);
        gm_dm_chain_key(&fresh, 77, steps[i], b);
        CU_ASSERT_EQUAL(memcmp(a, b, sizeof a), 0);
    }
}

static void test_noise_is_bounded(void)
{
    const uint32_t key[2] = { 3, 4 };
    float low = 1.0f, high = 0.0f;
    for (uint32_t i = 0; i < 100000; i++) {
        const float u = gm_dm_uniform(key, i), g = gm_dm_gumbel(key, i);
        low = u < low ? u : low;
        high = u > high ? u : high;
        if (!(g > -4.48f && g < GM_DM_GUMBEL_MAX))
            CU_FAIL("noise out of range");
    }
    CU_ASSERT(low > 0.0f && low < 0.001f && high < 1.0f && high > 0.999f);
    CU_ASSERT(-logf(-logf(1.0f - 0x1p-23f)) < GM_DM_GUMBEL_MAX);
}

/* ---- choices --------------------------------------------------------------------------------- */

/* A vocabulary's logits, and all of its candidates in order. */
struct world {
    uint32_t n;
    float logits[VOCAB_MAX];
    int32_t order[VOCAB_MAX];
    float sorted[VOCAB_MAX];
};
static struct world w;

static int by_logit(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    if (w.logits[x] != w.logits[y])
        return w.logits[x] < w.logits[y] ? 1 : -1;
    return x - y;
}

/* logits_of of make_deepmind.py. */
static void world_make(uint32_t n, const char *shape, uint32_t step)
{
    w.n = n;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t h = i * 2654435761u + step * 40503u;
        h *= 2u * h + 1u;
        const uint32_t level = h >> 21;
        w.logits[i] = strcmp(shape, "flat") == 0   ? (float)level / 1024.0f
                      : strcmp(shape, "ties") == 0 ? (float)(level / 256)
                                                   : (float)level / 64.0f;
        w.order[i] = (int32_t)i;
    }
    qsort(w.order, n, sizeof *w.order, by_logit);
    for (uint32_t i = 0; i < n; i++)
        w.sorted[i] = w.logits[w.order[i]];
}

static double lse_at(double temperature)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < w.n; i++)
        sum += exp((double)(w.sorted[i] - w.sorted[0]) / temperature);
    return (double)w.sorted[0] / temperature + log(sum);
}

/* Chooses from a list of `first` candidates that grows as it is asked to; *lists counts them. */
static int32_t choose(const struct gm_sampling *p, const uint32_t key[2], uint32_t first,
                      int *lists)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_cands c = { .position = 5,
                          .n = first < w.n ? first : w.n,
                          .n_vocab = w.n,
                          .ids = w.order,
                          .logits = w.sorted };
    c.lse_temp = p->temperature > 0.0f ? lse_at((double)p->temperature) : 0.0;
    for (*lists = 1; *lists < 20; ++*lists) {
        struct gm_pick out;
        if (gm_dm_pick(&c, p, key, &out, &err) != GM_OK)
            return -2;
        if (out.need == 0) {
            CU_ASSERT_EQUAL(out.id, w.order[out.index]);
            return out.id;
        }
        if (out.need <= c.n || out.need > w.n)
            return -3;
        c.n = out.need;
    }
    return -4;
}

static bool sampling_of(struct gm_sampling *p, const char *method, double param, double t)
{
    const bool k = strcmp(method, "topk") == 0, tp = strcmp(method, "topp") == 0;
    const struct gm_sampling_given given = { strcmp(method, "greedy") != 0, k, tp };
    gm_sampling_default(p);
    p->temperature = (float)t;
    if (k)
        p->top_k = (int32_t)param;
    if (tp)
        p->top_p = (float)param;
    return gm_sampling_deepmind(p, &given, NULL) == GM_OK;
}

/* One line "turn METHOD PARAM T SEED VOCAB SHAPE : IDS", with short and whole lists. */
static int check_turn(const char *line)
{
    char method[16], shape[16];
    double param, t;
    unsigned long long seed;
    unsigned vocab;
    int at = 0, wrong = 0, lists;
    static struct gm_sampling p;
    if (sscanf(line, "turn %15s %lf %lf %llu %u %15s : %n", method, &param, &t, &seed, &vocab,
               shape, &at) != 6 ||
        vocab > VOCAB_MAX || !sampling_of(&p, method, param, t))
        return 1000;
    struct gm_dm_chain chain;
    gm_dm_chain_start(&chain, seed);
    char *next = (char *)(uintptr_t)line + at;
    for (uint32_t step = 0; step < STEPS; step++) {
        uint32_t key[2];
        char *end;
        const long want = strtol(next, &end, 10);
        if (end == next)
            return 1000;
        next = end;
        world_make(vocab, shape, step);
        gm_dm_chain_key(&chain, seed, step, key);
        wrong += choose(&p, key, 8, &lists) != want;
        wrong += choose(&p, key, vocab, &lists) != want;
        CU_ASSERT_EQUAL(lists, 1);
    }
    if (wrong)
        printf("%d wrong: %.60s\n", wrong, line);
    return wrong;
}

static uint32_t bits_of(float x)
{
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

/* Uniforms have the same bits; the logarithms of XLA may be an ulp away from the right one. */
static int check_draw(const char *line)
{
    char what[16];
    unsigned long long seed;
    unsigned splits, index, bits;
    uint32_t key[2];
    struct gm_dm_chain chain;
    if (sscanf(line, "%15s %llu %u %u %x", what, &seed, &splits, &index, &bits) != 5)
        return 1000;
    gm_dm_chain_start(&chain, seed);
    gm_dm_chain_key(&chain, seed, splits, key);
    if (strcmp(what, "uniform") == 0)
        return bits_of(gm_dm_uniform(key, index)) != bits;
    const uint32_t got = bits_of(gm_dm_gumbel(key, index));
    return (got > bits ? got - bits : bits - got) > 2;
}

static int check_key(const char *line)
{
    unsigned long long seed;
    unsigned step, hi, lo;
    uint32_t key[2];
    struct gm_dm_chain chain;
    if (sscanf(line, "key %llu %u %u %u", &seed, &step, &hi, &lo) != 4)
        return 1000;
    gm_dm_chain_start(&chain, seed);
    gm_dm_chain_key(&chain, seed, step, key);
    return key[0] != hi || key[1] != lo;
}

static void test_golden(void)
{
    char line[LINE_MAX_BYTES];
    int turns = 0, draws = 0, keys = 0, wrong = 0;
    FILE *f = fopen("tests/golden/deepmind.txt", "r");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "turn ", 5) == 0) {
            wrong += check_turn(line);
            turns++;
        } else if (strncmp(line, "key ", 4) == 0) {
            wrong += check_key(line);
            keys++;
        } else {
            wrong += check_draw(line);
            draws++;
        }
    }
    fclose(f);
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT(turns >= 100 && draws >= 80 && keys >= 20);
}

/* ---- edges ----------------------------------------------------------------------------------- */

static void test_forbidden_never_win(void)
{
    static struct gm_sampling p;
    int lists;
    sampling_of(&p, "random", 0, 100.0);
    for (uint32_t i = 0; i < 200; i++) {
        const uint32_t key[2] = { i, 9 };
        world_make(300, "ties", i);
        for (uint32_t k = 5; k < w.n; k++)
            w.sorted[k] = -INFINITY;
        qsort(w.order + 5, w.n - 5, sizeof *w.order, by_logit);
        const int32_t id = choose(&p, key, 16, &lists);
        bool live = false;
        for (int k = 0; k < 5; k++)
            live |= id == w.order[k];
        CU_ASSERT_TRUE(live);
    }
}

/* The short list is not always enough: the proof is exercised, not skipped. */
static void test_short_lists_grow(void)
{
    static struct gm_sampling p;
    int grown = 0, lists;
    sampling_of(&p, "random", 0, 1.0);
    world_make(20000, "flat", 1);
    for (uint32_t i = 0; i < 50; i++) {
        const uint32_t key[2] = { 1, i };
        int whole;
        const int32_t a = choose(&p, key, 8, &lists);
        grown += lists > 1;
        CU_ASSERT_EQUAL(a, choose(&p, key, w.n, &whole));
    }
    CU_ASSERT(grown > 25);
}

/* Two tokens whose scores are the same float: the lower id wins, whichever is listed first. */
static void test_equal_scores(void)
{
    static struct gm_sampling p;
    int equal = 0, lists;
    sampling_of(&p, "random", 0, 1.0);
    for (uint32_t i = 0; i < 400; i++) {
        const uint32_t key[2] = { 11, i };
        const float g0 = gm_dm_gumbel(key, 0), g1 = gm_dm_gumbel(key, 1);
        w.n = 2;
        w.logits[0] = 4.0f;
        w.logits[1] = 4.0f + g0 - g1;
        if (w.logits[0] + g0 != w.logits[1] + g1)
            continue;
        w.order[0] = w.logits[1] > w.logits[0];
        w.order[1] = !w.order[0];
        w.sorted[0] = w.logits[w.order[0]];
        w.sorted[1] = w.logits[w.order[1]];
        CU_ASSERT_EQUAL(choose(&p, key, 2, &lists), 0);
        equal += w.order[0] == 1;
    }
    CU_ASSERT(equal > 50);
}

/* A sequence asks with the key of its step, and one that is resumed goes on alike. */
static const char *piece(const void *ctx, int32_t id, size_t *len)
{
    (void)ctx;
    (void)id;
    *len = 1;
    return "x";
}

static int32_t seq_step(struct gm_seq *q, uint32_t step)
{
    struct gm_outcome out;
    struct gm_err err = GM_ERR_NONE;
    world_make(1000, "peaked", step);
    const struct gm_cands c = {
        .position = gm_seq_position(q), .n = w.n, .n_vocab = w.n, .ids = w.order, .logits = w.sorted
    };
    if (gm_seq_step(q, &c, &out, &err) != GM_OK || !out.has_next)
        return -1;
    return out.next_id;
}

static void test_resumed_sequence(void)
{
    static struct gm_sampling p;
    int32_t ids[STEPS];
    struct gm_outcome first;
    struct gm_err err = GM_ERR_NONE;
    sampling_of(&p, "random", 0, 1.5);
    p.seed = 42;
    for (uint32_t done = 0; done < STEPS; done += 5) {
        struct gm_seq *q = NULL;
        const struct gm_seq_args args = { .sampling = &p,
                                          .n_vocab = 1000,
                                          .prompt_len = 3 + done * 7, /* must not matter */
                                          .done = ids,
                                          .n_done = done,
                                          .piece = piece };
        CU_ASSERT_EQUAL_FATAL(gm_seq_open(&q, &args, &first, &err), GM_OK);
        for (uint32_t i = done; i < STEPS; i++) {
            const int32_t id = seq_step(q, i);
            CU_ASSERT(id >= 0);
            if (done == 0)
                ids[i] = id;
            CU_ASSERT_EQUAL(id, ids[i]);
        }
        gm_seq_close(&q);
    }
    struct gm_dm_chain chain;
    uint32_t key[2];
    int lists;
    gm_dm_chain_start(&chain, p.seed);
    for (uint32_t i = 0; i < STEPS; i++) {
        gm_dm_chain_key(&chain, p.seed, i, key);
        world_make(1000, "peaked", i);
        CU_ASSERT_EQUAL(ids[i], choose(&p, key, w.n, &lists));
    }
}

static void test_refused(void)
{
    static struct gm_sampling p;
    struct gm_err err = GM_ERR_NONE;
    struct gm_sampling_given given = { 0 };
#define REFUSED(words, ...)                                                                        \
    do {                                                                                           \
        gm_sampling_default(&p);                                                                   \
        given = (struct gm_sampling_given){ 0 };                                                   \
        __VA_ARGS__;                                                                               \
        CU_ASSERT_EQUAL(gm_sampling_deepmind(&p, &given, &err), GM_INVALID);                       \
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, words));                                           \
    } while (0)
    REFUSED("temperature 0 divides", p.temperature = 0.0f, given.temperature = true);
    REFUSED("top_p beside top_k", p.top_k = 5, p.top_p = 0.5f, given.top_k = given.top_p = true);
    REFUSED("no min_p", p.min_p = 0.1f);
    REFUSED("no repeat_penalty", p.repeat_penalty = 1.1f);
    REFUSED("no presence_penalty", p.presence_penalty = 0.5f);
    REFUSED("no frequency_penalty", p.frequency_penalty = -0.5f);
    REFUSED("token 3 has 2", p.n_bias = 1, p.bias[0] = (struct gm_bias){ 3, 2.0f });
#undef REFUSED
    gm_sampling_default(&p);
    given = (struct gm_sampling_given){ 0 };
    p.n_bias = 1;
    p.bias[0] = (struct gm_bias){ 3, -10000.0f };
    CU_ASSERT_EQUAL(gm_sampling_deepmind(&p, &given, &err), GM_OK);
    CU_ASSERT(isinf(p.bias[0].value) && p.temperature == 0.0f && p.top_k == 0 && p.top_p == 1.0f);
    p.rules = 7;
    CU_ASSERT_EQUAL(gm_sampling_check(&p, &err), GM_INVALID);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite("deepmind", NULL, NULL);
    if (!suite || !CU_add_test(suite, "Threefry's published answers", test_threefry) ||
        !CU_add_test(suite, "JAX's documented numbers", test_published) ||
        !CU_add_test(suite, "keys of steps in any order", test_chain_in_any_order) ||
        !CU_add_test(suite, "noise is bounded", test_noise_is_bounded) ||
        !CU_add_test(suite, "what the gemma package chooses", test_golden) ||
        !CU_add_test(suite, "forbidden tokens never win", test_forbidden_never_win) ||
        !CU_add_test(suite, "equal scores", test_equal_scores) ||
        !CU_add_test(suite, "short lists grow", test_short_lists_grow) ||
        !CU_add_test(suite, "a resumed sequence", test_resumed_sequence) ||
        !CU_add_test(suite, "what is refused", test_refused))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
