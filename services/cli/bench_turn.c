/* bench_turn.c - one turn with the time of each of its tokens.
 *
 * Owns:      struct gm_bench_turn; the words that prompts are made of.
 * Does not:  keep text or ids (turn.c does), or the conversation.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/bench.h"

/* One token each with the blank before it, in every Gemma vocabulary. */
static const char *const words[] = {
    "river",   "house",   "north",  "letter",  "engine",  "city",     "sea",    "winter",
    "book",    "queen",   "water",  "light",   "stone",   "field",    "road",   "bridge",
    "garden",  "window",  "music",  "paper",   "market",  "summer",   "forest", "island",
    "morning", "evening", "doctor", "teacher", "village", "mountain",
};
enum { WORDS = sizeof words / sizeof words[0], PROMPT_BYTES_MAX = 64 << 20 };

static const uint64_t step_multiplier = 6364136223846793005; /* Knuth's linear congruence */
static const uint64_t step_increment = 1442695040888963407;

struct run {
    const struct gm_bench_ask *ask;
    struct gm_bench_turn *turn;
    char session[GM_CLI_ID_MAX + 1];
};

/* " word word ..." : tokens - 1 words, which <bos> makes `tokens`. */
static enum gm_status make_prompt(struct gm_buf *b, uint32_t tokens, struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    uint64_t state = gm_random_u64();
    for (uint32_t i = 1; rc == GM_OK && i < tokens; i++) {
        state = state * step_multiplier + step_increment;
        rc = gm_buf_printf(b, err, " %s", words[(state >> 33) % WORDS]);
    }
    return rc;
}

static bool stopped(const struct run *r)
{
    return gm_stopping() || (r->ask->stop && atomic_load(r->ask->stop));
}

static bool on_item(void *ctx, const ProtobufCMessage *item)
{
    struct run *r = ctx;
    const Gm__TurnEvent *e = (const Gm__TurnEvent *)item;
    const int64_t now = gm_now_us();
    if (e->started) {
        snprintf(r->session, sizeof r->session, "%s", e->started->session);
        r->turn->prompt = e->started->prompt_tokens;
        r->turn->cached = e->started->cached_tokens;
    }
    for (size_t i = 0; i < e->n_tokens && r->turn->n < r->ask->answer_tokens; i++)
        r->turn->at_us[r->turn->n++] = now;
    if (r->ask->so_far)
        atomic_store(r->ask->so_far, r->turn->n);
    return !stopped(r);
}

static bool on_idle(void *ctx)
{
    return !stopped(ctx);
}

static void remove_session(struct gm_client *client, const char *session)
{
    Gm__SessionRequest q = GM__SESSION_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    q.session = (char *)session;
    (void)gm_client_call(client,
                         &(struct gm_client_to){ "orchestrator", 0, "Orchestrator.Remove", &q.base,
                                                 &gm__empty__descriptor, GM_CLI_CALL_MS },
                         &reply, NULL);
    if (reply)
        protobuf_c_message_free_unpacked(reply, NULL);
}

enum gm_status gm_bench_turn_run(struct gm_client *client, const struct gm_bench_ask *ask,
                                 struct gm_bench_turn *turn, struct gm_err *err)
{
    char id[GM_ID_BYTES];
    struct gm_buf prompt = GM_BUF(PROMPT_BYTES_MAX);
    struct run r = { .ask = ask, .turn = turn };
    Gm__StartRequest q = GM__START_REQUEST__INIT;
    Gm__Sampling sampling = GM__SAMPLING__INIT;
    memset(turn, 0, sizeof *turn);
    turn->at_us = calloc(ask->answer_tokens, sizeof *turn->at_us);
    if (!turn->at_us)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the times of %u tokens",
                       ask->answer_tokens);
    enum gm_status rc = make_prompt(&prompt, ask->prompt_tokens, err);
    if (rc == GM_OK) {
        gm_random_id(id, GM_ID_DIGITS);
        sampling.has_temperature = sampling.has_max_tokens = sampling.has_ignore_eos = 1;
        sampling.temperature = 0;
        sampling.max_tokens = (int32_t)ask->answer_tokens;
        sampling.ignore_eos = 1;
        q.turn = id;
        q.sampling = &sampling;
        q.has_raw = q.raw = 1;
        q.has_messages = 1;
        q.messages.data = (uint8_t *)prompt.data;
        q.messages.len = prompt.len;
        turn->sent_us = gm_now_us();
        rc = gm_client_turn(client, &q, 0, on_item, on_idle, &r, err);
    }
    gm_buf_free(&prompt);
    if (r.session[0])
        remove_session(client, r.session);
    if (rc == GM_OK && turn->n == 0 && !stopped(&r))
        rc = gm_fail(err, GM_INTERNAL, "an answer came without a token; see gemline status");
    return rc;
}

void gm_bench_turn_free(struct gm_bench_turn *turn)
{
    free(turn->at_us);
    memset(turn, 0, sizeof *turn);
}
