// uses: services/shard/admit.c services/shard/batch.c services/shard/step.c services/shard/draft.c
// uses: services/shard/evict.c services/shard/prefix.c
// uses: tests/unit/model_small.c
/* test_speculate.c - shards with guesses compute what shards without them compute.
 *
 * Owns:      a ring in one process: one or two shards over a small random model, and a sampler that
 *            takes the best candidate. Turns with and without guesses, several at once, penalties,
 *            more candidates, kept rows, positions that must be refused, the pages' invariant.
 * Does not:  test messages (the system tests do) or the choice of tokens (test_sampler.c).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "services/shard/shard.h"
#include "tests/unit/model_small.h"

enum { PROMPT = 12, ANSWER = 100, TURNS_MAX = 6, CONTEXT = 256 };

static char dir[] = "/tmp/gm_test_speculate_XXXXXX";
static char model_path[64];

/* One turn as its sampler sees it. */
struct turn {
    uint64_t ticket;
    int32_t prompt[CONTEXT], n_prompt;
    int32_t ids[ANSWER], n, most;
    double lse[ANSWER]; /* of each token's row, bit for bit */
    struct gm_row_rules rules;
    bool ask_more; /* ask each row again */
    int asked_pos;
};

static struct ring {
    struct gm_shard shard[2];
    int n;
    struct turn turn[TURNS_MAX];
    int faults;
    int32_t rows_most; /* of one message of candidates */
} ring;

static struct turn *turn_of(uint64_t ticket)
{
    return &ring.turn[ticket - 1];
}

static void on_hidden(void *ctx, void *next, const struct gm_work *const *works, int32_t n,
                      const float *rows)
{
    (void)ctx;
    (void)next;
    for (int32_t i = 0; i < n; i++) {
        struct gm_work w = *works[i];
        const size_t bytes = (size_t)w.n * SMALL_DIM * sizeof(float);
        w.ids = malloc((size_t)w.n * sizeof *w.ids);
        w.rows = malloc(bytes);
        memcpy(w.ids, works[i]->ids, (size_t)w.n * sizeof *w.ids);
        memcpy(w.rows, rows, bytes);
        rows += (size_t)w.n * SMALL_DIM;
        CU_ASSERT_EQUAL(gm_shard_arrived(&ring.shard[1], &w, NULL), GM_OK);
        gm_work_free(&w);
    }
}

static void on_candidates(void *ctx, const struct gm_ticket *ticket, int32_t pos,
                          const struct gm_row_out *rows, int32_t n)
{
    struct turn *t = turn_of(ticket->id);
    (void)ctx;
    ring.rows_most = n > ring.rows_most ? n : ring.rows_most;
    for (int32_t i = 0; i < n; i++) {
        CU_ASSERT_EQUAL_FATAL(pos + i, t->n_prompt + t->n - 1);
        CU_ASSERT_FATAL(i == 0 || rows[i].id == t->ids[t->n - 1]);
        if (t->ask_more && t->asked_pos != pos + i) {
            t->asked_pos = pos + i;
            gm_shard_more(&ring.shard[ring.n - 1], t->ticket, pos + i, 1 + i);
            return; /* it came before this returned, with the rows behind this one */
        }
        t->lse[t->n] = rows[i].c.lse_t;
        t->ids[t->n++] = rows[i].c.ids[0];
        if (t->n == t->most)
            return;
        if (i + 1 < n && rows[i + 1].id != t->ids[t->n - 1])
            break;
    }
    CU_ASSERT_EQUAL(
        gm_shard_chosen(&ring.shard[0], t->ticket, t->n_prompt + t->n - 1, t->ids[t->n - 1], NULL),
        GM_OK);
}

static void on_chunk_done(void *ctx, const struct gm_ticket *t, const struct gm_work *w)
{
    (void)ctx;
    (void)w;
    gm_shard_chunk_done(&ring.shard[0], t->id);
}

static void on_fault(void *ctx, const struct gm_ticket *t, const struct gm_err *why)
{
    (void)ctx;
    (void)t;
    CU_ASSERT_EQUAL(why->status, GM_DATA_LOSS);
    ring.faults++;
}

static void ring_open(int shards, bool speculate, int64_t kv_tokens)
{
    static const int cut[2][3] = { { 0, SMALL_LAYERS, 0 }, { 0, 1, SMALL_LAYERS } };
    struct gm_err err = GM_ERR_NONE;
    memset(&ring, 0, sizeof ring);
    ring.n = shards;
    for (int i = 0; i < shards; i++) {
        struct gm_shard *s = &ring.shard[i];
        const struct gm_slice_opts o = {
            .model_path = model_path,
            .spec = { cut[shards - 1][i], cut[shards - 1][i + 1], i == 0, i == shards - 1 },
            .kernels = gm_kernels_select(NULL, NULL),
            .threads = 1,
            .kv_tokens = kv_tokens,
            .context = CONTEXT,
            .rows_max = GM_BATCH_ROWS_MAX,
        };
        if (gm_slice_open(&s->slice, &o, &err) != GM_OK)
            printf("%s\n", err.text);
        CU_ASSERT_PTR_NOT_NULL_FATAL(s->slice);
        s->kernels = o.kernels;
        s->is_first = i == 0;
        s->is_last = i == shards - 1;
        s->speculate = speculate;
        s->out = (struct gm_shard_out){ .hidden = on_hidden,
                                        .candidates = on_candidates,
                                        .chunk_done = on_chunk_done,
                                        .fault = on_fault };
        CU_ASSERT_EQUAL_FATAL(gm_shard_init(s, NULL), GM_OK);
    }
}

static void ring_close(void)
{
    for (int i = 0; i < ring.n; i++) {
        CU_ASSERT_PTR_NULL(gm_kv_check(gm_slice_kv(ring.shard[i].slice)));
        gm_shard_close(&ring.shard[i]);
        gm_slice_close(&ring.shard[i].slice);
    }
}

static void ring_run(void)
{
    bool busy = true;
    while (busy) {
        busy = false;
        for (int i = 0; i < ring.n; i++) {
            bool more = false;
            gm_shard_step(&ring.shard[i], &more);
            CU_ASSERT_PTR_NULL_FATAL(gm_kv_check(gm_slice_kv(ring.shard[i].slice)));
            busy |= more;
        }
        for (size_t i = 0; i < ring.shard[0].tickets.n; i++)
            busy |= ((struct gm_ticket *)ring.shard[0].tickets.entries[i].value)->has_decode;
        busy |= ring.n > 1 && ring.shard[1].decode.n + ring.shard[1].prefill.n > 0;
    }
}

/* Turn number i, its prompt filled in; starts it. Returns how much of the prompt was kept. */
static int32_t turn_begin(int i, const char *session, int32_t most)
{
    struct turn *t = &ring.turn[i];
    int32_t kept = t->n_prompt, low = 0;
    t->ticket = (uint64_t)i + 1;
    t->most = most;
    t->asked_pos = -1;
    if (t->rules.repeat_penalty == 0.0f)
        t->rules.repeat_penalty = 1.0f;
    for (int s = 0; s < ring.n; s++) {
        const struct gm_reserve r = { .ticket = t->ticket,
                                      .session = session,
                                      .ids = t->prompt,
                                      .n_ids = t->n_prompt,
                                      .positions = t->n_prompt + most,
                                      .prompt_len = t->n_prompt,
                                      .rules = t->rules,
                                      .numerics = gm_slice_numerics(ring.shard[s].slice) };
        int32_t have = 0, rewind_min = 0;
        CU_ASSERT_EQUAL_FATAL(gm_shard_reserve(&ring.shard[s], &r, &have, &rewind_min, NULL),
                              GM_OK);
        kept = have < kept ? have : kept;
        low = rewind_min > low ? rewind_min : low;
    }
    kept = kept < low ? 0 : kept;
    CU_ASSERT_EQUAL(gm_shard_prompt(&ring.shard[0], t->ticket, kept, true, NULL), GM_OK);
    return kept;
}

static void turn_end(int i)
{
    for (int s = 0; s < ring.n; s++)
        gm_shard_release(&ring.shard[s], ring.turn[i].ticket, true);
}

static void prompt_fill(struct turn *t, int seed)
{
    t->n_prompt = PROMPT;
    for (int32_t i = 0; i < PROMPT; i++)
        t->prompt[i] = (seed * 17 + i * i * 5) % SMALL_VOCAB;
}

static bool same(const struct turn *a, const struct turn *b)
{
    return a->n == b->n && memcmp(a->ids, b->ids, (size_t)a->n * sizeof *a->ids) == 0 &&
           memcmp(a->lse, b->lse, (size_t)a->n * sizeof *a->lse) == 0;
}

/* `n` turns at once, into out. */
static void run_turns(int shards, bool speculate, int n, const struct turn *like, struct turn *out)
{
    char name[16];
    ring_open(shards, speculate, 4096);
    for (int i = 0; i < n; i++) {
        ring.turn[i] = *like;
        prompt_fill(&ring.turn[i], i + 1);
        snprintf(name, sizeof name, "t/%d", i);
        turn_begin(i, name, ANSWER - i);
    }
    ring_run();
    for (int i = 0; i < n; i++) {
        CU_ASSERT_EQUAL(ring.turn[i].n, ANSWER - i);
        out[i] = ring.turn[i];
    }
    CU_ASSERT_EQUAL(ring.faults, 0);
    for (int i = 0; i < shards; i++) {
        const struct gm_shard *s = &ring.shard[i];
        CU_ASSERT(s->accepted <= s->drafted && (speculate || s->drafted == 0));
        CU_ASSERT(s->drafted == ring.shard[0].drafted && s->accepted == ring.shard[0].accepted);
        CU_ASSERT(n > 4 || !speculate || s->accepted > 0);
    }
    CU_ASSERT(ring.rows_most <= (speculate && n <= 4 ? GM_DRAFT_STEP_ROWS / n : 1));
    CU_ASSERT(!speculate || n > 1 || ring.rows_most == GM_DRAFT_STEP_ROWS);
    for (int i = 0; i < n; i++)
        turn_end(i);
    ring_close();
}

static void test_same_rows(void)
{
    static struct turn plain[TURNS_MAX], guessed[TURNS_MAX];
    static const struct turn likes[] = {
        { .ask_more = false },
        { .ask_more = true },
        { .rules = { .temperature = 0.7f, .repeat_penalty = 1.02f, .frequency = 0.001f } },
    };
    static const int turns[] = { 1, 2, 4, 6 };
    for (size_t l = 0; l < sizeof likes / sizeof likes[0]; l++)
        for (size_t i = 0; i < sizeof turns / sizeof turns[0]; i++) {
            run_turns(1, false, turns[i], &likes[l], plain);
            for (int shards = 1; shards <= 2; shards++) {
                run_turns(shards, true, turns[i], &likes[l], guessed);
                for (int k = 0; k < turns[i]; k++)
                    CU_ASSERT_TRUE(same(&plain[k], &guessed[k]));
            }
        }
}

/* The next turn of a session stands on the rows of the one before, whatever was guessed wrong. */
static void test_second_turn(void)
{
    static struct turn second[2];
    for (int speculate = 0; speculate < 2; speculate++) {
        ring_open(2, speculate == 1, 4096);
        for (int cut = 0; cut < 2; cut++) { /* the whole answer goes on, or its first part */
            struct turn *a = &ring.turn[2 * cut], *b = a + 1;
            prompt_fill(a, 3);
            turn_begin(2 * cut, cut ? "t/b" : "t/a", ANSWER);
            ring_run();
            turn_end(2 * cut);
            const int32_t part = cut ? ANSWER / 2 : ANSWER;
            memcpy(b->prompt, a->prompt, PROMPT * sizeof(int32_t));
            memcpy(b->prompt + PROMPT, a->ids, (size_t)part * sizeof(int32_t));
            b->n_prompt = PROMPT + part + 1;
            b->prompt[PROMPT + part] = 63;
            const int32_t kept = turn_begin(2 * cut + 1, cut ? "t/b" : "t/a", 40);
            CU_ASSERT(kept >= PROMPT + part - 1 && kept < b->n_prompt);
            ring_run();
            CU_ASSERT_EQUAL(b->n, 40);
            if (speculate)
                CU_ASSERT_TRUE(same(b, &second[cut]));
            second[cut] = *b;
            turn_end(2 * cut + 1);
        }
        CU_ASSERT_EQUAL(ring.faults, 0);
        ring_close();
    }
}

/* Pages are there for prompt and answer and no more: guesses stay within them. */
static void test_no_room_to_spare(void)
{
    for (int32_t most = 1; most < 30; most++) {
        ring_open(1, true, GM_PAGE * ((PROMPT + most + GM_PAGE - 1) / GM_PAGE));
        prompt_fill(&ring.turn[0], 1);
        turn_begin(0, "t/a", most);
        ring_run();
        CU_ASSERT_EQUAL(ring.turn[0].n, most);
        CU_ASSERT_EQUAL(ring.faults, 0);
        const struct gm_ticket *t = gm_shard_ticket(&ring.shard[0], 1);
        CU_ASSERT(gm_kv_len(t->session->seq) < PROMPT + most);
        turn_end(0);
        ring_close();
    }
}

/* A decode row that is no successor of the last span is refused, on both sides of it. */
static void test_wrong_positions(void)
{
    ring_open(1, true, 4096);
    prompt_fill(&ring.turn[0], 1);
    turn_begin(0, "t/a", ANSWER);
    ring_run();
    const int32_t floor = gm_shard_ticket(&ring.shard[0], 1)->accepted;
    const int32_t len = gm_kv_len(gm_shard_ticket(&ring.shard[0], 1)->session->seq);
    const int32_t wrong[] = { floor - 1, len + 1, 0 };
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL(gm_shard_chosen(&ring.shard[0], 1, wrong[i], 5, NULL), GM_OK);
        ring_run();
        CU_ASSERT_EQUAL(ring.faults, i + 1);
        CU_ASSERT_EQUAL(gm_kv_len(gm_shard_ticket(&ring.shard[0], 1)->session->seq), len);
    }
    ring_close();
}

/* A turn that guesses well stops to while a prompt waits or is on its way. */
static void test_none_beside_a_prompt(void)
{
    static struct gm_work works[GM_WORKS_MAX];
    struct gm_shard *s = &ring.shard[0];
    bool more;
    ring_open(1, true, 4096);
    prompt_fill(&ring.turn[0], 1);
    turn_begin(0, "t/a", ANSWER);
    while (ring.turn[0].n < ANSWER / 2)
        gm_shard_step(s, &more);
    struct gm_ticket *t = gm_shard_ticket(s, 1);
    CU_ASSERT(s->accepted > 0 && t->has_decode && t->pace.rest == 0);
    prompt_fill(&ring.turn[1], 2);
    turn_begin(1, "t/b", ANSWER);
    s->pace.row_us = 1.0; /* so cheap that the whole prompt goes beside one step */
    s->pace.decode_us[1] = 1e6;
    for (int beside = 1; beside >= 0; beside--) {
        const int32_t n = gm_shard_form(s, works, &more);
        CU_ASSERT_EQUAL_FATAL(n, 1 + beside);
        CU_ASSERT(works[0].decode && works[0].n == 1 && works[0].drafts == 0);
        CU_ASSERT(n == 1 || (!works[1].decode && works[1].n == PROMPT));
        for (int32_t i = 0; i < n; i++)
            gm_work_free(&works[i]);
        t->has_decode = true; /* again, now beside a chunk in flight */
    }
    gm_shard_chunk_done(s, 2);
    CU_ASSERT_EQUAL_FATAL(gm_shard_form(s, works, &more), 1);
    CU_ASSERT(works[0].n > 1 && works[0].drafts == works[0].n - 1);
    gm_work_free(&works[0]);
    ring_close();
}

/* Logits of guesses come from a bounded store; a ticket that finds it empty has its first row. */
static void test_logits_store(void)
{
    struct gm_ticket *t[TURNS_MAX];
    ring_open(1, true, 4096);
    for (int i = 0; i < TURNS_MAX; i++) {
        char name[16];
        snprintf(name, sizeof name, "t/%d", i);
        prompt_fill(&ring.turn[i], i);
        turn_begin(i, name, 4);
        t[i] = gm_shard_ticket(&ring.shard[0], (uint64_t)i + 1);
        const int32_t left = GM_DRAFT_LOGITS_MAX - i * GM_DRAFT_MAX;
        const int32_t want = 1 + (left > GM_DRAFT_MAX ? GM_DRAFT_MAX : left > 0 ? left : 0);
        CU_ASSERT_EQUAL(gm_shard_logits(&ring.shard[0], t[i], GM_RUN_ROWS_MAX), want);
    }
    CU_ASSERT_EQUAL(gm_shard_logits(&ring.shard[0], t[0], 2), 2); /* gives six back */
    CU_ASSERT_EQUAL(gm_shard_logits(&ring.shard[0], t[5], GM_RUN_ROWS_MAX), 7);
    for (int i = 0; i < TURNS_MAX; i++)
        turn_end(i);
    CU_ASSERT_EQUAL(ring.shard[0].n_spare, GM_DRAFT_LOGITS_MAX);
    ring_close();
}

int main(void)
{
    struct small_model model;
    if (!mkdtemp(dir))
        return 1;
    snprintf(model_path, sizeof model_path, "%s/m.gguf", dir);
    gm_log_set_level(GM_LOG_ERROR);
    small_make(&model, false, 11);
    if (!small_write_gguf(&model, model_path))
        return 1;
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("speculation", NULL, NULL);
    CU_add_test(suite, "guesses change no bit of any row", test_same_rows);
    CU_add_test(suite, "the second turn of a session", test_second_turn);
    CU_add_test(suite, "guesses stay within the turn's pages", test_no_room_to_spare);
    CU_add_test(suite, "positions that are refused", test_wrong_positions);
    CU_add_test(suite, "no guesses beside a prompt", test_none_beside_a_prompt);
    CU_add_test(suite, "logits of guesses are bounded", test_logits_store);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    small_free(&model);
    unlink(model_path);
    rmdir(dir);
    return failed > 0;
}
