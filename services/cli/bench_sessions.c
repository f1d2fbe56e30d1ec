/* bench_sessions.c - several conversations at once, and what a long prompt beside them costs.
 *
 * Owns:      one thread and one client for each conversation; the gaps between their tokens.
 * Does not:  share a client between threads.
 *
 * A step is the time from one token of a conversation to its next. "Quiet" steps lie before the
 * long prompt is sent; steps "beside" end after it was sent and begin before its first token.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/bench.h"

enum {
    PROMPT_TOKENS = 64,
    BESIDE_ANSWER_TOKENS = 2048, /* at most; they are stopped when the long prompt is read */
    QUIET_TOKENS = 64,           /* of each conversation before the long prompt is sent */
    POLL_MS = 2,
};

struct stream {
    pthread_t thread;
    struct gm_client *client;
    struct gm_bench_ask ask;
    struct gm_bench_turn turn;
    atomic_uint so_far;
    atomic_bool ended;
    struct gm_err err;
};
struct crowd {
    uint32_t n, started;
    atomic_bool stop;
    struct stream streams[GM_BENCH_STREAMS_MAX];
};

static void *work(void *ctx)
{
    struct stream *s = ctx;
    (void)gm_bench_turn_run(s->client, &s->ask, &s->turn, &s->err);
    atomic_store(&s->ended, true);
    return NULL;
}

/* Starts all conversations with a client each; on failure those that started go on until `stop`. */
static enum gm_status crowd_start(struct crowd *c, const struct gm_bench *b, uint32_t tokens,
                                  struct gm_err *err)
{
    memset(c, 0, sizeof *c);
    c->n = (uint32_t)b->o->streams;
    for (uint32_t i = 0; i < c->n; i++) {
        struct stream *s = &c->streams[i];
        if (gm_home_client(&s->client, &b->conn->home, err) != GM_OK)
            return err->status;
        s->ask = (struct gm_bench_ask){ PROMPT_TOKENS, tokens, &c->stop, &s->so_far };
    }
    for (uint32_t i = 0; i < c->n; i++) {
        const int problem = pthread_create(&c->streams[i].thread, NULL, work, &c->streams[i]);
        if (problem)
            return gm_fail(err, GM_EXHAUSTED, "cannot start %u threads: %s; give fewer --streams",
                           c->n, strerror(problem));
        c->started++;
    }
    return GM_OK;
}

/* Waits for the end of all and closes the clients; the turns stay. The first error of any (err may
 * be NULL). */
static enum gm_status crowd_join(struct crowd *c, struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    for (uint32_t i = 0; i < c->started; i++)
        (void)pthread_join(c->streams[i].thread, NULL);
    for (uint32_t i = 0; i < c->n; i++) {
        gm_client_close(&c->streams[i].client);
        if (rc == GM_OK && c->streams[i].err.status != GM_OK) {
            rc = c->streams[i].err.status;
            if (err)
                *err = c->streams[i].err;
        }
    }
    return rc;
}

static void crowd_free(struct crowd *c)
{
    for (uint32_t i = 0; i < c->n; i++)
        gm_bench_turn_free(&c->streams[i].turn);
}

/* All tokens / (first token of the first conversation to last token of the last one). */
static double crowd_rate(const struct crowd *c)
{
    int64_t first = INT64_MAX, last = 0;
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        const struct gm_bench_turn *t = &c->streams[i].turn;
        tokens += t->n;
        if (t->n > 0 && t->at_us[0] < first)
            first = t->at_us[0];
        if (t->n > 0 && t->at_us[t->n - 1] > last)
            last = t->at_us[t->n - 1];
    }
    return last > first ? (double)tokens * 1e6 / (double)(last - first) : 0;
}

static enum gm_status together(struct gm_bench *b, struct crowd *c, struct gm_err *err)
{
    const size_t runs = (size_t)b->o->runs;
    double *rates = calloc(runs, sizeof *rates);
    enum gm_status rc = rates ? GM_OK : gm_fail(err, GM_EXHAUSTED, "no memory for the rates");
    for (size_t i = 0; rc == GM_OK && i < runs; i++) {
        rc = crowd_start(c, b, (uint32_t)b->o->tokens, err);
        atomic_store(&c->stop, rc != GM_OK);
        const enum gm_status joined = crowd_join(c, rc == GM_OK ? err : NULL);
        rc = rc == GM_OK ? joined : rc;
        rates[i] = crowd_rate(c);
        crowd_free(c);
    }
    if (rc == GM_OK)
        rc = gm_bench_put(b, err, gm_bench_quantile(rates, runs, 0.5), "tokens/s",
                          "%u streams together", c->n);
    free(rates);
    return rc;
}

/* The steps in ms between `from` and `until` into `out`: how many. quiet: those that ended before
 * `until`; else those that ended after `from` and began before `until`. */
static size_t steps(const struct crowd *c, bool quiet, const int64_t span[2], double *out)
{
    size_t n = 0;
    for (uint32_t i = 0; i < c->n; i++)
        for (uint32_t k = 1; k < c->streams[i].turn.n; k++) {
            const int64_t began = c->streams[i].turn.at_us[k - 1];
            const int64_t ended = c->streams[i].turn.at_us[k];
            const bool in =
                quiet ? began >= span[0] && ended <= span[1] : ended > span[0] && began < span[1];
            if (in)
                out[n++] = (double)(ended - began) / 1000;
        }
    return n;
}

/* Waits until every conversation has QUIET_TOKENS. GM_ABORTED: one ended before. */
static enum gm_status wait_quiet(struct crowd *c, struct gm_err *err)
{
    for (;;) {
        uint32_t there = 0;
        for (uint32_t i = 0; i < c->n; i++) {
            there += atomic_load(&c->streams[i].so_far) >= QUIET_TOKENS;
            if (atomic_load(&c->streams[i].ended) || gm_stopping())
                return gm_fail(err, GM_ABORTED, "a conversation ended before the long prompt");
        }
        if (there == c->n)
            return GM_OK;
        gm_sleep_ms(POLL_MS);
    }
}

static enum gm_status put_beside(struct gm_bench *b, const struct crowd *c,
                                 const struct gm_bench_turn *alone,
                                 const struct gm_bench_turn *beside, struct gm_err *err)
{
    const size_t cap = (size_t)c->n * BESIDE_ANSWER_TOKENS;
    double *values = calloc(cap, sizeof *values);
    if (!values)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the steps");
    int64_t all_began = 0;
    for (uint32_t i = 0; i < c->n; i++)
        if (c->streams[i].turn.n > 0 && c->streams[i].turn.at_us[0] > all_began)
            all_began = c->streams[i].turn.at_us[0];
    const int64_t quiet[2] = { all_began, beside->sent_us };
    const int64_t busy[2] = { beside->sent_us, beside->at_us[0] };
    size_t n = steps(c, true, quiet, values);
    enum gm_status rc =
        gm_bench_put(b, err, gm_bench_quantile(values, n, 0.5), "ms", "step without it, median");
    n = steps(c, false, busy, values);
    if (rc == GM_OK)
        rc = gm_bench_put(b, err, gm_bench_quantile(values, n, 0.99), "ms", "step beside, p99");
    if (rc == GM_OK)
        rc = gm_bench_put(b, err, gm_bench_quantile(values, n, 1), "ms", "step beside, longest");
    if (rc == GM_OK)
        rc = gm_bench_put(b, err, (double)n, "steps", "steps beside");
    if (rc == GM_OK)
        rc = gm_bench_put(b, err, (double)(alone->at_us[0] - alone->sent_us) / 1000, "ms",
                          "prompt of %u alone, first token", alone->prompt);
    if (rc == GM_OK)
        rc = gm_bench_put(b, err, (double)(beside->at_us[0] - beside->sent_us) / 1000, "ms",
                          "prompt of %u beside, first token", beside->prompt);
    free(values);
    return rc;
}

static enum gm_status with_long(struct gm_bench *b, struct crowd *c, struct gm_err *err)
{
    const struct gm_bench_ask ask = { .prompt_tokens = (uint32_t)b->o->beside, .answer_tokens = 1 };
    struct gm_bench_turn alone, beside = { 0 };
    if (ask.prompt_tokens < GM_BENCH_PROMPT_MIN || ask.prompt_tokens >= b->conn->context)
        return gm_fail(err, GM_PRECONDITION,
                       "--beside %u does not fit: this pipeline has %u tokens of context",
                       ask.prompt_tokens, b->conn->context);
    uint32_t most = b->conn->context - PROMPT_TOKENS;
    most = most > BESIDE_ANSWER_TOKENS ? BESIDE_ANSWER_TOKENS : most;
    enum gm_status rc = gm_bench_turn_run(b->conn->client, &ask, &alone, err);
    if (rc == GM_OK) {
        rc = crowd_start(c, b, most, err);
        if (rc == GM_OK)
            rc = wait_quiet(c, err);
        if (rc == GM_OK)
            rc = gm_bench_turn_run(b->conn->client, &ask, &beside, err);
        atomic_store(&c->stop, true);
        /* GM_ABORTED: a conversation ended early, and its own error says why */
        const bool ask_why = rc == GM_OK || rc == GM_ABORTED;
        const enum gm_status joined = crowd_join(c, ask_why ? err : NULL);
        rc = ask_why && joined != GM_OK ? joined : rc;
        if (rc == GM_OK && (alone.n == 0 || beside.n == 0))
            rc = gm_fail(err, GM_CANCELLED, "stopped");
        if (rc == GM_OK)
            rc = put_beside(b, c, &alone, &beside, err);
        crowd_free(c);
    }
    gm_bench_turn_free(&alone);
    gm_bench_turn_free(&beside);
    return rc;
}

enum gm_status gm_bench_sessions(struct gm_bench *b, struct gm_err *err)
{
    struct crowd *c = calloc(1, sizeof *c);
    if (!c)
        return gm_fail(err, GM_EXHAUSTED, "no memory for %lld conversations",
                       (long long)b->o->streams);
    enum gm_status rc = together(b, c, err);
    if (rc == GM_OK && b->o->beside > 0)
        rc = with_long(b, c, err);
    free(c);
    return rc;
}
