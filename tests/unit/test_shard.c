// uses: services/shard/admit.c services/shard/batch.c services/shard/draft.c
// uses: services/shard/evict.c services/shard/prefix.c
/* test_shard.c - which rows a step takes: decode rows first, chunks by budget, turns in turn.
 *
 * Owns:      the checks of services/shard/batch.c on tickets made by hand.
 * Does not:  compute rows (test_model.c) or need a model.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdlib.h>

#include "services/shard/shard.h"

static struct gm_work works[GM_WORKS_MAX];

static void shard_open(struct gm_shard *s, bool first)
{
    *s = (struct gm_shard){ .is_first = first };
    CU_ASSERT_EQUAL_FATAL(gm_idmap_open(&s->tickets, 8, 64, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_ring_open(&s->decode, sizeof(struct gm_work), 64, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_ring_open(&s->prefill, sizeof(struct gm_work), 64, NULL), GM_OK);
}

static void shard_done(struct gm_shard *s)
{
    struct gm_work w;
    while (gm_ring_pop(&s->decode, &w) || gm_ring_pop(&s->prefill, &w))
        gm_work_free(&w);
    gm_ring_close(&s->decode);
    gm_ring_close(&s->prefill);
    gm_idmap_close(&s->tickets);
}

static void ticket_add(struct gm_shard *s, struct gm_ticket *t, uint64_t id, int32_t n_prompt)
{
    *t = (struct gm_ticket){ .id = id, .n_prompt = n_prompt };
    t->prompt = calloc((size_t)n_prompt, sizeof *t->prompt);
    for (int32_t i = 0; i < n_prompt; i++)
        t->prompt[i] = i;
    CU_ASSERT_EQUAL_FATAL(gm_idmap_put(&s->tickets, id, t, NULL), GM_OK);
}

/* Forms one step; frees what it took but leaves positions and counts to look at. */
static int32_t form(struct gm_shard *s, bool *more)
{
    const int32_t n = gm_shard_form(s, works, more);
    for (int32_t i = 0; i < n; i++)
        gm_work_free(&works[i]);
    return n;
}

static void test_chunks(void)
{
    struct gm_shard s;
    struct gm_ticket t;
    bool more;
    shard_open(&s, true);
    ticket_add(&s, &t, 1, 600);
    CU_ASSERT_EQUAL(form(&s, &more), 0);
    CU_ASSERT_EQUAL(gm_shard_prompt(&s, 1, 600, true, NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_shard_prompt(&s, 1, 20, true, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(form(&s, &more), 1);
    CU_ASSERT(works[0].pos == 20 && works[0].n == GM_CHUNK_ALONE && works[0].start);
    CU_ASSERT(!works[0].last && !works[0].decode && more);
    CU_ASSERT_EQUAL_FATAL(form(&s, &more), 1);
    CU_ASSERT(works[0].pos == 20 + GM_CHUNK_ALONE && !works[0].start && !more);
    CU_ASSERT_EQUAL(form(&s, &more), 0); /* two are in flight */
    gm_shard_chunk_done(&s, 1);
    CU_ASSERT_EQUAL_FATAL(form(&s, &more), 1);
    CU_ASSERT(works[0].n == 600 - 20 - 2 * GM_CHUNK_ALONE && works[0].last && !more);
    free(t.prompt);
    shard_done(&s);
}

static void test_decode_first(void)
{
    struct gm_shard s;
    struct gm_ticket a, b;
    bool more;
    shard_open(&s, true);
    ticket_add(&s, &a, 1, 10);
    ticket_add(&s, &b, 2, 500);
    CU_ASSERT_EQUAL(gm_shard_prompt(&s, 2, 0, true, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_shard_chosen(&s, 1, 10, 77, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_shard_chosen(&s, 1, 11, 78, NULL), GM_DATA_LOSS); /* one row at a time */
    CU_ASSERT_EQUAL(gm_shard_chosen(&s, 2, 500, 1, NULL), GM_DATA_LOSS); /* its prompt waits */
    CU_ASSERT_EQUAL(gm_shard_chosen(&s, 9, 0, 1, NULL), GM_OK);          /* unknown: dropped */
    CU_ASSERT_EQUAL_FATAL(form(&s, &more), 2);
    CU_ASSERT(works[0].decode && works[0].ticket == 1 && works[0].pos == 10);
    CU_ASSERT(works[1].ticket == 2 && works[1].n == GM_CHUNK_BESIDE);
    /* The decode row is elsewhere in the ring now, and still bounds the chunk. */
    CU_ASSERT_EQUAL_FATAL(form(&s, &more), 1);
    CU_ASSERT_EQUAL(works[0].n, GM_CHUNK_BESIDE);
    free(a.prompt);
    free(b.prompt);
    shard_done(&s);
}

static void test_turns(void)
{
    struct gm_shard s;
    struct gm_ticket t[3];
    bool more;
    int seen[4] = { 0, 0, 0, 0 };
    shard_open(&s, true);
    for (uint64_t i = 0; i < 3; i++) {
        ticket_add(&s, &t[i], i + 1, 1000);
        CU_ASSERT_EQUAL(gm_shard_prompt(&s, i + 1, 0, true, NULL), GM_OK);
    }
    for (int step = 0; step < 3; step++) {
        CU_ASSERT_EQUAL_FATAL(form(&s, &more), 1);
        seen[works[0].ticket]++;
    }
    CU_ASSERT(seen[1] == 1 && seen[2] == 1 && seen[3] == 1);
    for (int i = 0; i < 3; i++)
        free(t[i].prompt);
    shard_done(&s);
}

static struct gm_work arrived(int32_t n, bool decode)
{
    struct gm_work w = { .ticket = 1, .n = n, .decode = decode };
    w.ids = calloc((size_t)n, sizeof *w.ids);
    w.rows = calloc((size_t)n, sizeof *w.rows);
    return w;
}

static int faults;

static void on_fault(void *ctx, const struct gm_ticket *t, const struct gm_err *why)
{
    (void)ctx;
    CU_ASSERT(t->id == 1 && why->status == GM_DATA_LOSS && why->text[0]);
    faults++;
}

static void test_later_shard(void)
{
    struct gm_shard s;
    struct gm_ticket t;
    bool more;
    shard_open(&s, false);
    ticket_add(&s, &t, 1, 1000);
    for (int i = 0; i < 3; i++) {
        struct gm_work w = arrived(256, false);
        CU_ASSERT_EQUAL(gm_shard_arrived(&s, &w, NULL), GM_OK);
        CU_ASSERT_PTR_NULL(w.rows);
    }
    CU_ASSERT_EQUAL(form(&s, &more), 2); /* 512 rows are a full batch */
    CU_ASSERT_TRUE(more);
    struct gm_work d = arrived(1, true), p = arrived(256, false);
    CU_ASSERT_EQUAL(gm_shard_arrived(&s, &p, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_shard_arrived(&s, &d, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(form(&s, &more), 2); /* the decode row, and one prefill span */
    CU_ASSERT(works[0].decode && !works[1].decode && more);
    CU_ASSERT_EQUAL(form(&s, &more), 1);
    CU_ASSERT_FALSE(more);
    free(t.prompt);
    shard_done(&s);
}

/* Rows that nobody asked for take no place of those that are waited for. */
static void test_too_much(void)
{
    struct gm_shard s;
    struct gm_ticket t;
    struct gm_work w = arrived(2, false);
    bool more;
    shard_open(&s, false);
    s.out.fault = on_fault;
    faults = 0;
    CU_ASSERT_EQUAL(gm_shard_arrived(&s, &w, NULL), GM_OK); /* an unknown ticket */
    CU_ASSERT(w.rows != NULL && s.prefill.n == 0);
    ticket_add(&s, &t, 1, 1000);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < GM_TICKET_WORKS_MAX; i++) {
            struct gm_work more_rows = arrived(2, i % 2 == 0);
            CU_ASSERT_EQUAL(gm_shard_arrived(&s, &more_rows, NULL), GM_OK);
        }
        CU_ASSERT_EQUAL(gm_shard_arrived(&s, &w, NULL), GM_DATA_LOSS);
        CU_ASSERT(w.rows != NULL && faults == round + 1);
        for (more = true; more;)
            CU_ASSERT(form(&s, &more) > 0); /* there is room again */
    }
    gm_work_free(&w);
    free(t.prompt);
    shard_done(&s);
}

static int32_t nearest_together(int32_t rows)
{
    return (rows + GM_ROWS_TOGETHER / 2) / GM_ROWS_TOGETHER * GM_ROWS_TOGETHER;
}

/* A step is filled up to whole groups of rows, decode rows counted. */
static void test_together(void)
{
    struct gm_shard s;
    struct gm_ticket a, b;
    bool more;
    shard_open(&s, true);
    ticket_add(&s, &a, 1, 10);
    ticket_add(&s, &b, 2, 500);
    s.pace = (struct gm_pace){ .row_us = 400.0, .decode_rows = 1 };
    s.pace.decode_us[1] = 10000.0;
    CU_ASSERT_EQUAL(gm_shard_prompt(&s, 2, 0, true, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_shard_chosen(&s, 1, 10, 77, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(form(&s, &more), 2);
    CU_ASSERT_EQUAL((works[1].n + 1) % GM_ROWS_TOGETHER, 0);
    CU_ASSERT_EQUAL(works[1].n + 1, nearest_together(1 + 10000 * GM_BESIDE_PERCENT / 100 / 400));
    free(a.prompt);
    free(b.prompt);
    shard_done(&s);
}

/* Short prompts go whole beside decode rows, one in a step; a long one goes on meanwhile. */
static void test_short_prompts(void)
{
    struct gm_shard s;
    struct gm_ticket a, b, c, d;
    bool more;
    shard_open(&s, true);
    ticket_add(&s, &a, 1, 1000);
    ticket_add(&s, &b, 2, GM_CHUNK_SHORT);
    ticket_add(&s, &c, 3, GM_CHUNK_SHORT + 20);
    ticket_add(&s, &d, 4, GM_CHUNK_SHORT + 1);
    CU_ASSERT_EQUAL(gm_shard_prompt(&s, 1, 0, true, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_shard_prompt(&s, 2, 0, true, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_shard_prompt(&s, 3, 20, true, NULL), GM_OK); /* of which 20 are there */
    s.decode_us = gm_now_us();
    uint64_t whole[2];
    for (int i = 0; i < 2; i++) {
        CU_ASSERT_EQUAL_FATAL(form(&s, &more), 2);
        whole[i] = works[0].ticket;
        CU_ASSERT(works[0].n == GM_CHUNK_SHORT && works[0].start && works[0].last);
        CU_ASSERT(works[1].ticket == 1 && works[1].n == GM_CHUNK_BESIDE_MIN);
    }
    CU_ASSERT(whole[0] + whole[1] == 5 && whole[0] != whole[1]);
    gm_shard_chunk_done(&s, 1);
    gm_shard_chunk_done(&s, 1);
    CU_ASSERT_EQUAL(gm_shard_prompt(&s, 4, 0, true, NULL), GM_OK);
    const int32_t n = form(&s, &more); /* no short one is left: chunks within the budget */
    int32_t rows = 0;
    for (int32_t i = 0; i < n; i++)
        rows += works[i].n;
    CU_ASSERT_EQUAL(rows, GM_CHUNK_BESIDE);
    free(a.prompt);
    free(b.prompt);
    free(c.prompt);
    free(d.prompt);
    shard_done(&s);
}

/* Chunks beside decode rows add GM_BESIDE_PERCENT to their step, whatever a row costs. */
static void test_pace(void)
{
    struct gm_pace p = { 0 };
    gm_shard_pace(&p, 0, 100, 20000.0); /* 200 us a row */
    CU_ASSERT_DOUBLE_EQUAL(p.row_us, 200.0, 1e-9);
    gm_shard_pace(&p, 8, 10, 9999.0); /* not known yet what decode rows alone take */
    CU_ASSERT_DOUBLE_EQUAL(p.row_us, 200.0, 1e-9);
    for (int i = 0; i < 100; i++)
        gm_shard_pace(&p, 8, 0, 10000.0);
    CU_ASSERT_DOUBLE_EQUAL(p.decode_us[8], 10000.0, 1e-6);
    for (int i = 0; i < 100; i++)
        gm_shard_pace(&p, 8, 10, 14000.0); /* 400 us a row beside them */
    CU_ASSERT_DOUBLE_EQUAL(p.row_us, 400.0, 1.0);
    CU_ASSERT_DOUBLE_EQUAL(p.decode_us[8], 10000.0, 1e-6);
    gm_shard_pace(&p, 8, 10, 9000.0); /* less than nothing counts as nothing */
    CU_ASSERT(p.row_us > 0.0 && p.row_us < 400.0);
    struct gm_shard s;
    struct gm_ticket t;
    bool more;
    shard_open(&s, true);
    ticket_add(&s, &t, 1, 1000);
    CU_ASSERT_EQUAL(gm_shard_prompt(&s, 1, 0, true, NULL), GM_OK);
    s.decode_us = gm_now_us();
    s.pace = (struct gm_pace){ .row_us = 400.0, .decode_rows = 3 };
    s.pace.decode_us[8] = 10000.0; /* the nearest that is known */
    CU_ASSERT_EQUAL_FATAL(form(&s, &more), 1);
    CU_ASSERT_EQUAL(works[0].n, nearest_together(10000 * GM_BESIDE_PERCENT / 100 / 400));
    s.pace.row_us = 1e6;
    CU_ASSERT_EQUAL_FATAL(form(&s, &more), 1);
    CU_ASSERT_EQUAL(works[0].n, GM_CHUNK_BESIDE_MIN);
    free(t.prompt);
    shard_done(&s);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("shard", NULL, NULL);
    CU_add_test(suite, "chunks and what is in flight", test_chunks);
    CU_add_test(suite, "steps of whole groups of rows", test_together);
    CU_add_test(suite, "short prompts go whole", test_short_prompts);
    CU_add_test(suite, "pace of chunks beside decode rows", test_pace);
    CU_add_test(suite, "decode rows come first and bound chunks", test_decode_first);
    CU_add_test(suite, "prompts take turns", test_turns);
    CU_add_test(suite, "queues of a later shard", test_later_shard);
    CU_add_test(suite, "rows that nobody asked for", test_too_much);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed > 0;
}
