// uses: tests/unit/net_ends.c
/* test_follow.c - followed turns against an orchestrator that dies, repeats and leaves gaps.
 *
 * Owns:      a small orchestrator of its own, what its callers must and must not hear.
 * Does not:  run turns of a model (tests/system), or test calls by themselves (test_net.c).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/net_ends.h"

enum { PROMPT = 7, ANSWER = 40, LONG = 700, MANY = 300, EVENT = 3, STREAMS = 512 };

/* ---- an orchestrator ---------------------------------------------------------------------------
 */

struct line { /* one open stream */
    struct gm_stream *stream;
    char turn[32];
    uint32_t next, stop; /* answer tokens: the next to be sent, and where this stream halts */
};

static struct fake {
    struct gm_bus *bus;
    struct gm_rpc *rpc;
    char endpoint[GM_ENDPOINT_MAX];
    struct line lines[STREAMS];
    uint32_t answer;    /* tokens of an answer */
    uint32_t halt;      /* a stream sends this many and then waits; 0: never */
    uint32_t gap, gaps; /* the token that is left out, in so many streams */
    uint32_t back;      /* a resumed stream begins so many tokens too early */
    int unknown;        /* so many Resumes answer NOT_FOUND */
    int away;           /* so many calls answer UNAVAILABLE */
    bool mute;          /* END is not sent */
    bool early;         /* the next stream has a token before `started` */
    uint32_t longer;    /* `started` of a resumed stream says so many more prompt tokens */
    int starts, resumes, cancels, pings;
    uint32_t from;
    char named[32], session[32];
    bool cancelled;
} fk;

static bool send_one(struct line *l)
{
    Gm__Token tokens[EVENT], *rows[EVENT];
    Gm__TurnEvent event = GM__TURN_EVENT__INIT;
    uint32_t i = l->next;
    for (; i < l->stop && event.n_tokens < EVENT; i++) {
        if (fk.gaps > 0 && i == fk.gap) {
            fk.gaps--;
            continue;
        }
        Gm__Token *t = &tokens[event.n_tokens];
        gm__token__init(t);
        t->pos = PROMPT + i;
        t->id = (int32_t)i * 3;
        rows[event.n_tokens++] = t;
    }
    event.tokens = rows;
    if (!gm_stream_item(l->stream, &event.base))
        return false;
    l->next = i;
    return true;
}

static void flush(struct line *l)
{
    Gm__TurnEvent event = GM__TURN_EVENT__INIT;
    Gm__FinishedEvent finished = GM__FINISHED_EVENT__INIT;
    while (l->next < l->stop)
        if (!send_one(l))
            return;
    if (l->stop < fk.answer && !fk.cancelled)
        return;
    finished.reason = (char *)(fk.cancelled ? "cancelled" : "length");
    event.finished = &finished;
    if (!gm_stream_item(l->stream, &event.base) || fk.mute)
        return;
    gm_stream_on_event(l->stream, NULL, NULL);
    gm_stream_end(l->stream, NULL);
    l->stream = NULL;
}

static void on_line(void *ctx, struct gm_stream *s, bool gone, uint32_t credit)
{
    struct line *l = ctx;
    (void)s;
    fk.pings += !gone && credit == 0;
    if (gone)
        l->stream = NULL;
    else if (credit > 0)
        flush(l);
}

static enum gm_status open_line(struct gm_stream *s, const char *turn, uint32_t first,
                                struct gm_err *err)
{
    struct line *l = fk.lines;
    Gm__TurnEvent event = GM__TURN_EVENT__INIT;
    Gm__StartedEvent started = GM__STARTED_EVENT__INIT;
    if (fk.away > 0) {
        fk.away--;
        return gm_retry_after(err, 20, gm_fail(err, GM_UNAVAILABLE, "away for a moment"));
    }
    while (l->stream)
        l++;
    *l = (struct line){ .stream = s, .next = first, .stop = fk.halt ? fk.halt : fk.answer };
    (void)snprintf(l->turn, sizeof l->turn, "%s", turn);
    started.session = (char *)"s";
    started.turn = l->turn;
    started.prompt_tokens = PROMPT + (fk.resumes > 0 ? fk.longer : 0);
    gm_stream_on_event(s, on_line, l);
    Gm__Token token = GM__TOKEN__INIT, *tokens[] = { &token };
    if (fk.early) {
        token.pos = PROMPT + 3;
        event.n_tokens = 1;
        event.tokens = tokens;
        (void)gm_stream_item(s, &event.base);
        event.n_tokens = 0;
        fk.early = false;
    }
    event.started = &started;
    (void)gm_stream_item(s, &event.base);
    flush(l);
    return GM_OK;
}

static enum gm_status run_start(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                struct gm_err *err)
{
    const Gm__StartRequest *in = (const Gm__StartRequest *)request;
    (void)self;
    fk.starts++;
    if (in->session)
        return gm_retry_after(err, 321, gm_fail(err, GM_EXHAUSTED, "no pages"));
    return open_line(s, in->turn, 0, err);
}

static enum gm_status run_resume(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                 struct gm_err *err)
{
    const Gm__ResumeRequest *in = (const Gm__ResumeRequest *)request;
    (void)self;
    fk.resumes++;
    fk.from = in->from;
    (void)snprintf(fk.named, sizeof fk.named, "%s", in->turn);
    (void)snprintf(fk.session, sizeof fk.session, "%s", in->session ? in->session : "");
    if (fk.unknown > 0) {
        fk.unknown--;
        return gm_fail(err, GM_NOT_FOUND, "no such turn");
    }
    uint32_t first = in->session ? in->from : in->from > PROMPT ? in->from - PROMPT : 0;
    first = first > fk.back ? first - fk.back : 0;
    return open_line(s, in->turn[0] ? in->turn : "found", first, err);
}

static enum gm_status run_cancel(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                 struct gm_err *err)
{
    const Gm__Empty empty = GM__EMPTY__INIT;
    (void)self;
    (void)request;
    (void)err;
    fk.cancels++;
    fk.cancelled = true;
    for (struct line *l = fk.lines; l < fk.lines + STREAMS; l++)
        if (l->stream)
            flush(l);
    return gm_rpc_reply(s, &empty.base);
}

static const struct gm_method methods[] = {
    { "Orchestrator.StartTurn", &gm__start_request__descriptor, run_start },
    { "Orchestrator.Resume", &gm__resume_request__descriptor, run_resume },
    { "Orchestrator.Cancel", &gm__cancel_request__descriptor, run_cancel },
    { NULL, NULL, NULL },
};

static bool fake_up(void)
{
    struct gm_err err = GM_ERR_NONE;
    memset(fk.lines, 0, sizeof fk.lines);
    return gm_bus_open(&fk.bus, "orchestrator-0", fk.endpoint, &err) == GM_OK &&
           gm_rpc_open(&fk.rpc, fk.bus, methods, &fk, &err) == GM_OK;
}

static void fake_down(void)
{
    gm_rpc_close(&fk.rpc);
    gm_bus_close(&fk.bus);
}

/* ---- a caller ----------------------------------------------------------------------------------
 */

struct heard {
    uint32_t n;     /* tokens, each checked to be the next */
    uint32_t first; /* the first one expected */
    int started, finished, ends, wrong;
    char reason[16];
    struct gm_err err;
    struct gm_follow *leave; /* left from within the event */
};

static struct gm_follows *all;

static void on_event(void *ctx, const Gm__TurnEvent *event)
{
    struct heard *h = ctx;
    h->started += event->started != NULL;
    h->wrong += h->ends > 0 || h->finished > 0;
    for (size_t i = 0; i < event->n_tokens; i++) {
        const uint32_t at = h->first + h->n++;
        h->wrong += event->tokens[i]->pos != PROMPT + at || event->tokens[i]->id != (int32_t)at * 3;
    }
    if (event->finished) {
        h->finished++;
        (void)snprintf(h->reason, sizeof h->reason, "%s", event->finished->reason);
    }
    if (h->leave)
        gm_follow_leave(h->leave);
}

static void on_end(void *ctx, const struct gm_err *err)
{
    struct heard *h = ctx;
    h->ends++;
    h->err = *err;
}

static void spin(int ms, const int *until)
{
    const int64_t end = gm_now_ms() + ms;
    while (gm_now_ms() < end && (!until || *until == 0)) {
        (void)gm_follows_tick(all);
        turn_once(bus, rpc, 2);
        if (fk.rpc)
            turn_once(fk.bus, fk.rpc, 2);
    }
}

static bool begin(void)
{
    static int n;
    struct gm_err err = GM_ERR_NONE;
    memset(&fk, 0, sizeof fk);
    fk.answer = ANSWER;
    (void)snprintf(fk.endpoint, sizeof fk.endpoint, "ipc://%s/orch-%d.sock", dir, n++);
    return ends_open(false) && fake_up() &&
           gm_follows_open(&all, bus, rpc, fk.endpoint, &err) == GM_OK;
}

static void end(void)
{
    gm_follows_close(&all);
    gm_follows_close(&all); /* again does nothing */
    fake_down();
    ends_close();
}

static struct gm_follow *start(struct heard *h, const char *turn, uint32_t timeout_ms)
{
    Gm__StartRequest r = GM__START_REQUEST__INIT;
    const struct gm_follow_to to = { on_event, on_end, h, timeout_ms, NULL };
    struct gm_err err = GM_ERR_NONE;
    *h = (struct heard){ .err = GM_ERR_NONE };
    r.turn = (char *)(uintptr_t)turn;
    return gm_follow_start(all, &to, &r, &err);
}

static void check_whole(const struct heard *h, uint32_t n, const char *reason)
{
    CU_ASSERT_EQUAL(h->ends, 1);
    CU_ASSERT_EQUAL(h->err.status, GM_OK);
    CU_ASSERT_EQUAL(h->started, 1);
    CU_ASSERT_EQUAL(h->finished, 1);
    CU_ASSERT_EQUAL(h->n, n);
    CU_ASSERT_EQUAL(h->wrong, 0);
    CU_ASSERT_STRING_EQUAL(h->reason, reason);
}

/* ---- a stream that nothing disturbs ------------------------------------------------------------
 */

static void test_whole(void)
{
    struct heard h;
    CU_ASSERT_FATAL(begin());
    CU_ASSERT(gm_follows_tick(all) == -1);
    CU_ASSERT(start(&h, "a", 0) != NULL);
    CU_ASSERT_EQUAL(gm_follows_n(all), 1);
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, ANSWER, "length");
    CU_ASSERT_EQUAL(gm_follows_n(all), 0);
    fk.answer = LONG * EVENT; /* more items than the first credit */
    CU_ASSERT(start(&h, "b", 0) != NULL);
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, LONG * EVENT, "length");
    CU_ASSERT_EQUAL(fk.resumes, 0);
    end();
}

static void test_refused(void)
{
    struct heard h = { .err = GM_ERR_NONE };
    struct gm_err err = GM_ERR_NONE;
    const struct gm_follow_to to = { on_event, on_end, &h, 0, NULL };
    Gm__StartRequest r = GM__START_REQUEST__INIT;
    CU_ASSERT_FATAL(begin());
    r.turn = (char *)"a";
    r.session = (char *)"full";
    CU_ASSERT(gm_follow_start(all, &to, &r, &err) != NULL);
    spin(PATIENCE_MS, &h.ends);
    CU_ASSERT_EQUAL(h.err.status, GM_EXHAUSTED);
    CU_ASSERT_EQUAL(h.err.retry_ms, 321);
    CU_ASSERT_STRING_EQUAL(h.err.text, "no pages");
    CU_ASSERT_EQUAL(h.started, 0);
    fk.away = 1; /* before anything began this passes too: the caller chooses */
    CU_ASSERT(start(&h, "b", 0) != NULL);
    spin(PATIENCE_MS, &h.ends);
    CU_ASSERT_EQUAL(h.err.status, GM_UNAVAILABLE);
    CU_ASSERT_EQUAL(fk.resumes, 0);
    fk.halt = 4;
    CU_ASSERT(start(&h, "c", 150) != NULL);
    spin(PATIENCE_MS, &h.ends);
    CU_ASSERT_EQUAL(h.err.status, GM_DEADLINE);
    CU_ASSERT_EQUAL(h.n, 4);
    end();
}

/* ---- disturbed ---------------------------------------------------------------------------------
 */

static void test_restart(void)
{
    struct heard h;
    CU_ASSERT_FATAL(begin());
    fk.halt = 10;
    fk.back = 5; /* tokens come twice */
    CU_ASSERT(start(&h, "a", 0) != NULL);
    spin(300, &h.ends);
    CU_ASSERT_EQUAL(h.n, 10);
    fake_down();
    spin(100, &h.ends);
    fk.halt = 20;
    fk.away = 2; /* it still reads from Redis */
    CU_ASSERT_FATAL(fake_up());
    const int64_t at = gm_now_ms();
    while (h.n < 20 && gm_now_ms() - at < PATIENCE_MS)
        spin(5, &h.ends);
    CU_ASSERT(gm_now_ms() - at < 1500); /* noticed in about a second */
    CU_ASSERT_EQUAL(h.n, 20);
    CU_ASSERT_EQUAL(fk.from, PROMPT + 10);
    CU_ASSERT_STRING_EQUAL(fk.named, "a");
    CU_ASSERT_EQUAL(fk.resumes, 3);
    fake_down(); /* and once more */
    fk.halt = 0;
    CU_ASSERT_FATAL(fake_up());
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, ANSWER, "length");
    CU_ASSERT_EQUAL(fk.starts, 1);
    end();
}

static void test_not_begun(void)
{
    struct heard h;
    CU_ASSERT_FATAL(begin());
    fake_down();
    CU_ASSERT(start(&h, "a", 0) != NULL); /* nobody listens: the call waits */
    spin(50, &h.ends);
    CU_ASSERT_FATAL(fake_up());
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, ANSWER, "length");
    fk.halt = 0;
    fk.unknown = 1; /* Resume knows nothing: started again only where nothing was heard */
    Gm__ResumeRequest r = GM__RESUME_REQUEST__INIT;
    Gm__StartRequest otherwise = GM__START_REQUEST__INIT;
    const struct gm_follow_to to = { on_event, on_end, &h, 0, NULL };
    struct gm_err err = GM_ERR_NONE;
    r.turn = otherwise.turn = (char *)"b";
    h = (struct heard){ .err = GM_ERR_NONE };
    CU_ASSERT(gm_follow_resume(all, &to, &r, &otherwise, &err) != NULL);
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, ANSWER, "length");
    CU_ASSERT_EQUAL(fk.starts, 2);
    fk.unknown = 1;
    h = (struct heard){ .err = GM_ERR_NONE };
    CU_ASSERT(gm_follow_resume(all, &to, &r, NULL, &err) != NULL);
    spin(PATIENCE_MS, &h.ends);
    CU_ASSERT_EQUAL(h.err.status, GM_NOT_FOUND);
    end();
}

static void test_by_session(void)
{
    struct heard h = { .first = 6, .err = GM_ERR_NONE };
    struct gm_err err = GM_ERR_NONE;
    const struct gm_follow_to to = { on_event, on_end, &h, 0, NULL };
    Gm__ResumeRequest r = GM__RESUME_REQUEST__INIT;
    CU_ASSERT_FATAL(begin());
    fk.halt = 12;
    fk.away = 1; /* a Resume is tried again */
    r.turn = (char *)"";
    r.session = (char *)"s";
    r.from = 6;
    CU_ASSERT(gm_follow_resume(all, &to, &r, NULL, &err) != NULL);
    spin(500, &h.ends);
    CU_ASSERT_EQUAL(h.n, 6);
    CU_ASSERT_EQUAL(fk.from, 6);
    fake_down();
    fk.halt = 0;
    CU_ASSERT_FATAL(fake_up());
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, ANSWER - 6, "length");
    CU_ASSERT_STRING_EQUAL(fk.named, "found"); /* by its id, from the position it has */
    CU_ASSERT_STRING_EQUAL(fk.session, "");
    CU_ASSERT_EQUAL(fk.from, PROMPT + 12);
    end();
}

/* Found by fuzzing: tokens that no `started` came before, and a prompt that grows, made the next
 * position wrong. */
static void test_odd(void)
{
    struct heard h;
    CU_ASSERT_FATAL(begin());
    fk.early = true;
    CU_ASSERT(start(&h, "a", 0) != NULL);
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, ANSWER, "length");
    CU_ASSERT_EQUAL(fk.resumes, 1);
    fk.resumes = 0;
    fk.gap = 8;
    fk.gaps = 1;
    fk.longer = ANSWER - 1;
    CU_ASSERT(start(&h, "b", 0) != NULL);
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, ANSWER, "length");
    end();
}

static void test_gaps(void)
{
    struct heard h;
    CU_ASSERT_FATAL(begin());
    fk.gap = 8;
    fk.gaps = 2;
    CU_ASSERT(start(&h, "a", 0) != NULL);
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, ANSWER, "length");
    CU_ASSERT_EQUAL(fk.resumes, 2);
    fk.gaps = 1000; /* it never comes */
    CU_ASSERT(start(&h, "b", 0) != NULL);
    spin(PATIENCE_MS, &h.ends);
    CU_ASSERT_EQUAL(h.err.status, GM_UNAVAILABLE);
    CU_ASSERT_EQUAL(h.n, 8);
    CU_ASSERT_EQUAL(h.finished, 0);
    fk.gaps = 0;
    fk.mute = true; /* only the END is lost */
    CU_ASSERT(start(&h, "c", 0) != NULL);
    spin(300, &h.ends);
    CU_ASSERT_EQUAL(h.finished, 1);
    CU_ASSERT_EQUAL(h.ends, 0);
    fake_down();
    const int resumes = fk.resumes;
    CU_ASSERT_FATAL(fake_up());
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, ANSWER, "length");
    CU_ASSERT_EQUAL(fk.resumes, resumes);
    end();
}

/* ---- cancel and leave --------------------------------------------------------------------------
 */

static void test_cancel(void)
{
    struct heard h;
    CU_ASSERT_FATAL(begin());
    fk.halt = 4;
    struct gm_follow *f = start(&h, "a", 0);
    CU_ASSERT_FATAL(f != NULL);
    spin(100, &h.ends);
    fake_down();
    gm_follow_cancel(f); /* it hears nothing now: said again */
    gm_follow_cancel(f);
    spin(50, &h.ends);
    CU_ASSERT_FATAL(fake_up());
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, 4, "cancelled");
    CU_ASSERT(fk.cancels >= 1);
    fk.cancelled = false;
    f = start(&h, "b", 0);
    spin(100, &h.ends);
    gm_follow_leave(f);
    const uint32_t n = h.n;
    for (int i = 0; i < 100 && gm_follows_n(all) > 0; i++)
        spin(20, NULL);
    CU_ASSERT_EQUAL(gm_follows_n(all), 0); /* freed by itself, and the caller heard nothing */
    CU_ASSERT_EQUAL(h.n, n);
    CU_ASSERT_EQUAL(h.ends, 0);
    fk.cancelled = false;
    f = start(&h, "c", 0);
    h.leave = f; /* from within its own event */
    spin(300, NULL);
    CU_ASSERT_EQUAL(h.ends, 0);
    CU_ASSERT_EQUAL(gm_follows_n(all), 0);
    end();
}

/* ---- many --------------------------------------------------------------------------------------
 */

static void test_many(void)
{
    static struct heard h[MANY];
    char turn[16];
    CU_ASSERT_FATAL(begin());
    fk.halt = 5;
    for (int i = 0; i < MANY; i++) {
        (void)snprintf(turn, sizeof turn, "t%d", i);
        CU_ASSERT(start(&h[i], turn, 0) != NULL);
    }
    spin(500, NULL);
    fk.pings = 0;
    spin(2000, NULL);
    CU_ASSERT(fk.pings >= MANY);     /* each is heard of, */
    CU_ASSERT(fk.pings <= 3 * MANY); /* and none more often than needed */
    fake_down();
    spin(100, NULL);
    fk.halt = 0;
    CU_ASSERT_FATAL(fake_up());
    const int64_t at = gm_now_ms();
    for (int i = 0; i < MANY; i++)
        spin(PATIENCE_MS, &h[i].ends);
    CU_ASSERT(gm_now_ms() - at < 3000);
    for (int i = 0; i < MANY; i++)
        check_whole(&h[i], ANSWER, "length");
    CU_ASSERT_EQUAL(fk.resumes, MANY); /* each stream once */
    end();
}

static void test_silence(void)
{
    struct heard h;
    CU_ASSERT_FATAL(begin());
    fk.halt = 4;
    CU_ASSERT(start(&h, "a", 0) != NULL);
    spin(100, NULL);
    for (const int64_t at = gm_now_ms(); gm_now_ms() - at < 2600;) { /* it stands still */
        (void)gm_follows_tick(all);
        turn_once(bus, rpc, 5);
    }
    fk.halt = 0;
    fk.lines[0].stop = fk.answer;
    flush(&fk.lines[0]);
    spin(PATIENCE_MS, &h.ends);
    check_whole(&h, ANSWER, "length");
    CU_ASSERT_EQUAL(fk.resumes, 0); /* the same stream goes on */
    end();
}

int main(void)
{
    if (!ends_start("test_follow") || CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite("net: followed turns", NULL, NULL);
    if (suite == NULL || !CU_add_test(suite, "a whole turn", test_whole) ||
        !CU_add_test(suite, "refusals pass through", test_refused) ||
        !CU_add_test(suite, "the orchestrator restarts", test_restart) ||
        !CU_add_test(suite, "a turn that had not begun", test_not_begun) ||
        !CU_add_test(suite, "found by its session", test_by_session) ||
        !CU_add_test(suite, "gaps, and a lost end", test_gaps) ||
        !CU_add_test(suite, "events out of place", test_odd) ||
        !CU_add_test(suite, "cancel and leave", test_cancel) ||
        !CU_add_test(suite, "many streams of one set", test_many) ||
        !CU_add_test(suite, "silence alone loses nothing", test_silence))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return ends_stop() != 0 || failures > 0;
}
