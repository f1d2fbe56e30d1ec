// uses: tests/unit/orch_ring.c orchestrator/edge.c orchestrator/record.c orchestrator/recover.c
// uses: orchestrator/replay.c orchestrator/ring.c orchestrator/roster.c orchestrator/serve.c
// uses: orchestrator/session.c orchestrator/session_calls.c orchestrator/turn.c
/* test_trace.c - one trace from the caller through the orchestrator to every process of the ring.
 *
 * Owns:      the checks that a turn's calls are spans of its caller's trace, after a restart too.
 * Does not:  check the form of a traceparent (test_conformance.c) or HTTP (tests/system).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "orchestrator/orch.h"
#include "tests/unit/orch_ring.h"

#define TRACE_ID "4bf92f3577b34da6a3ce929d0e0e4736"
#define PARENT   "00-" TRACE_ID "-00f067aa0ba902b7-01"

static struct gm_follows *all;
static Gm__Sampling sampling;

struct heard {
    int n, ends;
    struct gm_err err;
};

static void on_event(void *ctx, const Gm__TurnEvent *event)
{
    ((struct heard *)ctx)->n += (int)event->n_tokens;
}

static void on_end(void *ctx, const struct gm_err *err)
{
    struct heard *h = ctx;
    h->ends++;
    h->err = *err;
}

static void spin(int ms, const int *counter, int until)
{
    const int64_t end = gm_now_ms() + ms;
    while (gm_now_ms() < end && (!counter || *counter < until)) {
        (void)gm_follows_tick(all);
        orch_turn(1);
    }
}

static void start(struct heard *h, const char *turn, const char *trace)
{
    struct gm_err err = GM_ERR_NONE;
    const struct gm_follow_to to = { on_event, on_end, h, 0, trace };
    Gm__StartRequest r = GM__START_REQUEST__INIT;
    *h = (struct heard){ .err = GM_ERR_NONE };
    gm__sampling__init(&sampling);
    sampling.has_max_tokens = 1;
    sampling.max_tokens = 12;
    r.turn = (char *)(uintptr_t)turn;
    r.sampling = &sampling;
    r.has_messages = 1;
    r.messages.data = (uint8_t *)(uintptr_t) "[]";
    r.messages.len = 2;
    memset(&ring_trace, 0, sizeof ring_trace);
    CU_ASSERT_PTR_NOT_NULL_FATAL(gm_follow_start(all, &to, &r, &err));
}

/* A span of our trace that is not the caller's own, and sampled as the caller's was. */
static bool is_child(const char *trace)
{
    return gm_trace_ok(trace) && strncmp(trace + 3, TRACE_ID, 32) == 0 &&
           strncmp(trace + 36, PARENT + 36, 16) != 0 && strcmp(trace + 53, "01") == 0;
}

static void test_through(void)
{
    struct heard h;
    start(&h, "traced-1", PARENT);
    spin(RING_PATIENCE_MS, &h.ends, 1);
    spin(100, NULL, 0); /* Release and Close are not waited for */
    CU_ASSERT_EQUAL(h.err.status, GM_OK);
    CU_ASSERT_EQUAL(h.n, 12);
    CU_ASSERT(is_child(ring_trace.encode));
    CU_ASSERT(is_child(ring_trace.open));
    CU_ASSERT(is_child(ring_trace.reserve));
    CU_ASSERT(is_child(ring_trace.release));
    CU_ASSERT(is_child(ring_trace.close));
    CU_ASSERT_STRING_NOT_EQUAL(ring_trace.open, ring_trace.reserve); /* each call is a span */
}

static void test_none(void)
{
    static const char *const bad[] = { NULL, "", "00-" TRACE_ID "-0000000000000000-01",
                                       "nonsense" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct heard h;
        char turn[16];
        (void)snprintf(turn, sizeof turn, "untraced-%zu", i);
        start(&h, turn, bad[i]);
        spin(RING_PATIENCE_MS, &h.ends, 1);
        CU_ASSERT_EQUAL(h.err.status, GM_OK);
        CU_ASSERT_STRING_EQUAL(ring_trace.open, "");
        CU_ASSERT_STRING_EQUAL(ring_trace.reserve, "");
    }
}

/* The next orchestrator reads the turn from Redis, and its trace with it. */
static void test_restart(void)
{
    struct heard h;
    ring.hold = 4;
    start(&h, "traced-2", PARENT);
    spin(RING_PATIENCE_MS, &h.n, 4);
    CU_ASSERT_EQUAL(h.n, 4);
    spin(200, NULL, 0); /* the journal is written */
    orch_signal(SIGKILL);
    memset(&ring_trace, 0, sizeof ring_trace);
    CU_ASSERT_FATAL(orch_up());
    ring.hold = 0;
    spin(RING_PATIENCE_MS, &h.ends, 1);
    CU_ASSERT_EQUAL(h.err.status, GM_OK);
    CU_ASSERT_EQUAL(h.n, 12);
    CU_ASSERT(is_child(ring_trace.open));
    CU_ASSERT(is_child(ring_trace.reserve));
}

static void test_words(void)
{
    char id[GM_TRACE_ID_MAX];
    CU_ASSERT_STRING_EQUAL(gm_trace_id(id, PARENT), TRACE_ID);
    CU_ASSERT_STRING_EQUAL(gm_trace_id(id, ""), "-");
    CU_ASSERT_STRING_EQUAL(gm_trace_id(id, NULL), "-");
    CU_ASSERT_STRING_EQUAL(gm_trace_id(id, "00-" TRACE_ID), "-");
}

int main(void)
{
    struct gm_err err = GM_ERR_NONE;
    if (!orch_start() || !orch_up() || CU_initialize_registry() != CUE_SUCCESS ||
        gm_follows_open(&all, bus, rpc, orch_endpoint, &err) != GM_OK)
        return orch_stop(), 2;
    CU_pSuite suite = CU_add_suite("orchestrator: traces", NULL, NULL);
    if (suite == NULL || !CU_add_test(suite, "to every process", test_through) ||
        !CU_add_test(suite, "none, or none that is valid", test_none) ||
        !CU_add_test(suite, "killed and started again", test_restart) ||
        !CU_add_test(suite, "names in log lines", test_words))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    gm_follows_close(&all);
    return orch_stop() != 0 || failures > 0;
}
