// uses: services/sampler/noise.c services/sampler/pick.c services/sampler/deepmind.c
// uses: services/sampler/stop.c services/sampler/seq.c
/* test_sampler_run.c - runs along guesses give what the same tokens give one by one.
 *
 * Owns:      gm_seq_run against gm_seq_step over random parameters, candidates and guesses: ids,
 *            releases, log-probabilities, finishes, lists that prove nothing.
 * Does not:  look at single steps (test_sampler_seq.c). Random numbers come from fixed seeds.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <string.h>

#include "services/sampler/sampler.h"

enum { VOCAB = 12, SHORT = 3, PROMPT = 10, TOKENS_MAX = 60, TRIALS = 3000, TOPS = 2 };

static uint64_t state;

static uint32_t below(uint32_t n)
{
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) % n);
}

static const char *piece_of(const void *ctx, int32_t id, size_t *len)
{
    static const char *const text[VOCAB] = { "",  "a",  "b",  "ab", "ba", "c",
                                             "a", "bb", "aa", "",   "cb", "abc" };
    (void)ctx;
    *len = strlen(text[id]);
    return *len > 0 ? text[id] : NULL;
}

/* The distribution at a position: the same however it is asked. */
struct row {
    int32_t ids[VOCAB];
    float logits[VOCAB];
    struct gm_alt tops[TOPS];
    double lse_raw, lse_temp;
};
static struct row rows[TOKENS_MAX + GM_RUN_MAX];

static void rows_make(const struct gm_sampling *p)
{
    for (int i = 0; i < TOKENS_MAX + GM_RUN_MAX; i++) {
        struct row *r = &rows[i];
        double raw = 0.0, temp = 0.0;
        float logit = 4.0f;
        for (int32_t k = 0; k < VOCAB; k++) {
            const int32_t other = (int32_t)below((uint32_t)k + 1);
            r->ids[k] = r->ids[other];
            r->ids[other] = k;
        }
        for (int k = 0; k < VOCAB; k++) {
            r->logits[k] = logit -= 0.01f + (float)below(100) / 200.0f;
            raw += exp((double)logit);
            temp += exp((double)logit / (p->temperature > 0 ? (double)p->temperature : 1.0));
        }
        r->lse_raw = log(raw);
        r->lse_temp = log(temp);
        for (int k = 0; k < TOPS; k++)
            r->tops[k] = (struct gm_alt){ r->ids[k], (float)((double)r->logits[k] - r->lse_raw) };
    }
}

static struct gm_cands cands_at(uint32_t position, uint32_t n)
{
    const struct row *r = &rows[position - PROMPT];
    return (struct gm_cands){ .position = position,
                              .n = n,
                              .n_vocab = VOCAB,
                              .ids = r->ids,
                              .logits = r->logits,
                              .raw = r->logits,
                              .lse_raw = r->lse_raw,
                              .lse_temp = r->lse_temp,
                              .n_tops = TOPS,
                              .tops = r->tops };
}

static void params_make(struct gm_sampling *p)
{
    static const char *const stops[] = { "abba", "cc", "aab", "bcab" };
    gm_sampling_default(p);
    p->temperature = below(3) ? 0.8f : 0.0f;
    p->top_k = below(3) ? (int32_t)below(4) : 0;
    p->top_p = below(2) ? 0.9f : 1.0f;
    p->seed = below(1000);
    p->max_tokens = 1 + (int32_t)below(TOKENS_MAX);
    p->logprobs = (int32_t)below(4) - 1;
    p->ignore_eos = below(2);
    p->n_stops = below(3);
    for (uint32_t i = 0; i < p->n_stops; i++) {
        const char *text = stops[below(4)];
        p->stops[i].len = (uint16_t)strlen(text);
        memcpy(p->stops[i].bytes, text, p->stops[i].len);
    }
}

static struct gm_seq *seq_open(const struct gm_sampling *p)
{
    static const int32_t end_ids[] = { 0 };
    const struct gm_seq_args args = { .sampling = p,
                                      .end_ids = end_ids,
                                      .n_end = 1,
                                      .n_vocab = VOCAB,
                                      .prompt_len = PROMPT,
                                      .piece = piece_of };
    struct gm_outcome first;
    struct gm_seq *seq = NULL;
    CU_ASSERT_EQUAL_FATAL(gm_seq_open(&seq, &args, &first, NULL), GM_OK);
    return seq;
}

/* What a turn gave. */
struct turn {
    int32_t ids[TOKENS_MAX]; /* chosen */
    uint32_t n, n_released;
    struct gm_released released[TOKENS_MAX];
    struct gm_alt tops[TOKENS_MAX][TOPS];
    enum gm_finish finish;
};

static void take(struct turn *t, const struct gm_outcome *out)
{
    for (uint32_t i = 0; i < out->n_released; i++, t->n_released++) {
        CU_ASSERT_FATAL(t->n_released < TOKENS_MAX);
        t->released[t->n_released] = out->released[i];
        for (uint32_t k = 0; k < out->released[i].n_tops; k++)
            t->tops[t->n_released][k] = out->released[i].tops[k];
    }
    t->finish = out->finish;
    t->n = out->n_generated;
}

/* One by one. The last token's id is known only where the turn goes on, or from a longer turn. */
static void run_single(const struct gm_sampling *p, struct turn *t)
{
    struct gm_seq *seq = seq_open(p);
    struct gm_outcome out = { 0 };
    memset(t, 0, sizeof *t);
    do {
        const struct gm_cands c = cands_at(gm_seq_position(seq), VOCAB);
        CU_ASSERT_EQUAL_FATAL(gm_seq_step(seq, &c, &out, NULL), GM_OK);
        t->ids[out.n_generated - 1] = out.has_next ? out.next_id : -1;
        take(t, &out);
    } while (out.finish == GM_FINISH_NONE);
    gm_seq_close(&seq);
}

static uint32_t joined, asked_inside; /* runs of several tokens, lists asked again within one */

/* In runs, with guesses that are mostly what `want` chose. Returns the count of calls. */
static void run_joined(const struct gm_sampling *p, const struct turn *want, struct turn *t)
{
    struct gm_seq *seq = seq_open(p);
    struct gm_outcome out = { 0 };
    uint32_t need = 0;
    memset(t, 0, sizeof *t);
    do {
        struct gm_cands c[GM_RUN_MAX];
        int32_t drafts[GM_RUN_MAX];
        const uint32_t begin = gm_seq_position(seq), n = 1 + below(GM_RUN_MAX);
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t at = begin - PROMPT + i;
            c[i] = cands_at(begin + i, i == 0 && need > 0 ? need : SHORT);
            drafts[i] = i > 0 && at <= want->n && below(8) ? want->ids[at - 1] : 1;
        }
        CU_ASSERT_EQUAL_FATAL(gm_seq_run(seq, c, drafts, n, &out, NULL), GM_OK);
        const uint32_t moved = gm_seq_position(seq) - begin;
        CU_ASSERT(out.n_generated == begin + moved - PROMPT && moved <= n);
        CU_ASSERT(out.has_next == (out.finish == GM_FINISH_NONE && out.need == 0));
        if (out.has_next) {
            CU_ASSERT_EQUAL(out.next_position, begin + moved - 1);
            CU_ASSERT_EQUAL(out.next_id, want->ids[out.next_position - PROMPT]);
        }
        for (uint32_t i = 1; i < moved; i++)
            CU_ASSERT_EQUAL(drafts[i], want->ids[begin - PROMPT + i - 1]);
        need = out.need;
        joined += moved > 1;
        asked_inside += moved > 0 && need > 0;
        take(t, &out);
    } while (out.finish == GM_FINISH_NONE);
    gm_seq_close(&seq);
}

static bool same(const struct turn *a, const struct turn *b)
{
    if (a->n != b->n || a->n_released != b->n_released || a->finish != b->finish)
        return false;
    for (uint32_t i = 0; i < a->n_released; i++) {
        const struct gm_released *x = &a->released[i], *y = &b->released[i];
        if (x->id != y->id || x->position != y->position || x->has_logprob != y->has_logprob ||
            x->logprob != y->logprob || x->n_tops != y->n_tops)
            return false;
        for (uint32_t k = 0; k < x->n_tops; k++)
            if (a->tops[i][k].id != b->tops[i][k].id ||
                a->tops[i][k].logprob != b->tops[i][k].logprob)
                return false;
    }
    return true;
}

static void test_same_as_single(void)
{
    static struct gm_sampling p;
    static struct turn single, runs;
    uint32_t finishes[3] = { 0, 0, 0 };
    state = 1;
    for (int trial = 0; trial < TRIALS; trial++) {
        params_make(&p);
        rows_make(&p);
        run_single(&p, &single);
        run_joined(&p, &single, &runs);
        CU_ASSERT_TRUE_FATAL(same(&single, &runs));
        finishes[single.finish]++;
    }
    CU_ASSERT(joined > TRIALS / 2 && asked_inside > TRIALS / 20);
    CU_ASSERT(finishes[GM_FINISH_STOP] > TRIALS / 10 && finishes[GM_FINISH_LENGTH] > TRIALS / 10);
}

/* A bad row behind the first ends the run before it; a bad first row is the caller's failure. */
static void test_bad_row(void)
{
    static struct gm_sampling p;
    struct gm_outcome out;
    gm_sampling_default(&p);
    p.temperature = 0.0f;
    p.ignore_eos = true;
    state = 5;
    rows_make(&p);
    struct gm_seq *seq = seq_open(&p);
    struct gm_cands c[3] = { cands_at(PROMPT, VOCAB), cands_at(PROMPT + 1, VOCAB),
                             cands_at(PROMPT + 3, VOCAB) };
    const int32_t drafts[3] = { -1, rows[0].ids[0], rows[1].ids[0] };
    CU_ASSERT_EQUAL(gm_seq_run(seq, c, drafts, 3, &out, NULL), GM_OK);
    CU_ASSERT(out.n_generated == 2 && out.n_released == 2 && out.has_next);
    CU_ASSERT(out.next_position == PROMPT + 1 && out.next_id == rows[1].ids[0]);
    CU_ASSERT_EQUAL(gm_seq_run(seq, c, drafts, 3, &out, NULL), GM_ABORTED);
    c[0] = cands_at(PROMPT + 2, VOCAB);
    CU_ASSERT_EQUAL(gm_seq_run(seq, c, drafts, 1, &out, NULL), GM_OK);
    CU_ASSERT_EQUAL(out.n_generated, 3);
    gm_seq_close(&seq);
}

/* A stop string that stays half seen over thousands of tokens without text: the list of held ones
 * fills up and is let go, at the same place with runs of any length. */
static void test_held_limit(void)
{
    static struct gm_sampling p;
    struct gm_outcome out;
    gm_sampling_default(&p);
    p.temperature = 0.0f;
    p.max_tokens = GM_HELD_MAX + 100;
    p.n_stops = 1;
    p.stops[0].len = 2;
    memcpy(p.stops[0].bytes, "ab", 2);
    for (uint32_t wide = 1; wide <= GM_RUN_MAX; wide++) {
        struct gm_seq *seq = seq_open(&p);
        uint32_t released = 0, let_go = 0;
        do {
            struct gm_cands c[GM_RUN_MAX];
            int32_t drafts[GM_RUN_MAX];
            static const float logit = 1.0f;
            for (uint32_t i = 0; i < wide; i++) {
                const uint32_t at = gm_seq_position(seq) + i;
                static const int32_t a = 1, nothing = 9;
                c[i] = (struct gm_cands){ .position = at, .n = 1, .n_vocab = VOCAB };
                c[i].ids = at == PROMPT + 4 ? &a : &nothing;
                c[i].logits = c[i].raw = &logit;
                drafts[i] = at == PROMPT + 5 ? a : nothing;
            }
            CU_ASSERT_EQUAL_FATAL(gm_seq_run(seq, c, drafts, wide, &out, NULL), GM_OK);
            released += out.n_released;
            if (let_go == 0 && released > 4)
                let_go = released;
        } while (out.finish == GM_FINISH_NONE);
        CU_ASSERT(let_go >= 4 + GM_HELD_MAX && let_go < 4 + GM_HELD_MAX + wide);
        CU_ASSERT_EQUAL(released, GM_HELD_MAX + 100);
        gm_seq_close(&seq);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("sampler: runs", NULL, NULL);
    CU_add_test(suite, "the same as one by one", test_same_as_single);
    CU_add_test(suite, "bad rows", test_bad_row);
    CU_add_test(suite, "limit of held tokens", test_held_limit);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed > 0;
}
