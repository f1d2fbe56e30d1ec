// uses: tests/unit/orch_ring.c orchestrator/edge.c orchestrator/record.c orchestrator/recover.c
// uses: orchestrator/replay.c orchestrator/ring.c orchestrator/roster.c orchestrator/serve.c
// uses: orchestrator/poison.c
// uses: orchestrator/session.c orchestrator/session_calls.c orchestrator/turn.c
/* test_orch_hostile.c - the orchestrator with a ring and clients that do what they should not.
 *
 * Owns:      cases that fuzzing found (tests/fuzz/fuzz_edge_orchestrator.c).
 * Does not:  test what a turn is (test_orch.c).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <string.h>

#include "orchestrator/orch.h"
#include "tests/unit/orch_ring.h"

enum { SCORED = 5 };

struct heard {
    int done, items, rows;
    uint32_t next; /* position of the next row */
    bool in_order;
    struct gm_err err;
};

static void on_answer(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct heard *h = ctx;
    h->done += done;
    h->items += !done;
    h->err = *err;
    if (body == NULL || body->descriptor != &gm__score_event__descriptor)
        return;
    const Gm__ScoreEvent *e = (const Gm__ScoreEvent *)body;
    for (size_t i = 0; i < e->n_rows; i++, h->rows++)
        h->in_order &= e->rows[i]->pos == h->next++;
}

static void spin(int64_t ms, const int *counter, int until)
{
    const int64_t end = gm_now_ms() + ms;
    while (gm_now_ms() < end && *counter < until)
        orch_turn(1);
}

static bool ask(const char *method, const ProtobufCMessage *request,
                const ProtobufCMessageDescriptor *item, uint32_t credit, struct heard *h)
{
    struct gm_err err = GM_ERR_NONE;
    *h = (struct heard){ .in_order = true, .err = GM_ERR_NONE };
    return gm_rpc_call(rpc,
                       &(struct gm_call){ gm_bus_peer(bus, orch_endpoint, &err), method, request,
                                          item, 0, credit, on_answer, h },
                       &err) != 0;
}

/* A token for a score is dropped; rows come in one message, some twice, some that nobody asked. */
static void test_score(void)
{
    static int32_t ids[SCORED] = { 4, 5, 6, 7, 8 };
    static const uint32_t positions[] = { 3, 0, 1, 1, 2, 3, 4, 5, 6 };
    enum { N = sizeof positions / sizeof *positions };
    Gm__ScoreRow rows[N], *list[N];
    Gm__Scored scored = GM__SCORED__INIT;
    Gm__Token token = GM__TOKEN__INIT, *tokens[] = { &token };
    Gm__Emitted emitted = GM__EMITTED__INIT;
    Gm__ScoreRequest r = GM__SCORE_REQUEST__INIT;
    struct heard h;
    r.n_ids = SCORED;
    r.ids = ids;
    ring.reserved = 0;
    CU_ASSERT_FATAL(ask("Orchestrator.Score", &r.base, &gm__score_event__descriptor, SCORED, &h));
    spin(RING_PATIENCE_MS, &ring.reserved, 1);
    CU_ASSERT_EQUAL_FATAL(ring.reserved, 1);
    const int never = 0;
    spin(100, &never, 1); /* the prompt has been sent: the score runs */
    token.pos = SCORED;
    emitted.ticket = ring.ticket;
    emitted.n_tokens = 1;
    emitted.tokens = tokens;
    emitted.finish = (char *)(uintptr_t) "stop";
    orch_post(GM__KIND__EMITTED, &emitted.base);
    for (int i = 0; i < N; i++) {
        gm__score_row__init(&rows[i]);
        rows[i].pos = positions[i];
        list[i] = &rows[i];
    }
    scored.ticket = ring.ticket;
    scored.n_rows = N;
    scored.rows = list;
    orch_post(GM__KIND__SCORED, &scored.base);
    spin(RING_PATIENCE_MS, &h.done, 1);
    CU_ASSERT_EQUAL(h.done, 1);
    CU_ASSERT_EQUAL(h.err.status, GM_OK);
    CU_ASSERT(h.rows == SCORED && h.in_order);
}

/* Who asks for a turn that has ended, takes a part and is never heard of again is let go. */
static void test_silent(void)
{
    static int32_t ids[] = { 4, 5, 6 };
    Gm__StartRequest start = GM__START_REQUEST__INIT;
    Gm__Sampling sampling = GM__SAMPLING__INIT;
    Gm__ResumeRequest again = GM__RESUME_REQUEST__INIT;
    struct heard h;
    start.turn = again.turn = (char *)(uintptr_t) "told";
    start.n_ids = 3;
    start.ids = ids;
    sampling.has_max_tokens = 1;
    sampling.max_tokens = 10;
    start.sampling = &sampling;
    CU_ASSERT_FATAL(ask("Orchestrator.StartTurn", &start.base, &gm__turn_event__descriptor,
                        GM_STREAM_CREDIT, &h));
    spin(RING_PATIENCE_MS, &h.done, 1);
    CU_ASSERT_EQUAL_FATAL(h.err.status, GM_OK);
    const int64_t began = gm_now_ms();
    CU_ASSERT_FATAL(ask("Orchestrator.Resume", &again.base, &gm__turn_event__descriptor, 1, &h));
    spin(GM_ORPHAN_MS + RING_PATIENCE_MS, &h.done, 1);
    CU_ASSERT_EQUAL(h.done, 1);
    CU_ASSERT_EQUAL(h.items, 1); /* there was credit for one */
    CU_ASSERT_EQUAL(h.err.status, GM_CANCELLED);
    CU_ASSERT(gm_now_ms() - began >= GM_ORPHAN_MS);
}

/* A turn of no tokens was sent to the ring, with a last position below 0. */
static void test_empty(void)
{
    Gm__StartRequest start = GM__START_REQUEST__INIT;
    struct heard h;
    start.turn = (char *)(uintptr_t) "empty";
    start.has_messages = 1;
    start.messages = (ProtobufCBinaryData){ 2, (uint8_t *)(uintptr_t) "[]" };
    ring.empty = true;
    ring.reserved = 0;
    CU_ASSERT_FATAL(ask("Orchestrator.StartTurn", &start.base, &gm__turn_event__descriptor,
                        GM_STREAM_CREDIT, &h));
    spin(RING_PATIENCE_MS, &h.done, 1);
    ring.empty = false;
    CU_ASSERT_EQUAL(h.done, 1);
    CU_ASSERT_EQUAL(h.err.status, GM_INVALID);
    CU_ASSERT_EQUAL(ring.reserved, 0);
}

int main(void)
{
    if (!orch_start() || !orch_up() || CU_initialize_registry() != CUE_SUCCESS)
        return orch_stop(), 2;
    CU_pSuite suite = CU_add_suite("the orchestrator, among the unruly", NULL, NULL);
    if (suite == NULL || !CU_add_test(suite, "a score and a forged answer", test_score) ||
        !CU_add_test(suite, "a turn of no tokens", test_empty) ||
        !CU_add_test(suite, "a silent client", test_silent))
        return orch_stop(), 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return orch_stop() != 0 || failures > 0;
}
