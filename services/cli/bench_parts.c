/* bench_parts.c - the parts of `gemline bench` that have one conversation or none.
 *
 * Owns:      what decode, prefill, hop and start mean, in the terms of the times of tokens.
 * Does not:  run several conversations (bench_sessions.c).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "services/cli/bench.h"

enum { PREFILLS = 2, HOP_TOKENS = 200, HOP_CALL_MS = 5000 };
static const uint32_t prefill_tokens[PREFILLS] = { 512, 2048 };
static const char *const home_variable = "GEMLINE_HOME";

static enum gm_status check_runs(const double *values, struct gm_err *err)
{
    return values ? GM_OK : gm_fail(err, GM_EXHAUSTED, "no memory for the measurements");
}

/* Tokens a second after the first: (n - 1) / (last - first); 0 with fewer than two tokens. */
static double decode_rate(const struct gm_bench_turn *t)
{
    if (t->n < 2 || t->at_us[t->n - 1] <= t->at_us[0])
        return 0;
    return (t->n - 1) * 1e6 / (double)(t->at_us[t->n - 1] - t->at_us[0]);
}

enum gm_status gm_bench_decode(struct gm_bench *b, struct gm_err *err)
{
    const size_t runs = (size_t)b->o->runs;
    const char *at = b->o->contexts;
    double *rates = calloc(runs, sizeof *rates);
    enum gm_status rc = check_runs(rates, err);
    uint32_t context;
    while (rc == GM_OK && gm_bench_context_next(&at, &context, err)) {
        const uint32_t prompt = context < GM_BENCH_PROMPT_MIN ? GM_BENCH_PROMPT_MIN : context;
        if (prompt + b->o->tokens > b->conn->context) {
            fprintf(stderr,
                    "gemline: context %u left out: with the answer it is more than the %u "
                    "tokens of this pipeline\n",
                    context, b->conn->context);
            continue;
        }
        for (size_t i = 0; rc == GM_OK && i < runs; i++) {
            struct gm_bench_turn turn;
            rc =
                gm_bench_turn_run(b->conn->client,
                                  &(struct gm_bench_ask){ .prompt_tokens = prompt,
                                                          .answer_tokens = (uint32_t)b->o->tokens },
                                  &turn, err);
            rates[i] = decode_rate(&turn);
            gm_bench_turn_free(&turn);
        }
        if (rc == GM_OK)
            rc = gm_bench_put(b, err, gm_bench_quantile(rates, runs, 0.5), "tokens/s", "context %u",
                              context);
    }
    free(rates);
    return rc;
}

enum gm_status gm_bench_prefill(struct gm_bench *b, struct gm_err *err)
{
    const size_t runs = (size_t)b->o->runs;
    double *rates = calloc(runs, sizeof *rates);
    enum gm_status rc = check_runs(rates, err);
    for (int p = 0; rc == GM_OK && p < PREFILLS; p++) {
        if (prefill_tokens[p] >= b->conn->context)
            continue;
        for (size_t i = 0; rc == GM_OK && i < runs; i++) {
            struct gm_bench_turn turn;
            rc = gm_bench_turn_run(
                b->conn->client,
                &(struct gm_bench_ask){ .prompt_tokens = prefill_tokens[p], .answer_tokens = 1 },
                &turn, err);
            if (rc == GM_OK && turn.n > 0)
                rates[i] =
                    (turn.prompt - turn.cached) * 1e6 / (double)(turn.at_us[0] - turn.sent_us + 1);
            gm_bench_turn_free(&turn);
        }
        if (rc == GM_OK)
            rc = gm_bench_put(b, err, gm_bench_quantile(rates, runs, 0.5), "tokens/s",
                              "prompt of %u", prefill_tokens[p]);
    }
    free(rates);
    return rc;
}

/* What a process says of the ring messages that came to it. */
static enum gm_status hop_of(struct gm_bench *b, const char *role, uint32_t index, double *us,
                             struct gm_err *err)
{
    Gm__Empty empty = GM__EMPTY__INIT;
    ProtobufCMessage *reply = NULL;
    const enum gm_status rc =
        gm_client_call(b->conn->client,
                       &(struct gm_client_to){ role, index, "Health.Check", &empty.base,
                                               &gm__health_reply__descriptor, HOP_CALL_MS },
                       &reply, err);
    if (rc != GM_OK)
        return rc;
    const Gm__HealthReply *h = (const Gm__HealthReply *)reply;
    *us = h->has_hop_us ? h->hop_us : (double)NAN;
    protobuf_c_message_free_unpacked(reply, NULL);
    return isnan(*us) ? gm_fail(err, GM_NOT_FOUND, "%s-%u has seen no token yet", role, index)
                      : GM_OK;
}

static bool has_shard(const struct gm_bench *b, uint32_t index)
{
    return gm_client_has(b->conn->client, "shard", index);
}

/* From a message's sender being done to work begun at its receiver, as the processes of the ring
 * took it while one conversation was decoded. */
enum gm_status gm_bench_hop(struct gm_bench *b, struct gm_err *err)
{
    double us[GM_CUT_SHARDS_MAX + 1];
    size_t n = 0;
    struct gm_bench_turn turn;
    enum gm_status rc = gm_bench_turn_run(
        b->conn->client,
        &(struct gm_bench_ask){ .prompt_tokens = GM_BENCH_PROMPT_MIN, .answer_tokens = HOP_TOKENS },
        &turn, err);
    gm_bench_turn_free(&turn);
    if (rc == GM_OK)
        rc = hop_of(b, "sampler", 0, &us[n], err);
    if (rc == GM_OK)
        rc = gm_bench_put(b, err, us[n++], "us", "to the sampler, median");
    for (uint32_t i = 0; rc == GM_OK && i < GM_CUT_SHARDS_MAX && has_shard(b, i); i++) {
        rc = hop_of(b, "shard", i, &us[n], err);
        if (rc == GM_OK)
            rc = gm_bench_put(b, err, us[n++], "us", "to shard %u, median", i);
    }
    return rc == GM_OK
               ? gm_bench_put(b, err, gm_bench_quantile(us, n, 0.5), "us", "median of the ring")
               : rc;
}

/* From nothing to the first token of a short prompt, in a home of its own, which is removed. */
static enum gm_status start_once(const struct gm_up_options *up, const struct gm_home *parent,
                                 double *ms, struct gm_err *err)
{
    static struct gm_home temp;
    static struct gm_conn conn;
    struct gm_bench_turn turn;
    enum gm_status rc = gm_home_open_temp(&temp, parent, err);
    if (rc != GM_OK)
        return rc;
    const int64_t begun_us = gm_now_us();
    if (setenv(home_variable, temp.dir, 1) != 0)
        rc = gm_fail(err, GM_EXHAUSTED, "no memory for the environment");
    if (rc == GM_OK)
        rc = gm_conn_open(&conn, up, false, err);
    if (rc == GM_OK) {
        rc = gm_bench_turn_run(
            conn.client,
            &(struct gm_bench_ask){ .prompt_tokens = GM_BENCH_PROMPT_MIN, .answer_tokens = 1 },
            &turn, err);
        if (rc == GM_OK && turn.n > 0)
            *ms = (double)(turn.at_us[0] - begun_us) / 1000;
        gm_bench_turn_free(&turn);
        gm_conn_close(&conn);
    }
    gm_home_remove(&temp);
    return rc;
}

enum gm_status gm_bench_start(struct gm_bench *b, struct gm_err *err)
{
    static struct gm_home parent;
    const size_t runs = (size_t)b->o->runs;
    double *times = calloc(runs, sizeof *times);
    enum gm_status rc = check_runs(times, err);
    if (rc == GM_OK)
        rc = gm_home_open(&parent, NULL, err);
    for (size_t i = 0; rc == GM_OK && i < runs; i++)
        rc = start_once(&b->o->up, &parent, &times[i], err);
    if (parent.dir[0] && setenv(home_variable, parent.dir, 1) != 0 && rc == GM_OK)
        rc = gm_fail(err, GM_EXHAUSTED, "no memory for the environment");
    if (rc == GM_OK)
        rc = gm_bench_put(b, err, gm_bench_quantile(times, runs, 0.5), "ms",
                          "nothing to first token");
    free(times);
    return rc;
}
