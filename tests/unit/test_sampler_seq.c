// uses: services/sampler/noise.c services/sampler/pick.c services/sampler/deepmind.c
// uses: services/sampler/stop.c services/sampler/seq.c
/* test_sampler_seq.c - sequences: stop strings, hold-back, resumes, finishes, log-probabilities.
 *
 * Owns:      stop strings against brute force with a resume at every split point, the limits of
 *            what is held, log-probabilities, bad arguments and bad candidates.
 * Does not:  look at how one token is chosen (test_sampler.c). Every random number comes from
 *            fixed seeds.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/sampler/sampler.h"

enum { STEPS_MAX = 5000 };

static uint64_t random_state = 1;

static uint32_t below(uint32_t n) /* splitmix64; has nothing to do with the noise under test */
{
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) % n);
}

/* ---- sequences --------------------------------------------------------------------------------
 */

enum { PIECES_MAX = 16, PROMPT = 10, END_ID = 0 };

/* A small vocabulary; id 0 is the end token, and control tokens have no text. */
static struct {
    uint32_t n;
    const char *text[PIECES_MAX];
} pieces;

static const char *piece_of(const void *ctx, int32_t id, size_t *len)
{
    (void)ctx;
    *len = strlen(pieces.text[id]);
    return *len > 0 ? pieces.text[id] : NULL;
}

static struct gm_sampling greedy_params(int32_t max_tokens)
{
    struct gm_sampling p;
    gm_sampling_default(&p);
    p.temperature = 0.0f;
    p.max_tokens = max_tokens;
    return p;
}

static void add_stop(struct gm_sampling *p, const char *text)
{
    struct gm_stop *s = &p->stops[p->n_stops++];
    s->len = (uint16_t)strlen(text);
    memcpy(s->bytes, text, s->len);
}

static struct gm_seq *open_seq(const struct gm_sampling *p, const int32_t *done, uint32_t n_done,
                               struct gm_outcome *first)
{
    static const int32_t end_ids[] = { END_ID };
    const struct gm_seq_args args = { .sampling = p,
                                      .end_ids = end_ids,
                                      .n_end = 1,
                                      .n_vocab = pieces.n,
                                      .prompt_len = PROMPT,
                                      .done = done,
                                      .n_done = n_done,
                                      .piece = piece_of };
    struct gm_seq *seq;
    struct gm_err err = GM_ERR_NONE;
    if (gm_seq_open(&seq, &args, first, &err) != GM_OK)
        printf("\n    %s\n", err.text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(seq);
    return seq;
}

/* Greedy step to a token of our choice. */
static struct gm_outcome step_to(struct gm_seq *seq, int32_t id)
{
    const float logit = 1.0f;
    const struct gm_cands c = { .position = gm_seq_position(seq),
                                .n = 1,
                                .n_vocab = pieces.n,
                                .ids = &id,
                                .logits = &logit,
                                .raw = &logit,
                                .lse_raw = 2.0 };
    struct gm_outcome out;
    CU_ASSERT_EQUAL_FATAL(gm_seq_step(seq, &c, &out, NULL), GM_OK);
    CU_ASSERT(out.has_next == (out.finish == GM_FINISH_NONE));
    CU_ASSERT(!out.has_next || (out.next_id == id && out.next_position == c.position));
    return out;
}

/* What a whole run of given tokens led to. */
struct run {
    uint32_t n;                       /* tokens taken until the finish, or all */
    uint32_t released[STEPS_MAX + 1]; /* tokens released in all after so many were taken */
    enum gm_finish finish;
};

/* Every release continues at the next position with the right id. */
static uint32_t check_release(const struct gm_outcome *out, const int32_t *ids, uint32_t have)
{
    for (uint32_t i = 0; i < out->n_released; i++) {
        CU_ASSERT_FATAL(out->released[i].position == PROMPT + have + i);
        CU_ASSERT_FATAL(out->released[i].id == ids[have + i]);
    }
    return have + out->n_released;
}

/* Takes ids[from..n) after a resume from ids[0..from); `have` are released before. */
static struct run run_ids(const struct gm_sampling *p, const int32_t *ids, uint32_t n,
                          uint32_t from, uint32_t have)
{
    static struct run r;
    struct gm_outcome out;
    struct gm_seq *seq = open_seq(p, ids, from, &out);
    memset(&r, 0, sizeof r);
    r.n = from;
    CU_ASSERT_FALSE(out.has_next);
    CU_ASSERT(out.finish != GM_FINISH_NONE || out.n_released == 0); /* the client has those */
    /* Resumed tokens that ended the turn: what that released comes again, so start there. */
    if (out.n_released > 0)
        have = out.released[0].position - PROMPT;
    have = check_release(&out, ids, have);
    r.released[r.n] = have;
    while (r.n < n && out.finish == GM_FINISH_NONE) {
        out = step_to(seq, ids[r.n]);
        have = check_release(&out, ids, have);
        r.released[++r.n] = have;
        CU_ASSERT_EQUAL(out.n_generated, r.n);
    }
    r.finish = out.finish;
    gm_seq_close(&seq);
    CU_ASSERT_PTR_NULL(seq);
    return r;
}

/* The same by brute force over the text. */
static struct run slow_run(const struct gm_sampling *p, const int32_t *ids, uint32_t n)
{
    static struct run r;
    static char text[STEPS_MAX * 8];
    static size_t ends[STEPS_MAX];
    size_t len = 0;
    memset(&r, 0, sizeof r);
    while (r.n < n && r.finish == GM_FINISH_NONE) {
        const int32_t id = ids[r.n];
        const char *piece = pieces.text[id];
        const bool end = id == END_ID && !p->ignore_eos;
        size_t safe = SIZE_MAX;
        for (; *piece && r.finish == GM_FINISH_NONE; piece++) {
            text[len++] = *piece;
            safe = len;
            for (uint32_t s = 0; s < p->n_stops; s++) {
                const size_t k = p->stops[s].len;
                if (k <= len && memcmp(text + len - k, p->stops[s].bytes, k) == 0) {
                    r.finish = GM_FINISH_STOP;
                    safe = len - k < safe ? len - k : safe;
                }
            }
        }
        ends[r.n++] = len;
        const bool matched = r.finish == GM_FINISH_STOP;
        if (!matched) /* the longest end of the text that begins a stop string */
            for (safe = len - (len < 255 ? len : 255); safe < len; safe++) {
                bool begins = false;
                for (uint32_t s = 0; s < p->n_stops; s++)
                    begins |= p->stops[s].len > len - safe &&
                              memcmp(text + safe, p->stops[s].bytes, len - safe) == 0;
                if (begins)
                    break;
            }
        if (!matched && end) {
            r.finish = GM_FINISH_STOP;
            r.released[r.n] = r.n - 1;
        } else if (!matched && r.n == (uint32_t)p->max_tokens) {
            r.finish = GM_FINISH_LENGTH;
            r.released[r.n] = r.n;
        } else {
            while (r.released[r.n] < r.n && ends[r.released[r.n]] <= safe)
                r.released[r.n]++;
        }
    }
    return r;
}

/* One run, then a resume at every split point; all must agree with brute force. */
static void check_run(const struct gm_sampling *p, const int32_t *ids, uint32_t n)
{
    const struct run want = slow_run(p, ids, n);
    for (uint32_t from = 0; from <= want.n; from++) {
        const struct run got = run_ids(p, ids, n, from, want.released[from]);
        CU_ASSERT_EQUAL(got.finish, want.finish);
        CU_ASSERT_EQUAL_FATAL(got.n, want.n);
        for (uint32_t i = from; i <= want.n; i++)
            CU_ASSERT_EQUAL(got.released[i], want.released[i]);
    }
}

#define SET_PIECES(...)                                                                            \
    do {                                                                                           \
        const char *const list[] = { __VA_ARGS__ };                                                \
        pieces.n = sizeof list / sizeof list[0];                                                   \
        memcpy(pieces.text, list, sizeof list);                                                    \
    } while (0)

/* Tokens released when `ids` run with these stop strings; -1 - that number at a stop. */
static int released_with(const char *stop1, const char *stop2, const int32_t *ids, uint32_t n)
{
    struct gm_sampling p = greedy_params(1000);
    add_stop(&p, stop1);
    if (stop2)
        add_stop(&p, stop2);
    check_run(&p, ids, n);
    const struct run r = run_ids(&p, ids, n, 0, 0);
    return r.finish == GM_FINISH_STOP ? -1 - (int)r.released[r.n] : (int)r.released[r.n];
}
#define IDS(...) (const int32_t[]){ __VA_ARGS__ }, sizeof((const int32_t[]){ __VA_ARGS__ }) / 4

static void test_stops(void)
{
    SET_PIECES("", "Hi there\n", "\nUs", "er: x", "a", "b", "ab", "", "\xC3", "\xA9", "\xF0\x9F",
               "\x98\x80!", "aab", "U");
    /* The whole tokens that carry the string are cut, the text before it in the first too. */
    CU_ASSERT_EQUAL(released_with("\n\nUser:", NULL, IDS(4, 1, 2, 3, 5)), -1 - 1);
    CU_ASSERT_EQUAL(released_with("User:", NULL, IDS(4, 1, 2, 3, 5)), -1 - 2);
    /* Hold-back: the beginning of a string, and no more than that. */
    CU_ASSERT_EQUAL(released_with("\n\nUser:", NULL, IDS(4, 1)), 1);
    CU_ASSERT_EQUAL(released_with("\n\nUser:", NULL, IDS(4, 1, 4)), 3);
    CU_ASSERT_EQUAL(released_with("aab", NULL, IDS(4, 4, 4, 4)), 2);
    CU_ASSERT_EQUAL(released_with("aab", NULL, IDS(4, 4, 4, 4, 5)), -1 - 2);
    CU_ASSERT_EQUAL(released_with("abab", NULL, IDS(6, 5, 6, 4, 5)), -1 - 2);
    CU_ASSERT_EQUAL(released_with("aabaaab", "ba", IDS(4, 12, 4)), -1 - 1);
    /* The first to end counts; of those that end together the longest. */
    CU_ASSERT_EQUAL(released_with("b", "aab", IDS(5, 4, 4, 5)), -1 - 0);
    CU_ASSERT_EQUAL(released_with("b", "aab", IDS(4, 4, 4, 5)), -1 - 1);
    CU_ASSERT_EQUAL(released_with("aab", "b", IDS(4, 4, 4, 5)), -1 - 1);
    /* Bytes of one character in several tokens. */
    CU_ASSERT_EQUAL(released_with("\xC3\xA9", NULL, IDS(4, 8, 9)), -1 - 1);
    CU_ASSERT_EQUAL(released_with("\xC3\xA9", NULL, IDS(4, 8, 8, 4)), 4);
    CU_ASSERT_EQUAL(released_with("\xF0\x9F\x98\x80", NULL, IDS(4, 10, 11)), -1 - 1);
    /* Control tokens have no text: they neither break a string nor begin one. */
    CU_ASSERT_EQUAL(released_with("ab", NULL, IDS(7, 4, 7, 7, 5)), -1 - 1);
    CU_ASSERT_EQUAL(released_with("ab", NULL, IDS(7, 4, 7)), 1);
    /* The end token lets go of what is held. */
    CU_ASSERT_EQUAL(released_with("ab", NULL, IDS(5, 4, END_ID)), -1 - 2);
}

static void test_stops_random(void)
{
    SET_PIECES("", "a", "b", "ab", "ba", "aab", "", "bbb");
    random_state = 14;
    for (int round = 0; round < 1500; round++) {
        struct gm_sampling p = greedy_params(1 + (int32_t)below(60));
        const uint32_t n_stops = below(4);
        int32_t ids[64];
        p.ignore_eos = below(2);
        for (uint32_t s = 0; s < n_stops; s++) {
            char text[10] = "";
            for (uint32_t i = 0, len = 1 + below(9); i < len; i++)
                text[i] = below(2) ? 'a' : 'b';
            add_stop(&p, text);
        }
        for (uint32_t i = 0; i < 64; i++)
            ids[i] = below(20) ? (int32_t)(1 + below(pieces.n - 1)) : END_ID;
        check_run(&p, ids, 64);
    }
}

/* More tokens than may be held: the half-seen string is given up, on every rebuild alike. */
static void test_held_limit(void)
{
    static int32_t ids[STEPS_MAX];
    SET_PIECES("", "a", "b", "");
    struct gm_sampling p = greedy_params(STEPS_MAX);
    add_stop(&p, "ab");
    for (int i = 0; i < STEPS_MAX; i++)
        ids[i] = 3;
    ids[0] = 1;
    ids[STEPS_MAX - 3] = 2;
    ids[STEPS_MAX - 2] = 1;
    const struct run whole = run_ids(&p, ids, STEPS_MAX - 1, 0, 0);
    CU_ASSERT_EQUAL(whole.finish, GM_FINISH_NONE);
    CU_ASSERT_EQUAL(whole.released[GM_HELD_MAX - 1], 0);
    CU_ASSERT_EQUAL(whole.released[GM_HELD_MAX], GM_HELD_MAX);
    CU_ASSERT_EQUAL(whole.released[STEPS_MAX - 2], STEPS_MAX - 2);
    CU_ASSERT_EQUAL(whole.released[STEPS_MAX - 1], STEPS_MAX - 2);
    for (uint32_t from = GM_HELD_MAX - 1; from <= GM_HELD_MAX + 1; from++) {
        const uint32_t have = from < GM_HELD_MAX ? 0 : from;
        const struct run r = run_ids(&p, ids, STEPS_MAX - 1, from, have);
        CU_ASSERT_EQUAL(r.released[STEPS_MAX - 1], STEPS_MAX - 2);
    }
}

/* ---- sampled sequences ------------------------------------------------------------------------
 */

enum { WIDE = 40 };

/* Candidates that depend on the position alone, as a model's would on the tokens before it. */
struct model {
    int32_t ids[WIDE];
    float logits[WIDE], raw[WIDE];
    struct gm_alt tops[GM_LOGPROBS_MAX];
    struct gm_cands c;
};

static const struct gm_cands *ask(struct model *m, uint32_t position, uint32_t k)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < WIDE; i++) {
        m->ids[i] = (int32_t)((i * 7 + position) % WIDE);
        m->logits[i] = -0.05f * (float)i;
        m->raw[i] = m->logits[i] + 0.25f;
        sum += exp((double)m->logits[i]);
    }
    for (uint32_t i = 0; i < GM_LOGPROBS_MAX; i++)
        m->tops[i] = (struct gm_alt){ (int32_t)position, -(float)i };
    m->c = (struct gm_cands){ .position = position,
                              .n = k < WIDE ? k : WIDE,
                              .n_vocab = WIDE,
                              .ids = m->ids,
                              .logits = m->logits,
                              .raw = m->raw,
                              .lse_raw = log(sum) + 0.25,
                              .lse_temp = log(sum),
                              .n_tops = GM_LOGPROBS_MAX,
                              .tops = m->tops };
    return &m->c;
}

static const char *letter_of(const void *ctx, int32_t id, size_t *len)
{
    *len = 1;
    return (const char *)ctx + id;
}

static struct gm_seq_args letter_args(const struct gm_sampling *p)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN";
    static const int32_t end_ids[] = { WIDE - 1 };
    return (struct gm_seq_args){ .sampling = p,
                                 .end_ids = end_ids,
                                 .n_end = 1,
                                 .n_vocab = WIDE,
                                 .prompt_len = PROMPT,
                                 .piece = letter_of,
                                 .piece_ctx = letters };
}

/* Goes on to the end, asking for more where told; chosen ids from `from` on. */
static uint32_t sample_all(const struct gm_sampling *p, int32_t *ids, uint32_t from)
{
    static struct model m;
    struct gm_seq_args args = letter_args(p);
    struct gm_outcome out;
    struct gm_seq *seq;
    uint32_t n = from, k = 2;
    args.done = ids;
    args.n_done = from;
    CU_ASSERT_EQUAL_FATAL(gm_seq_open(&seq, &args, &out, NULL), GM_OK);
    while (out.finish == GM_FINISH_NONE) {
        const struct gm_cands *c = ask(&m, gm_seq_position(seq), k);
        CU_ASSERT_EQUAL_FATAL(gm_seq_step(seq, c, &out, NULL), GM_OK);
        k = out.need > 0 ? out.need : 2;
        for (uint32_t i = 0; i < out.n_released; i++) {
            const struct gm_released *t = &out.released[i];
            const bool resumed = t->position < PROMPT + from;
            CU_ASSERT_EQUAL(t->has_logprob, !resumed);
            CU_ASSERT_EQUAL(t->n_tops, resumed ? 0u : (uint32_t)p->logprobs);
            for (uint32_t j = 0; j < t->n_tops; j++) /* the token's own list, not a neighbour's */
                CU_ASSERT(t->tops[j].id == (int32_t)t->position && t->tops[j].logprob == -(float)j);
            if (!resumed) {
                const int32_t place =
                    (int32_t)(((uint32_t)t->id + WIDE - t->position % WIDE) * 23 % WIDE);
                CU_ASSERT_DOUBLE_EQUAL(t->logprob, (double)m.raw[place] - m.c.lse_raw, 1e-5);
            }
        }
        if (out.has_next)
            ids[n++] = out.next_id;
    }
    gm_seq_close(&seq);
    return n;
}

static void test_sampled_resume(void)
{
    struct gm_sampling p = greedy_params(60);
    p.temperature = 1.0f;
    p.top_k = 0;
    p.top_p = 1.0f;
    p.logprobs = 5;
    for (int i = 0; i < 8; i++)
        add_stop(&p, (const char *[]){ "ax", "bcd", "cq", "de", "eqr", "fg", "gh", "hz" }[i]);
    for (p.seed = 0; p.seed < 40; p.seed++) {
        int32_t whole[64] = { 0 }, again[64];
        const uint32_t n = sample_all(&p, whole, 0);
        for (uint32_t from = 0; from <= n; from++) {
            memset(again, 0xff, sizeof again);
            memcpy(again, whole, from * sizeof whole[0]);
            CU_ASSERT_EQUAL(sample_all(&p, again, from), n);
            CU_ASSERT(memcmp(again, whole, n * sizeof whole[0]) == 0);
        }
    }
}

static void test_finishes(void)
{
    struct gm_outcome out;
    SET_PIECES("", "a", "b");
    struct gm_sampling p = greedy_params(3);
    p.ignore_eos = true; /* then an end token is a token like others */
    struct gm_seq *seq = open_seq(&p, NULL, 0, &out);
    CU_ASSERT_EQUAL(out.finish, GM_FINISH_NONE);
    out = step_to(seq, END_ID);
    CU_ASSERT(out.n_released == 1 && out.released[0].id == END_ID);
    CU_ASSERT_FALSE(out.released[0].has_logprob); /* not asked for */
    (void)step_to(seq, 1);
    out = step_to(seq, END_ID);
    CU_ASSERT(out.finish == GM_FINISH_LENGTH && out.n_generated == 3 && out.n_released == 1);
    const int32_t id = 1;
    const float logit = 0.0f;
    const struct gm_cands c = {
        .position = PROMPT + 3, .n = 1, .n_vocab = 3, .ids = &id, .logits = &logit
    };
    CU_ASSERT_EQUAL(gm_seq_step(seq, &c, &out, NULL), GM_PRECONDITION);
    gm_seq_close(&seq);
    gm_seq_close(&seq);

    /* A resume counts towards max_tokens, and may find the turn finished. */
    p = greedy_params(3);
    seq = open_seq(&p, IDS(1, 2), &out);
    out = step_to(seq, 1);
    CU_ASSERT(out.finish == GM_FINISH_LENGTH && out.released[0].position == PROMPT + 2);
    gm_seq_close(&seq);
    seq = open_seq(&p, IDS(1, END_ID), &out);
    CU_ASSERT(out.finish == GM_FINISH_STOP && out.n_released == 0);
    gm_seq_close(&seq);
}

/* A step that fails leaves the sequence as it was. */
static enum gm_status step_with(struct gm_seq *seq, struct gm_cands c)
{
    struct gm_outcome out;
    const uint32_t position = gm_seq_position(seq);
    const enum gm_status rc = gm_seq_step(seq, &c, &out, NULL);
    CU_ASSERT(rc == GM_OK || gm_seq_position(seq) == position);
    CU_ASSERT(rc == GM_OK || (!out.has_next && out.n_released == 0));
    return rc;
}

static void test_bad_candidates(void)
{
    static struct model m;
    struct gm_sampling p = greedy_params(50);
    p.temperature = 1.0f;
    p.top_k = 8;
    p.logprobs = 64;
    const struct gm_seq_args args = letter_args(&p);
    struct gm_outcome out;
    struct gm_seq *seq;
    CU_ASSERT_EQUAL_FATAL(gm_seq_open(&seq, &args, &out, NULL), GM_OK);
    CU_ASSERT_EQUAL(step_with(seq, *ask(&m, PROMPT + 1, 8)), GM_ABORTED);
    CU_ASSERT_EQUAL(step_with(seq, *ask(&m, PROMPT - 1, 8)), GM_ABORTED);
    struct gm_cands c = *ask(&m, PROMPT, 8);
    c.n_vocab = WIDE + 1;
    CU_ASSERT_EQUAL(step_with(seq, c), GM_INTERNAL);
    c = *ask(&m, PROMPT, 8);
    c.lse_raw = NAN;
    CU_ASSERT_EQUAL(step_with(seq, c), GM_INTERNAL);
    c = *ask(&m, PROMPT, 8);
    c.raw = NULL;
    CU_ASSERT_EQUAL(step_with(seq, c), GM_INTERNAL);
    c = *ask(&m, PROMPT, 8);
    c.tops = NULL;
    CU_ASSERT_EQUAL(step_with(seq, c), GM_INTERNAL);
    c = *ask(&m, PROMPT, 8);
    m.logits[3] = NAN;
    CU_ASSERT_EQUAL(step_with(seq, c), GM_INTERNAL);
    /* A shard that keeps sending less than was asked for is not asked for ever. */
    CU_ASSERT_EQUAL(gm_seq_step(seq, ask(&m, PROMPT, 2), &out, NULL), GM_OK);
    CU_ASSERT_EQUAL(out.need, 8);
    CU_ASSERT_EQUAL(step_with(seq, *ask(&m, PROMPT, 7)), GM_INTERNAL);
    c = *ask(&m, PROMPT, 8);
    c.n_tops = UINT32_MAX; /* only as many as asked for are read */
    CU_ASSERT_EQUAL(step_with(seq, c), GM_OK);
    CU_ASSERT_EQUAL(gm_seq_position(seq), PROMPT + 1);
    gm_seq_close(&seq);
}

static enum gm_status open_with(struct gm_seq_args args)
{
    struct gm_outcome out;
    struct gm_seq *seq;
    const enum gm_status rc = gm_seq_open(&seq, &args, &out, NULL);
    CU_ASSERT((rc == GM_OK) == (seq != NULL));
    gm_seq_close(&seq);
    return rc;
}

static void test_bad_arguments(void)
{
    struct gm_sampling p = greedy_params(4);
    const int32_t done[] = { 1, 2, WIDE, -1, WIDE - 1, 3 };
    struct gm_seq_args a = letter_args(&p);
    CU_ASSERT_EQUAL(open_with(a), GM_OK);
    p.top_p = NAN;
    CU_ASSERT_EQUAL(open_with(a), GM_INVALID);
    p.top_p = 1.0f;
    a.done = done;
    a.n_done = 2;
    CU_ASSERT_EQUAL(open_with(a), GM_OK);
    a.n_done = 3; /* an id outside the vocabulary */
    CU_ASSERT_EQUAL(open_with(a), GM_INVALID);
    a.done = done + 3;
    a.n_done = 1;
    CU_ASSERT_EQUAL(open_with(a), GM_INVALID);
    a.done = done + 4; /* a token after the end token */
    CU_ASSERT_EQUAL(open_with(a), GM_OK);
    a.n_done = 2;
    CU_ASSERT_EQUAL(open_with(a), GM_INVALID);
    a.n_done = 5; /* more than max_tokens */
    CU_ASSERT_EQUAL(open_with(a), GM_INVALID);
    a = letter_args(&p);
    a.n_end = GM_END_IDS_MAX + 1;
    CU_ASSERT_EQUAL(open_with(a), GM_INVALID);
    a = letter_args(&p);
    a.prompt_len = 0;
    CU_ASSERT_EQUAL(open_with(a), GM_INVALID);
    a = letter_args(&p);
    a.n_vocab = GM_SAMPLER_VOCAB_MAX + 1;
    CU_ASSERT_EQUAL(open_with(a), GM_INVALID);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite("sampler: sequences", NULL, NULL);
    if (!suite || !CU_add_test(suite, "stop strings", test_stops) ||
        !CU_add_test(suite, "stop strings against brute force", test_stops_random) ||
        !CU_add_test(suite, "limit of held tokens", test_held_limit) ||
        !CU_add_test(suite, "a sampled sequence resumed anywhere", test_sampled_resume) ||
        !CU_add_test(suite, "finishes", test_finishes) ||
        !CU_add_test(suite, "bad candidates", test_bad_candidates) ||
        !CU_add_test(suite, "bad arguments", test_bad_arguments))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
