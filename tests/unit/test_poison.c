// uses: tests/unit/orch_ring.c orchestrator/edge.c orchestrator/record.c orchestrator/recover.c
// uses: orchestrator/poison.c orchestrator/replay.c orchestrator/ring.c orchestrator/roster.c
// uses: orchestrator/serve.c
// uses: orchestrator/session.c orchestrator/session_calls.c orchestrator/turn.c
/* test_poison.c - the orchestrator while its shard dies: who is ended, and who never is.
 *
 * Owns:      checks of poison.c and of what a failed process means, on a ring that computes
 * nothing. Does not:  kill real processes (tests/system/test_heal.py, tools/chaos).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <string.h>

#include "orchestrator/orch.h"
#include "tests/unit/orch_ring.h"

enum { INNOCENT = 3, TOKENS = 12, PROMPT = 20, POISON = 33, SLOW = 4 };

struct heard {
    int n, ends, wrong;
    uint32_t prompt;
    struct gm_err err;
};

static struct gm_follows *all;
static int32_t ids[RING_CONTEXT];

static void on_event(void *ctx, const Gm__TurnEvent *event)
{
    struct heard *h = ctx;
    if (event->started)
        h->prompt = event->started->prompt_tokens;
    for (size_t i = 0; i < event->n_tokens; i++) {
        const uint32_t pos = h->prompt + (uint32_t)h->n++;
        h->wrong += event->tokens[i]->pos != pos || event->tokens[i]->id != orch_token(pos);
    }
}

static void on_end(void *ctx, const struct gm_err *err)
{
    struct heard *h = ctx;
    h->ends++;
    h->err = *err;
}

static void spin(const int *counter, int until)
{
    const int64_t end = gm_now_ms() + 3 * RING_PATIENCE_MS;
    while (gm_now_ms() < end && *counter < until) {
        (void)gm_follows_tick(all);
        orch_turn(1);
    }
    CU_ASSERT(*counter >= until);
}

/* A turn of so many ids; 0: of these messages. */
static void start_with(struct heard *h, size_t n_ids, const char *messages)
{
    static int serial;
    char turn[32];
    const struct gm_follow_to to = { .event = on_event, .end = on_end, .ctx = h };
    Gm__StartRequest r = GM__START_REQUEST__INIT;
    Gm__Sampling sampling = GM__SAMPLING__INIT;
    struct gm_err err = GM_ERR_NONE;
    for (size_t i = 0; i < n_ids; i++)
        ids[i] = 100 + (int32_t)i;
    (void)snprintf(turn, sizeof turn, "turn-%d", serial++);
    sampling.has_max_tokens = 1;
    sampling.max_tokens = TOKENS;
    r.turn = turn;
    r.sampling = &sampling;
    r.n_ids = n_ids;
    r.ids = ids;
    r.has_messages = n_ids == 0;
    r.messages.data = (uint8_t *)(uintptr_t)messages;
    r.messages.len = strlen(messages);
    *h = (struct heard){ .err = GM_ERR_NONE };
    CU_ASSERT(gm_follow_start(all, &to, &r, &err) != NULL);
}

static void start(struct heard *h, size_t n_ids)
{
    start_with(h, n_ids, "");
}

static void check_whole(const struct heard *h)
{
    CU_ASSERT_EQUAL(h->ends, 1);
    CU_ASSERT_EQUAL(h->err.status, GM_OK);
    CU_ASSERT_EQUAL(h->n, TOKENS);
    CU_ASSERT_EQUAL(h->wrong, 0);
}

static void reset(void)
{
    ring = (struct ring){ .slow = 0 };
}

/* ---- tests -------------------------------------------------------------------------------------
 */

static void test_poison_alone(void)
{
    struct heard h;
    reset();
    ring.poison = POISON;
    start(&h, POISON);
    spin(&h.ends, 1);
    CU_ASSERT_EQUAL(h.err.status, GM_INTERNAL);
    CU_ASSERT(strstr(h.err.text, "given up") != NULL);
    CU_ASSERT_EQUAL(ring.deaths, GM_DEATHS_MAX);
}

/* Those beside it lose as many attempts, and end as if nothing had been. */
static void test_poison_among_others(void)
{
    struct heard h[INNOCENT], bad;
    reset();
    ring.slow = SLOW;
    for (int i = 0; i < INNOCENT; i++)
        start(&h[i], PROMPT);
    spin(&h[INNOCENT - 1].n, 2);
    ring.poison = POISON;
    start(&bad, POISON);
    spin(&bad.ends, 1);
    CU_ASSERT_EQUAL(bad.err.status, GM_INTERNAL);
    CU_ASSERT_EQUAL(bad.n, 0);
    CU_ASSERT(ring.deaths <= 2 + GM_DEATHS_MAX); /* two with the others, and its own */
    for (int i = 0; i < INNOCENT; i++) {
        spin(&h[i].ends, 1);
        check_whole(&h[i]);
    }
}

/* Whoever comes further between two deaths may see any number of them. */
static void test_deaths_with_progress(void)
{
    struct heard h[INNOCENT];
    reset();
    ring.slow = SLOW;
    for (int i = 0; i < INNOCENT; i++)
        start(&h[i], PROMPT);
    for (int death = 1; death < TOKENS; death++) {
        for (int i = 0; i < INNOCENT; i++)
            spin(&h[i].n, death);
        orch_shard_dies();
    }
    for (int i = 0; i < INNOCENT; i++) {
        spin(&h[i].ends, 1);
        check_whole(&h[i]);
    }
    CU_ASSERT_EQUAL(ring.deaths, TOKENS - 1);
}

/* Two deaths without progress make all of them suspects: each shows alone that it is none, and then
 * they go on side by side. */
static void test_suspects_go_on_together(void)
{
    struct heard h[INNOCENT];
    reset();
    ring.hold = 2;
    for (int i = 0; i < INNOCENT; i++)
        start(&h[i], PROMPT);
    for (int i = 0; i < INNOCENT; i++)
        spin(&h[i].n, 2);
    const int before = ring.reserved;
    orch_shard_dies();
    spin(&ring.reserved, before + INNOCENT);
    ring.slow = SLOW;
    orch_shard_dies();
    ring.hold = 0;
    int ended = 0;
    for (const int64_t end = gm_now_ms() + RING_PATIENCE_MS; !ended && gm_now_ms() < end;) {
        (void)gm_follows_tick(all);
        orch_turn(1);
        for (int i = 0; i < INNOCENT; i++)
            ended += h[i].ends;
    }
    CU_ASSERT(ended > 0); /* the first; the others are nearly there */
    for (int i = 0; i < INNOCENT; i++)
        CU_ASSERT(h[i].n > TOKENS / 2);
    for (int i = 0; i < INNOCENT; i++) {
        spin(&h[i].ends, 1);
        check_whole(&h[i]);
    }
}

/* A turn that fails by itself is ended, and takes nobody with it. */
static void test_faults(void)
{
    struct heard h, bad;
    reset();
    ring.slow = SLOW;
    ring.fault = POISON;
    start(&h, PROMPT);
    start(&bad, POISON);
    spin(&bad.ends, 1);
    CU_ASSERT_EQUAL(bad.err.status, GM_INTERNAL);
    CU_ASSERT(strstr(bad.err.text, "numbers that are none") != NULL);
    CU_ASSERT_EQUAL(ring.faults, GM_DEATHS_MAX);
    spin(&h.ends, 1);
    check_whole(&h);
}

static void on_info(void *ctx, bool last, const ProtobufCMessage *body, const struct gm_err *err)
{
    int *state = ctx;
    (void)last, (void)body;
    *state = err->status == GM_PRECONDITION ? 2 : 1;
}

/* Waits until the orchestrator says of itself that a process failed. */
static void wait_failed(void)
{
    const Gm__Empty empty = GM__EMPTY__INIT;
    struct gm_err err = GM_ERR_NONE;
    struct gm_peer *peer = gm_bus_peer(bus, orch_endpoint, &err);
    int state = 1;
    for (const int64_t end = gm_now_ms() + RING_PATIENCE_MS; state < 2 && gm_now_ms() < end;) {
        if (state == 1)
            gm_rpc_call(rpc,
                        &(struct gm_call){ peer, "Orchestrator.Info", &empty.base,
                                           &gm__info_reply__descriptor, RING_PATIENCE_MS, 0,
                                           on_info, &state },
                        &err);
        state = state == 1 ? 0 : state;
        (void)gm_follows_tick(all);
        orch_turn(1);
    }
    CU_ASSERT_EQUAL(state, 2);
}

/* The supervisor says that the shard keeps dying: who asks now is told at once, who runs waits for
 * it. */
static void test_failed(void)
{
    struct heard h, late;
    reset();
    ring.slow = SLOW;
    start(&h, PROMPT);
    spin(&h.n, 2);
    ring.mute = true;
    orch_shard_dies();
    orch_shard_failed("of one that was heard just now nothing is believed");
    for (const int64_t until = gm_now_ms() + 2 * GM_HELLO_MS; gm_now_ms() <= until;)
        orch_turn(1);
    orch_shard_failed("shard-0: signal 11");
    wait_failed();
    start(&late, PROMPT);
    spin(&late.ends, 1);
    CU_ASSERT_EQUAL(late.err.status, GM_UNAVAILABLE);
    CU_ASSERT_STRING_EQUAL(late.err.text, "shard-0: signal 11");
    CU_ASSERT(late.err.retry_ms > 0);
    CU_ASSERT_EQUAL(h.ends, 0);
    ring.mute = false;
    spin(&h.ends, 1);
    check_whole(&h);
    start(&late, PROMPT);
    spin(&late.ends, 1);
    check_whole(&late);
}

/* The tokenizer dies of one text: that turn ends, those that asked beside it are served. */
static void test_bad_text(void)
{
    struct heard h[2 * INNOCENT], bad;
    reset();
    ring.bad = "[1]";
    for (int i = 0; i < INNOCENT; i++)
        start_with(&h[i], 0, "[]");
    start_with(&bad, 0, ring.bad);
    for (int i = INNOCENT; i < 2 * INNOCENT; i++)
        start_with(&h[i], 0, "[]");
    spin(&bad.ends, 1);
    CU_ASSERT_EQUAL(bad.err.status, GM_INTERNAL);
    CU_ASSERT(strstr(bad.err.text, "given up") != NULL);
    CU_ASSERT_EQUAL(ring.deaths, GM_DEATHS_MAX);
    for (int i = 0; i < 2 * INNOCENT; i++) {
        spin(&h[i].ends, 1);
        check_whole(&h[i]);
    }
}

int main(void)
{
    struct gm_err err = GM_ERR_NONE;
    if (!orch_start() || !orch_up() || CU_initialize_registry() != CUE_SUCCESS ||
        gm_follows_open(&all, bus, rpc, orch_endpoint, &err) != GM_OK)
        return orch_stop(), 2;
    CU_pSuite suite = CU_add_suite("poison", NULL, NULL);
    if (suite == NULL || !CU_add_test(suite, "a turn that kills", test_poison_alone) ||
        !CU_add_test(suite, "the same among others", test_poison_among_others) ||
        !CU_add_test(suite, "deaths with progress between", test_deaths_with_progress) ||
        !CU_add_test(suite, "suspects go on together", test_suspects_go_on_together) ||
        !CU_add_test(suite, "a turn that fails by itself", test_faults) ||
        !CU_add_test(suite, "a text that kills", test_bad_text) ||
        !CU_add_test(suite, "a shard that keeps dying", test_failed))
        return orch_stop(), 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    gm_follows_close(&all);
    return orch_stop() != 0 || failures > 0;
}
