// uses: services/shard/admit.c services/shard/batch.c services/shard/step.c services/shard/draft.c
// uses: services/shard/evict.c services/shard/prefix.c
// uses: tests/unit/model_small.c
/* test_prefix.c - rows that come from another session, and pages that run out, change no bit.
 *
 * Owns:      a shard over a small random model and a sampler that takes the best candidate: rows
 *            taken over and copied, other tenants, rows that local layers lost, keys that collide,
 *            growth, turns that are pushed out and come back.
 * Does not:  test messages (the system tests do) or pages by themselves (test_kv.c).
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

enum { CONTEXT = 2048, TURNS_MAX = 5, STEPS_MAX = 100000 };

static char dir[] = "/tmp/gm_test_prefix_XXXXXX";
static char model_path[64];

/* One turn as its sampler and the orchestrator see it. */
struct turn {
    uint64_t ticket, order;
    char session[32];
    int32_t ids[CONTEXT], n_prompt, n, most; /* ids: prompt and n of the answer */
    double lse[CONTEXT];                     /* of each token's row, bit for bit */
    bool ephemeral, runs;
    int pushed; /* times out */
    int32_t have, rewind_min;
};

static struct gm_shard shard;
static struct turn turns[TURNS_MAX];
static uint64_t tickets; /* given so far */

static struct turn *turn_of(uint64_t ticket)
{
    for (int i = 0; i < TURNS_MAX; i++)
        if (turns[i].ticket == ticket)
            return &turns[i];
    return NULL;
}

static void on_candidates(void *ctx, const struct gm_ticket *ticket, int32_t pos,
                          const struct gm_row_out *rows, int32_t n)
{
    struct turn *t = turn_of(ticket->id);
    (void)ctx;
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    CU_ASSERT_FATAL(n == 1 && pos == t->n_prompt + t->n - 1);
    t->lse[t->n] = rows[0].c.lse_t;
    t->ids[t->n_prompt + t->n++] = rows[0].c.ids[0];
    if (t->n < t->most)
        CU_ASSERT_EQUAL(
            gm_shard_chosen(&shard, t->ticket, pos + 1, t->ids[t->n_prompt + t->n - 1], NULL),
            GM_OK);
}

static void on_chunk_done(void *ctx, const struct gm_ticket *t, const struct gm_work *w)
{
    (void)ctx;
    (void)w;
    gm_shard_chunk_done(&shard, t->id);
}

static void on_fault(void *ctx, const struct gm_ticket *ticket, const struct gm_err *why)
{
    struct turn *t = turn_of(ticket->id);
    (void)ctx;
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    CU_ASSERT_EQUAL(why->status, GM_EXHAUSTED);
    t->pushed++;
    t->runs = false;
}

static void shard_open(int64_t kv_tokens)
{
    struct gm_err err = GM_ERR_NONE;
    const struct gm_slice_opts o = {
        .model_path = model_path,
        .spec = { 0, SMALL_LAYERS, true, true },
        .kernels = gm_kernels_select(NULL, NULL),
        .threads = 1,
        .kv_tokens = kv_tokens,
        .context = CONTEXT,
        .rows_max = GM_BATCH_ROWS_MAX,
    };
    memset(&shard, 0, sizeof shard);
    memset(turns, 0, sizeof turns);
    if (gm_slice_open(&shard.slice, &o, &err) != GM_OK)
        printf("%s\n", err.text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(shard.slice);
    shard.kernels = o.kernels;
    shard.is_first = shard.is_last = true;
    shard.out = (struct gm_shard_out){ .candidates = on_candidates,
                                       .chunk_done = on_chunk_done,
                                       .fault = on_fault };
    CU_ASSERT_EQUAL_FATAL(gm_shard_init(&shard, NULL), GM_OK);
}

static void shard_close(void)
{
    CU_ASSERT_PTR_NULL(gm_kv_check(gm_slice_kv(shard.slice)));
    gm_shard_close(&shard);
    CU_ASSERT_EQUAL(shard.prefix.n, 0);
    gm_slice_close(&shard.slice);
}

static enum gm_status turn_begin(struct turn *t, struct gm_err *err)
{
    t->ticket = ++tickets;
    const struct gm_reserve r = { .ticket = t->ticket,
                                  .order = t->order,
                                  .session = t->session,
                                  .ephemeral = t->ephemeral,
                                  .ids = t->ids,
                                  .n_ids = t->n_prompt + t->n,
                                  .positions = t->n_prompt + t->most,
                                  .prompt_len = t->n_prompt,
                                  .rules = { .repeat_penalty = 1.0f },
                                  .numerics = gm_slice_numerics(shard.slice) };
    const enum gm_status rc = gm_shard_reserve(&shard, &r, &t->have, &t->rewind_min, err);
    t->runs = rc == GM_OK;
    if (rc == GM_OK)
        CU_ASSERT_EQUAL(
            gm_shard_prompt(&shard, t->ticket, t->have < t->rewind_min ? 0 : t->have, true, NULL),
            GM_OK);
    return rc;
}

static void step(void)
{
    bool more;
    gm_shard_step(&shard, &more);
    CU_ASSERT_PTR_NULL_FATAL(gm_kv_check(gm_slice_kv(shard.slice)));
}

static void turn_finish(struct turn *t)
{
    for (int i = 0; i < STEPS_MAX && t->runs && t->n < t->most; i++)
        step();
    CU_ASSERT_EQUAL(t->n, t->most);
    gm_shard_release(&shard, t->ticket, true);
    t->runs = false;
}

static struct turn *turn_new(int i, const char *session, int32_t n_prompt, int32_t most, int seed)
{
    struct turn *t = &turns[i];
    memset(t, 0, sizeof *t);
    snprintf(t->session, sizeof t->session, "%s", session);
    t->order = (uint64_t)i + 1;
    t->n_prompt = n_prompt;
    t->most = most;
    for (int32_t p = 0; p < n_prompt; p++)
        t->ids[p] = (seed * 17 + p * p * 5 + p / 64) % SMALL_VOCAB;
    return t;
}

/* The turn alone on a shard that holds nothing. */
static void same_as_cold(const struct turn *t)
{
    static struct turn warm;
    warm = *t;
    shard_close();
    shard_open(8192);
    struct turn *cold = &turns[0];
    *cold = warm;
    cold->n = 0;
    CU_ASSERT_EQUAL_FATAL(turn_begin(cold, NULL), GM_OK);
    CU_ASSERT_EQUAL(cold->have, 0);
    turn_finish(cold);
    CU_ASSERT_EQUAL(memcmp(cold->ids, warm.ids, sizeof cold->ids), 0);
    CU_ASSERT_EQUAL(memcmp(cold->lse, warm.lse, (size_t)warm.most * sizeof *cold->lse), 0);
    shard_close();
}

/* `b` goes on where `a` ended, with `more` ids of its own. */
static void go_on(struct turn *b, const struct turn *a, int32_t more)
{
    const int32_t n = a->n_prompt + a->n;
    memcpy(b->ids, a->ids, (size_t)n * sizeof *b->ids);
    for (int32_t i = 0; i < more; i++)
        b->ids[n + i] = (i * 7 + 1) % SMALL_VOCAB;
    b->n_prompt = n + more;
}

/* A conversation in sessions of one turn: the sequence changes hands. */
static void test_taken_over(void)
{
    shard_open(8192);
    struct turn *a = turn_new(0, "t/a", 100, 60, 1), *b = turn_new(1, "t/b", 0, 20, 1);
    a->ephemeral = b->ephemeral = true;
    CU_ASSERT_EQUAL_FATAL(turn_begin(a, NULL), GM_OK);
    turn_finish(a);
    const struct gm_session *before = gm_strmap_get(&shard.sessions, "t/a");
    CU_ASSERT(before && gm_kv_len(before->seq) == 159);
    go_on(b, a, 30);
    CU_ASSERT_EQUAL_FATAL(turn_begin(b, NULL), GM_OK);
    CU_ASSERT_EQUAL(b->have, 159);
    CU_ASSERT_PTR_EQUAL(gm_strmap_get(&shard.sessions, "t/b"), before);
    CU_ASSERT_PTR_NULL(gm_strmap_get(&shard.sessions, "t/a"));
    CU_ASSERT_EQUAL(shard.prompt_tokens, (uint64_t)(100 + b->n_prompt));
    CU_ASSERT_EQUAL(shard.prefix_tokens, 159);
    turn_finish(b);
    CU_ASSERT(shard.busy_us > 0);
    same_as_cold(b);
}

/* A named session's rows are copied, whoever takes them; it goes on from its own. */
static void test_copied(void)
{
    shard_open(8192);
    struct turn *a = turn_new(0, "t/a", 100, 60, 1), *b = turn_new(1, "t/b", 0, 20, 1);
    struct turn *c = turn_new(2, "t/a", 0, 20, 1);
    b->ephemeral = true;
    CU_ASSERT_EQUAL_FATAL(turn_begin(a, NULL), GM_OK);
    turn_finish(a);
    go_on(b, a, 30);
    CU_ASSERT_EQUAL_FATAL(turn_begin(b, NULL), GM_OK);
    CU_ASSERT_EQUAL(b->have, 159);
    turn_finish(b);
    go_on(c, a, 3);
    CU_ASSERT_EQUAL_FATAL(turn_begin(c, NULL), GM_OK);
    CU_ASSERT_EQUAL(c->have, 159);
    turn_finish(c);
    struct turn two[2] = { *b, *c };
    same_as_cold(&two[0]);
    shard_open(8192);
    same_as_cold(&two[1]);
}

/* A second choice of the same prompt finds the rows of the first, which runs; a short prompt too.
 */
static void test_beside(void)
{
    static const int32_t lens[] = { 700, 65, 64, 40 };
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        shard_open(8192);
        struct turn *a = turn_new(0, "t/a", lens[i], 40, 3);
        struct turn *b = turn_new(1, "t/b", lens[i], 40, 3);
        a->ephemeral = b->ephemeral = true;
        CU_ASSERT_EQUAL_FATAL(turn_begin(a, NULL), GM_OK);
        while (a->n < 10)
            step();
        CU_ASSERT_EQUAL_FATAL(turn_begin(b, NULL), GM_OK);
        CU_ASSERT_EQUAL(b->have, lens[i] - 1);
        turn_finish(b);
        turn_finish(a);
        CU_ASSERT_EQUAL(memcmp(a->ids, b->ids, sizeof a->ids), 0);
        struct turn warm = *b;
        same_as_cold(&warm);
    }
}

/* Other tenants, scores, beginnings too short to pay and rows that the local layers lost. */
static void test_not_taken(void)
{
    shard_open(8192);
    struct turn *a = turn_new(0, "t/a", 1200, 10, 1), *b = turn_new(1, "tt/b", 1200, 10, 1);
    CU_ASSERT_EQUAL_FATAL(turn_begin(a, NULL), GM_OK);
    turn_finish(a);
    CU_ASSERT_EQUAL_FATAL(turn_begin(b, NULL), GM_OK);
    CU_ASSERT_EQUAL(b->have, 0); /* another tenant, whose name begins like this one's */
    turn_finish(b);
    struct turn *c = turn_new(2, "t/c", 600, 10, 1);
    CU_ASSERT_EQUAL_FATAL(turn_begin(c, NULL), GM_OK);
    CU_ASSERT_EQUAL(c->have, 0); /* the local layers of t/a begin behind position 600 */
    turn_finish(c);
    struct turn *g = turn_new(0, "t/g", 600, 10, 1);
    CU_ASSERT_EQUAL_FATAL(turn_begin(g, NULL), GM_OK);
    CU_ASSERT_EQUAL(g->have, 599); /* t/c still has them */
    turn_finish(g);
    struct turn *d = turn_new(3, "t/d", 1000, 10, 1);
    CU_ASSERT_EQUAL_FATAL(turn_begin(d, NULL), GM_OK);
    CU_ASSERT(d->have == 999 && d->rewind_min > 600);
    turn_finish(d);
    struct turn *e = turn_new(4, "t/e", 500, 10, 1);
    e->ids[GM_PREFIX_GAIN_MIN - 1]++;
    CU_ASSERT_EQUAL_FATAL(turn_begin(e, NULL), GM_OK);
    CU_ASSERT_EQUAL(e->have, 0);
    turn_finish(e);
    struct gm_reserve r = { .ticket = 1000,
                            .session = "t/s",
                            .ids = b->ids,
                            .n_ids = 1200,
                            .positions = 1200,
                            .score = true,
                            .numerics = gm_slice_numerics(shard.slice) };
    int32_t have, low;
    CU_ASSERT_EQUAL(gm_shard_reserve(&shard, &r, &have, &low, NULL), GM_OK);
    CU_ASSERT_EQUAL(have, 0);
    gm_shard_release(&shard, 1000, true);
    CU_ASSERT_PTR_NULL(gm_strmap_get(&shard.sessions, "t/s"));
    struct turn warm = *d;
    same_as_cold(&warm);
}

/* A session that stands under a key which is not its own gives what its ids say, no row more. */
static void test_collision(void)
{
    shard_open(8192);
    struct turn *a = turn_new(0, "t/a", 200, 10, 1), *b = turn_new(1, "t/b", 200, 10, 9);
    struct turn *c = turn_new(2, "t/c", 200, 10, 1);
    CU_ASSERT_EQUAL_FATAL(turn_begin(a, NULL), GM_OK);
    turn_finish(a);
    CU_ASSERT_EQUAL_FATAL(turn_begin(b, NULL), GM_OK);
    turn_finish(b);
    const struct gm_session *sa = gm_strmap_get(&shard.sessions, "t/a");
    const struct gm_session *sb = gm_strmap_get(&shard.sessions, "t/b");
    CU_ASSERT_FATAL(sa && sb && sa->levels.n == 4 && sb->levels.n == 4);
    for (int32_t l = 1; l < 4; l++) { /* b's nodes stand where a's stood, and a's nowhere */
        struct gm_prefix_node *x = sa->levels.node[l], *y = sb->levels.node[l];
        const uint64_t key = x->key;
        gm_idmap_take(&shard.prefix.first, key);
        gm_idmap_take(&shard.prefix.first, y->key);
        x->key = y->key;
        y->key = key;
        CU_ASSERT_EQUAL(gm_idmap_put(&shard.prefix.first, key, y, NULL), GM_OK);
        CU_ASSERT_EQUAL(gm_idmap_put(&shard.prefix.first, x->key, x, NULL), GM_OK);
    }
    CU_ASSERT_EQUAL_FATAL(turn_begin(c, NULL), GM_OK);
    CU_ASSERT_EQUAL(c->have, 199); /* found at level 0, where nothing was forged */
    turn_finish(c);
    gm_shard_forget(&shard, "t/a");
    gm_shard_forget(&shard, "t/c");
    struct turn *d = turn_new(3, "t/d", 200, 10, 1);
    CU_ASSERT_EQUAL_FATAL(turn_begin(d, NULL), GM_OK);
    CU_ASSERT_EQUAL(d->have, 0);
    turn_finish(d);
    struct turn warm = *d;
    same_as_cold(&warm);
}

/* A copy never evicts what it is made from; where both do not fit, a session of one turn is taken
 * over whole and a named one gives nothing. */
static void test_copy_without_pages(void)
{
    for (int ephemeral = 0; ephemeral < 2; ephemeral++) {
        shard_open(640);
        struct turn *a = turn_new(0, "t/a", 300, 100, 1), *b = turn_new(1, "t/b", 300, 20, 1);
        a->ephemeral = ephemeral;
        CU_ASSERT_EQUAL_FATAL(turn_begin(a, NULL), GM_OK);
        turn_finish(a);
        CU_ASSERT_EQUAL_FATAL(turn_begin(b, NULL), GM_OK);
        CU_ASSERT_EQUAL(b->have, ephemeral ? 299 : 0);
        turn_finish(b);
        struct turn warm = *b;
        same_as_cold(&warm);
    }
}

static int32_t reserved(const struct turn *t)
{
    return gm_kv_reserved(gm_shard_ticket(&shard, t->ticket)->session->seq);
}

/* A turn holds pages for its rows and GM_GROW_POSITIONS more; kept sessions go for it. */
static void test_growth(void)
{
    shard_open(1024);
    struct turn *k = turn_new(0, "t/k", 500, 10, 5), *a = turn_new(1, "t/a", 60, 900, 1);
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL_FATAL(turn_begin(k, NULL), GM_OK);
    turn_finish(k);
    CU_ASSERT_EQUAL_FATAL(turn_begin(a, NULL), GM_OK);
    CU_ASSERT_EQUAL(reserved(a), 60 + GM_GROW_POSITIONS);
    while (a->n < GM_GROW_POSITIONS + 1)
        step();
    CU_ASSERT_PTR_NOT_NULL(gm_strmap_get(&shard.sessions, "t/k"));
    while (a->n < GM_GROW_POSITIONS + 3)
        step();
    CU_ASSERT_EQUAL(reserved(a), 60 + 2 * GM_GROW_POSITIONS + 1);
    CU_ASSERT_PTR_NULL(gm_strmap_get(&shard.sessions, "t/k"));
    turn_finish(a);
    CU_ASSERT_EQUAL(a->pushed, 0);
    struct turn *b = turn_new(2, "t/b", 60, 1000, 1);
    CU_ASSERT_EQUAL(turn_begin(b, &err), GM_PRECONDITION); /* no pool of 1024 can hold it */
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "--kv-tokens"));
    struct turn warm = *a;
    same_as_cold(&warm);
}

/* Runs all turns to their ends; those that were pushed out begin again when there is room. */
static int run_all(int n)
{
    int begun = 0, left = n;
    for (int s = 0; s < STEPS_MAX && left > 0; s++) {
        for (int i = 0; i < n; i++)
            if (!turns[i].runs && turns[i].n < turns[i].most)
                begun += turn_begin(&turns[i], NULL) == GM_OK;
        step();
        left = 0;
        for (int i = 0; i < n; i++) {
            const bool done = turns[i].n == turns[i].most;
            if (done && turns[i].runs)
                gm_shard_release(&shard, turns[i].ticket, true);
            turns[i].runs &= !done;
            left += !done;
        }
    }
    CU_ASSERT_EQUAL(left, 0);
    return begun;
}

/* More turns than the pool holds: the oldest is never disturbed, all end with the bits they would
 * have alone, and none begins again and again. */
static void test_pushed_out(void)
{
    static struct turn done[TURNS_MAX];
    char name[16];
    shard_open(1600);
    for (int i = 0; i < TURNS_MAX; i++) {
        snprintf(name, sizeof name, "t/%d", i);
        turn_new(i, name, 40 + 10 * i, 700 + 50 * i, i + 1)->ephemeral = true;
    }
    const int begun = run_all(TURNS_MAX);
    int pushed = 0;
    for (int i = 0; i < TURNS_MAX; i++) {
        pushed += turns[i].pushed;
        done[i] = turns[i];
    }
    CU_ASSERT(turns[0].pushed == 0 && pushed > 0 && pushed < 4 * TURNS_MAX);
    CU_ASSERT_EQUAL(begun, TURNS_MAX + pushed);
    for (int i = 0; i < TURNS_MAX; i++) {
        if (i > 0)
            shard_open(1600);
        same_as_cold(&done[i]);
    }
}

/* A turn finds room when those that run may grow once more beside it; else it is told so. */
static void test_room(void)
{
    struct gm_err err = GM_ERR_NONE;
    shard_open(1024);
    struct turn *a = turn_new(0, "t/a", 100, 900, 1), *b = turn_new(1, "t/b", 100, 300, 2);
    struct turn *c = turn_new(2, "t/c", 60, 40, 3);
    CU_ASSERT_EQUAL_FATAL(turn_begin(a, NULL), GM_OK); /* 356 and 256 ahead: 10 pages of 16 */
    CU_ASSERT_EQUAL_FATAL(turn_begin(b, NULL), GM_OK); /* 356: 6 */
    CU_ASSERT_EQUAL(turn_begin(c, &err), GM_EXHAUSTED);
    CU_ASSERT(err.retry_ms > 0 && strstr(err.text, "--kv-tokens"));
    CU_ASSERT_PTR_NULL(gm_strmap_get(&shard.sessions, "t/c"));
    gm_shard_release(&shard, b->ticket, false);
    CU_ASSERT_EQUAL(turn_begin(c, NULL), GM_OK);
    shard_close();
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
    CU_pSuite suite = CU_add_suite("prefix", NULL, NULL);
    CU_add_test(suite, "rows are taken over", test_taken_over);
    CU_add_test(suite, "rows are copied", test_copied);
    CU_add_test(suite, "rows of a turn that runs", test_beside);
    CU_add_test(suite, "rows that are not taken", test_not_taken);
    CU_add_test(suite, "a hash decides nothing", test_collision);
    CU_add_test(suite, "no pages for a copy", test_copy_without_pages);
    CU_add_test(suite, "a turn grows", test_growth);
    CU_add_test(suite, "turns are pushed out and come back", test_pushed_out);
    CU_add_test(suite, "room for another turn", test_room);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    small_free(&model);
    unlink(model_path);
    rmdir(dir);
    return failed > 0;
}
