// uses: tests/unit/orch_ring.c orchestrator/edge.c orchestrator/record.c orchestrator/recover.c
// uses: orchestrator/replay.c orchestrator/ring.c orchestrator/roster.c orchestrator/serve.c
// uses: orchestrator/session.c orchestrator/session_calls.c orchestrator/turn.c
/* test_orch.c - the orchestrator with Redis and a ring that computes nothing.
 *
 * Owns:      the checks of what a turn's request asks for: ids, no keeping, patience, attaching.
 * Does not:  compute tokens (tests/system), or test the client's part by itself (test_follow.c).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/orch.h"
#include "tests/unit/orch_ring.h"

struct heard {
    int n, started, finished, ends, wrong;
    uint32_t prompt, first; /* prompt_tokens; the first answer token expected */
    char session[GM_ID_MAX + 1], turn[GM_ID_MAX + 1], reason[16];
    uint64_t seed;
    struct gm_err err;
};

static struct gm_follows *all;

static void on_event(void *ctx, const Gm__TurnEvent *event)
{
    struct heard *h = ctx;
    if (event->started) {
        h->started++;
        h->prompt = event->started->prompt_tokens;
        h->seed = event->started->seed;
        snprintf(h->session, sizeof h->session, "%s", event->started->session);
        snprintf(h->turn, sizeof h->turn, "%s", event->started->turn ? event->started->turn : "");
    }
    for (size_t i = 0; i < event->n_tokens; i++) {
        const uint32_t pos = h->prompt + h->first + (uint32_t)h->n++;
        h->wrong += event->tokens[i]->pos != pos || event->tokens[i]->id != orch_token(pos);
    }
    if (event->finished) {
        h->finished++;
        snprintf(h->reason, sizeof h->reason, "%s", event->finished->reason);
    }
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

/* ---- requests ----------------------------------------------------------------------------------
 */

static Gm__Sampling sampling;
static int32_t numbers[RING_CONTEXT];

static Gm__StartRequest request_of(const char *turn, size_t n_ids, uint32_t max_tokens)
{
    Gm__StartRequest r = GM__START_REQUEST__INIT;
    gm__sampling__init(&sampling);
    sampling.has_max_tokens = 1;
    sampling.max_tokens = (int32_t)max_tokens;
    r.turn = (char *)(uintptr_t)turn;
    r.sampling = &sampling;
    for (size_t i = 0; i < n_ids; i++)
        numbers[i] = 100 + (int32_t)i;
    r.n_ids = n_ids;
    r.ids = numbers;
    r.has_messages = n_ids == 0;
    r.messages.data = (uint8_t *)(uintptr_t) "[]";
    r.messages.len = 2;
    return r;
}

static struct gm_follow *start(struct heard *h, const Gm__StartRequest *r)
{
    const struct gm_follow_to to = { on_event, on_end, h, 0, NULL };
    struct gm_err err = GM_ERR_NONE;
    *h = (struct heard){ .err = GM_ERR_NONE };
    return gm_follow_start(all, &to, r, &err);
}

static void run(struct heard *h, const Gm__StartRequest *r)
{
    CU_ASSERT(start(h, r) != NULL);
    spin(RING_PATIENCE_MS, &h->ends, 1);
}

static void resume(struct heard *h, const char *turn, const char *session, uint32_t from)
{
    const struct gm_follow_to to = { on_event, on_end, h, 0, NULL };
    struct gm_err err = GM_ERR_NONE;
    Gm__ResumeRequest r = GM__RESUME_REQUEST__INIT;
    *h = (struct heard){ .first = session ? from : 0, .err = GM_ERR_NONE };
    r.turn = (char *)(uintptr_t)turn;
    r.session = (char *)(uintptr_t)session;
    r.from = from;
    CU_ASSERT(gm_follow_resume(all, &to, &r, NULL, &err) != NULL);
}

static void check_whole(const struct heard *h, int n, const char *reason)
{
    CU_ASSERT_EQUAL(h->ends, 1);
    CU_ASSERT_EQUAL(h->err.status, GM_OK);
    CU_ASSERT_EQUAL(h->started, 1);
    CU_ASSERT_EQUAL(h->finished, 1);
    CU_ASSERT_EQUAL(h->n, n);
    CU_ASSERT_EQUAL(h->wrong, 0);
    CU_ASSERT_STRING_EQUAL(h->reason, reason);
    if (h->err.status != GM_OK)
        printf("\n%s\n", h->err.text);
}

struct asked {
    int done, sessions, turns;
    uint32_t tokens, running, waiting;
    struct gm_err err;
};

static void on_asked(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct asked *a = ctx;
    a->done += done;
    a->err = *err;
    if (body && body->descriptor == &gm__session_list__descriptor) {
        a->sessions = (int)((const Gm__SessionList *)body)->n_sessions;
    } else if (body && body->descriptor == &gm__session_reply__descriptor) {
        a->turns = (int)((const Gm__SessionReply *)body)->n_turns;
        a->tokens = ((const Gm__SessionReply *)body)->tokens;
    } else if (body && body->descriptor == &gm__health_reply__descriptor) {
        a->running = ((const Gm__HealthReply *)body)->sessions;
        a->waiting = ((const Gm__HealthReply *)body)->waiting;
    }
}

static struct asked ask(const char *method, const char *session,
                        const ProtobufCMessageDescriptor *reply)
{
    struct asked a = { .err = GM_ERR_NONE };
    struct gm_err err = GM_ERR_NONE;
    Gm__SessionRequest r = GM__SESSION_REQUEST__INIT;
    r.session = (char *)(uintptr_t)session;
    CU_ASSERT(gm_rpc_call(rpc,
                          &(struct gm_call){ gm_bus_peer(bus, orch_endpoint, &err), method, &r.base,
                                             reply, RING_PATIENCE_MS, 0, on_asked, &a },
                          &err) != 0);
    spin(RING_PATIENCE_MS, &a.done, 1);
    return a;
}

static int sessions_listed(void)
{
    return ask("Orchestrator.Sessions", NULL, &gm__session_list__descriptor).sessions;
}

/* ---- checks ------------------------------------------------------------------------------------
 */

static void test_ids(void)
{
    struct heard h;
    const int encoded = ring.encoded;
    Gm__StartRequest r = request_of("ids-1", 9, 20);
    r.session = (char *)"by-ids";
    run(&h, &r);
    check_whole(&h, 20, "length");
    CU_ASSERT_EQUAL(h.prompt, 9);
    CU_ASSERT_STRING_EQUAL(h.turn, "ids-1");
    CU_ASSERT_EQUAL(ring.encoded, encoded); /* nothing was encoded */
    CU_ASSERT_EQUAL(ring.n_prompt, 9);
    CU_ASSERT_EQUAL(memcmp(ring.prompt, numbers, 9 * sizeof *numbers), 0);
    struct asked a = ask("Orchestrator.Session", "by-ids", &gm__session_reply__descriptor);
    CU_ASSERT_EQUAL(a.turns, 1);
    CU_ASSERT_EQUAL(a.tokens, 9 + 20 + 2); /* what closes an answer, too */

    r.turn = (char *)"ids-2"; /* the session has begun */
    run(&h, &r);
    CU_ASSERT_EQUAL(h.err.status, GM_PRECONDITION);
    CU_ASSERT_EQUAL(h.err.detail, GM_DETAIL_NONE);
}

static void test_retry(void)
{
    struct heard h, first;
    Gm__StartRequest r = request_of("again-1", 6, 8);
    r.session = (char *)"again";
    run(&first, &r);
    r = request_of("again-2", 0, 8);
    r.session = (char *)"again";
    r.has_retry = r.retry = 1;
    run(&h, &r);
    check_whole(&h, 8, "length");
    CU_ASSERT_EQUAL(h.prompt, 6); /* the prompt as it was, though no message is known */
    CU_ASSERT_EQUAL(h.seed, first.seed + 1);
    const struct asked a = ask("Orchestrator.Session", "again", &gm__session_reply__descriptor);
    CU_ASSERT_EQUAL(a.turns, 1);
}

static void test_bad_ids(void)
{
    struct heard h;
    Gm__StartRequest r = request_of("bad-1", 4, 5);
    numbers[2] = RING_VOCAB;
    run(&h, &r);
    CU_ASSERT_EQUAL(h.err.status, GM_INVALID);
    CU_ASSERT(strstr(h.err.text, "1000") != NULL);
    r = request_of("bad-2", 4, 5);
    numbers[0] = -1;
    run(&h, &r);
    CU_ASSERT_EQUAL(h.err.status, GM_INVALID);
    r = request_of("bad-3", RING_CONTEXT, 5);
    run(&h, &r);
    CU_ASSERT_EQUAL(h.err.status, GM_PRECONDITION);
    CU_ASSERT_EQUAL(h.err.detail, GM_DETAIL_CONTEXT);
    CU_ASSERT(strstr(h.err.text, "--context") != NULL);
    r = request_of("bad-4", RING_CONTEXT - 1, 5); /* room for one token */
    run(&h, &r);
    check_whole(&h, 1, "length");
    r = request_of("bad-5", 4, 5);
    r.has_patience_ms = 1;
    r.patience_ms = GM_PATIENCE_MS_MAX + 1;
    run(&h, &r);
    CU_ASSERT_EQUAL(h.err.status, GM_INVALID);
}

/* A turn that finds no pages waits for them, as one that has not begun. */
static void test_waiting(void)
{
    struct heard h;
    Gm__StartRequest r = request_of("waits", 4, 5);
    ring.full = true;
    CU_ASSERT(start(&h, &r) != NULL);
    spin(300, &h.ends, 1);
    struct asked a = ask("Health.Check", NULL, &gm__health_reply__descriptor);
    CU_ASSERT_EQUAL(a.waiting, 1);
    CU_ASSERT_EQUAL(a.running, 0);
    ring.full = false;
    spin(RING_PATIENCE_MS, &h.ends, 1);
    check_whole(&h, 5, "length");
}

static void test_ephemeral(void)
{
    struct heard h, again;
    const int listed = sessions_listed();
    Gm__StartRequest r = request_of("eph-1", 5, 30);
    r.has_ephemeral = r.ephemeral = 1;
    run(&h, &r);
    check_whole(&h, 30, "length");
    CU_ASSERT_EQUAL(sessions_listed(), listed);
    struct asked a = ask("Orchestrator.Session", h.session, &gm__session_reply__descriptor);
    CU_ASSERT_EQUAL(a.err.status, GM_NOT_FOUND);
    const int reserved = ring.reserved;
    run(&again, &r); /* told again, not computed again */
    check_whole(&again, 30, "length");
    CU_ASSERT_STRING_EQUAL(again.session, h.session);
    CU_ASSERT_EQUAL(again.seed, h.seed);
    CU_ASSERT_EQUAL(ring.reserved, reserved);
    r.turn = (char *)"eph-2";
    r.session = (char *)"kept";
    r.ephemeral = 0;
    run(&h, &r);
    check_whole(&h, 30, "length");
    CU_ASSERT_EQUAL(sessions_listed(), listed + 1);
    r.turn = (char *)"eph-3";
    r.ephemeral = 1;
    run(&h, &r); /* would forget what is kept */
    CU_ASSERT_EQUAL(h.err.status, GM_PRECONDITION);
}

static void test_ended(void)
{
    struct heard h;
    Gm__StartRequest r = request_of("ended-1", 0, 25);
    r.session = (char *)"ended";
    run(&h, &r);
    check_whole(&h, 25, "length");
    r.turn = (char *)"ended-2";
    sampling.max_tokens = 7;
    run(&h, &r);
    check_whole(&h, 7, "length");
    CU_ASSERT_EQUAL(h.prompt, RING_ENCODED + 25 + 2 + RING_ENCODED);
    const int reserved = ring.reserved;
    r.turn = (char *)"ended-1"; /* an older one, from its own record */
    run(&h, &r);
    check_whole(&h, 25, "length");
    CU_ASSERT_EQUAL(h.prompt, RING_ENCODED);
    resume(&h, "", "ended", 3); /* the session's last one */
    spin(RING_PATIENCE_MS, &h.ends, 1);
    check_whole(&h, 4, "length");
    CU_ASSERT_STRING_EQUAL(h.turn, "ended-2");
    resume(&h, "", "nowhere", 0);
    spin(RING_PATIENCE_MS, &h.ends, 1);
    CU_ASSERT_EQUAL(h.err.status, GM_NOT_FOUND);
    CU_ASSERT_EQUAL(ring.reserved, reserved);
    const struct asked a = ask("Orchestrator.Remove", "ended", &gm__empty__descriptor);
    CU_ASSERT_EQUAL(a.err.status, GM_OK);
    resume(&h, "ended-1", NULL, 0); /* its record goes with the session */
    spin(RING_PATIENCE_MS, &h.ends, 1);
    CU_ASSERT_EQUAL(h.err.status, GM_NOT_FOUND);
}

/* A running turn is found by its session, by another client; the first one hears so. */
static void test_running(void)
{
    struct heard h, other;
    Gm__StartRequest r = request_of("run-1", 5, 30);
    r.session = (char *)"runs";
    ring.hold = 10;
    CU_ASSERT(start(&h, &r) != NULL);
    spin(RING_PATIENCE_MS, &h.n, 10);
    resume(&other, "", "runs", 4);
    spin(RING_PATIENCE_MS, &other.n, 6);
    CU_ASSERT_EQUAL(other.n, 6);
    CU_ASSERT_EQUAL(h.err.status, GM_ABORTED);
    ring.hold = 0;
    spin(RING_PATIENCE_MS, &other.ends, 1);
    check_whole(&other, 26, "length");
}

/* The ring alone goes on: clients send nothing. */
static void spin_ring(int ms, int until)
{
    for (const int64_t end = gm_now_ms() + ms; gm_now_ms() < end && ring.emitted < until;)
        orch_turn(1);
}

/* In the next life the sampler emits all that it may before the client comes back: it takes all of
 * it at once, and then the rest. */
static void test_late(void)
{
    enum { TOKENS = 390, SHOWN = 15 };
    static struct heard h;
    Gm__StartRequest r = request_of("late-1", 5, TOKENS);
    ring.hold = SHOWN;
    CU_ASSERT(start(&h, &r) != NULL);
    spin(RING_PATIENCE_MS, &h.n, SHOWN);
    orch_signal(SIGKILL);
    ring.hold = 0;
    ring.emitted = 0;
    CU_ASSERT_FATAL(orch_up());
    spin_ring(RING_PATIENCE_MS, GM_STREAM_CREDIT);
    CU_ASSERT(ring.emitted >= GM_STREAM_CREDIT && ring.emitted < TOKENS - SHOWN);
    spin(RING_PATIENCE_MS, &h.ends, 1);
    check_whole(&h, TOKENS, "length");
}

/* Shards that compute in another way may not go on with a turn. Its client hears so, though it
 * comes when the turn has long been given up. */
static void test_numerics(void)
{
    enum { SHOWN = 15, LATE_MS = 300 };
    static struct heard h; /* a turn that goes on all the same outlives this function */
    Gm__StartRequest r = request_of("other-1", 5, 100);
    ring.hold = SHOWN;
    CU_ASSERT(start(&h, &r) != NULL);
    spin(RING_PATIENCE_MS, &h.n, SHOWN);
    spin(LATE_MS, NULL, 0); /* the journal has some of it */
    orch_signal(SIGKILL);
    ring.numerics = "other";
    ring.emitted = 0;
    CU_ASSERT_FATAL(orch_up());
    spin_ring(LATE_MS, 1);
    spin(RING_PATIENCE_MS, &h.ends, 1);
    CU_ASSERT_EQUAL(ring.emitted, 0);
    CU_ASSERT_EQUAL(h.n, SHOWN);
    CU_ASSERT_EQUAL(h.finished, 0);
    CU_ASSERT_EQUAL(h.err.status, GM_ABORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(h.err.text, "begun as none and the shards compute as other"));
    ring.numerics = NULL;
    ring.hold = 0;
    orch_down();
    CU_ASSERT_FATAL(orch_up());
}

/* Killed in mid-answer: the next life goes on, with the request's patience. */
static void test_restart(void)
{
    struct heard h, late;
    Gm__StartRequest r = request_of("life-1", 5, 40);
    r.has_ephemeral = r.ephemeral = 1;
    ring.hold = 15;
    CU_ASSERT(start(&h, &r) != NULL);
    spin(RING_PATIENCE_MS, &h.n, 15);
    orch_signal(SIGKILL);
    CU_ASSERT_FATAL(orch_up());
    ring.hold = 0;
    spin(RING_PATIENCE_MS, &h.ends, 1);
    check_whole(&h, 40, "length");

    ring.hold = 15;
    r = request_of("life-2", 5, 40);
    r.has_patience_ms = 1;
    r.patience_ms = 1000;
    CU_ASSERT(start(&h, &r) != NULL);
    spin(RING_PATIENCE_MS, &h.n, 15);
    orch_signal(SIGKILL);
    gm_follows_close(&all); /* this client does not come back */
    CU_ASSERT_FATAL(orch_up());
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_FATAL(gm_follows_open(&all, bus, rpc, orch_endpoint, &err) == GM_OK);
    const int64_t at = gm_now_ms();
    struct asked a;
    do {
        a = ask("Health.Check", NULL, &gm__health_reply__descriptor);
    } while (a.running + a.waiting > 0 && gm_now_ms() - at < RING_PATIENCE_MS);
    CU_ASSERT(gm_now_ms() - at < 5000); /* a second, not ten */
    resume(&late, "life-2", NULL, 0);
    spin(RING_PATIENCE_MS, &late.ends, 1);
    check_whole(&late, 15, "cancelled");
    ring.hold = 0;
}

static void test_many(void)
{
    static struct heard h[GM_TURNS_MAX + 1];
    static char turn[GM_TURNS_MAX + 1][24];
    ring.hold = 3;
    for (int i = 0; i < GM_TURNS_MAX; i++) {
        snprintf(turn[i], sizeof turn[i], "many-%d", i);
        Gm__StartRequest r = request_of(turn[i], 4, 60);
        r.has_ephemeral = r.ephemeral = 1;
        CU_ASSERT(start(&h[i], &r) != NULL);
    }
    for (int i = 0; i < GM_TURNS_MAX; i++)
        spin(RING_PATIENCE_MS, &h[i].n, 3);
    const struct asked a = ask("Health.Check", NULL, &gm__health_reply__descriptor);
    CU_ASSERT_EQUAL(a.running, GM_TURNS_MAX);
    CU_ASSERT_EQUAL(a.waiting, 0);
    Gm__StartRequest r = request_of("one-more", 4, 60);
    run(&h[GM_TURNS_MAX], &r);
    CU_ASSERT_EQUAL(h[GM_TURNS_MAX].err.status, GM_EXHAUSTED);
    CU_ASSERT(h[GM_TURNS_MAX].err.retry_ms > 0);
    ring.hold = 0;
    for (int i = 0; i < GM_TURNS_MAX; i++)
        spin(RING_PATIENCE_MS, &h[i].ends, 1);
    for (int i = 0; i < GM_TURNS_MAX; i++)
        check_whole(&h[i], 60, "length");
}

int main(void)
{
    struct gm_err err = GM_ERR_NONE;
    if (!orch_start() || !orch_up() || CU_initialize_registry() != CUE_SUCCESS ||
        gm_follows_open(&all, bus, rpc, orch_endpoint, &err) != GM_OK)
        return orch_stop(), 2;
    CU_pSuite suite = CU_add_suite("the orchestrator", NULL, NULL);
    if (suite == NULL || !CU_add_test(suite, "a prompt as ids", test_ids) ||
        !CU_add_test(suite, "a prompt of ids tried again", test_retry) ||
        !CU_add_test(suite, "what is refused", test_bad_ids) ||
        !CU_add_test(suite, "no pages for a while", test_waiting) ||
        !CU_add_test(suite, "a session of one turn", test_ephemeral) ||
        !CU_add_test(suite, "a turn that has ended", test_ended) ||
        !CU_add_test(suite, "a running turn, by its session", test_running) ||
        !CU_add_test(suite, "a client that comes late", test_late) ||
        !CU_add_test(suite, "shards of other numerics", test_numerics) ||
        !CU_add_test(suite, "killed and started again", test_restart) ||
        !CU_add_test(suite, "as many turns as there may be", test_many))
        return orch_stop(), 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    gm_follows_close(&all);
    return orch_stop() != 0 || failures > 0;
}
