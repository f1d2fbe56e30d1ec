/* seq.c - one sequence of one turn: what was generated, what is held back, how it ends.
 *
 * Owns:      the parameters, the count of generated tokens, the tokens held back for an unfinished
 *            stop string, the finish.
 * Does not:  choose (pick.c), match bytes (stop.c), or talk to shards and clients (edge.c).
 * Memory:    one block, plus the held tokens, which grow to GM_HELD_MAX.
 * Threads:   the sampler's loop thread only.
 * Invariant: everything follows from the arguments and the ids so far: a resumed token takes the
 *            same way (take_token) as a chosen one, so a rebuilt sequence releases the same.
 */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "services/sampler/deepmind.h"

enum { HELD_FIRST = 16 }; /* tokens the list has room for at first */
static_assert(GM_HELD_MAX % HELD_FIRST == 0 && (GM_HELD_MAX & (GM_HELD_MAX - 1)) == 0,
              "doubling ends at the limit exactly");

/* A token that was generated and is not yet known to be free of a stop string. */
struct held {
    struct gm_released token;
    uint64_t end; /* bytes of text up to and with this token */
};

struct gm_seq {
    struct gm_sampling sampling;
    struct gm_dm_chain chain; /* of DeepMind's rules */
    int32_t end_ids[GM_END_IDS_MAX];
    uint32_t n_end;
    uint32_t n_vocab;
    uint32_t prompt_len;
    uint32_t n_generated;
    uint32_t asked;  /* candidates asked for at this position; 0: none yet */
    int32_t last_id; /* the token chosen last */
    enum gm_finish finish;
    gm_piece_fn *piece;
    const void *piece_ctx;
    struct gm_matcher matcher;
    /* Tokens in order; the first n_out went out with the last outcome and are dropped next. */
    struct held *held;
    struct gm_alt *alts; /* [cap][sampling.logprobs] */
    struct gm_released *out;
    uint32_t n_held, n_out, cap;
};

static uint32_t alts_per_token(const struct gm_seq *q)
{
    return q->sampling.logprobs > 0 ? (uint32_t)q->sampling.logprobs : 0;
}

/* Drops what went out with the last outcome. */
static void drop_out(struct gm_seq *q)
{
    const uint32_t rest = q->n_held - q->n_out;
    const size_t wide = alts_per_token(q);
    if (q->n_out == 0)
        return;
    memmove(q->held, q->held + q->n_out, rest * sizeof *q->held);
    if (wide > 0)
        memmove(q->alts, q->alts + q->n_out * wide, rest * wide * sizeof *q->alts);
    q->n_held = rest;
    q->n_out = 0;
}

/* Room for one more held token. Growth keeps what is there; on failure nothing changes. */
static enum gm_status make_room(struct gm_seq *q, struct gm_err *err)
{
    if (q->n_held < q->cap)
        return GM_OK;
    assert(q->cap < GM_HELD_MAX); /* take_token lets go of a full list */
    const uint32_t cap = q->cap == 0 ? HELD_FIRST : q->cap * 2;
    const size_t wide = alts_per_token(q);
    struct held *held = realloc(q->held, cap * sizeof *held);
    if (held)
        q->held = held;
    struct gm_released *out = realloc(q->out, cap * sizeof *out);
    if (out)
        q->out = out;
    struct gm_alt *alts = wide > 0 ? realloc(q->alts, cap * wide * sizeof *alts) : NULL;
    if (alts)
        q->alts = alts;
    if (!held || !out || (wide > 0 && !alts))
        return gm_fail(err, GM_EXHAUSTED,
                       "no memory to hold back %u tokens; run fewer turns at once", cap);
    q->cap = cap;
    return GM_OK;
}

static bool is_end(const struct gm_seq *q, int32_t id)
{
    for (uint32_t i = 0; i < q->n_end && !q->sampling.ignore_eos; i++)
        if (q->end_ids[i] == id)
            return true;
    return false;
}

/* Held tokens that end at or before byte `safe`, counted from the oldest. */
static uint32_t count_safe(const struct gm_seq *q, uint64_t safe)
{
    uint32_t n = 0;
    while (n < q->n_held && q->held[n].end <= safe)
        n++;
    return n;
}

/* A token of the text joins the held ones; says how many of these are free now. */
static uint32_t take_text(struct gm_seq *q, const struct gm_released *token)
{
    size_t len = 0;
    uint64_t safe;
    const char *bytes = q->piece(q->piece_ctx, token->id, &len);
    const bool stopped = gm_matcher_feed(&q->matcher, bytes, bytes ? len : 0, &safe);
    q->held[q->n_held] = (struct held){ *token, q->matcher.total };
    q->n_held++;
    const uint32_t n = count_safe(q, safe);
    if (stopped) { /* the last token ends after `safe`, so it is always among those cut */
        q->n_held = n;
        q->finish = GM_FINISH_STOP;
        return n;
    }
    if (n > q->n_out || q->n_held - q->n_out < GM_HELD_MAX)
        return n;
    gm_matcher_forget(&q->matcher); /* a half-seen stop string is given up after so many tokens */
    return q->n_held;
}

/* The one way a token enters; make_room has been called. `token` has position and id set. The
 * first n_out of the held ones are free already where tokens of the same run came before. */
static void take_token(struct gm_seq *q, const struct gm_released *token)
{
    assert(q->finish == GM_FINISH_NONE && q->n_held < q->cap);
    q->n_generated++;
    q->asked = 0;
    if (is_end(q, token->id)) {
        q->finish = GM_FINISH_STOP;
        q->n_out = q->n_held;
        return;
    }
    q->n_out = take_text(q, token);
    if (q->finish == GM_FINISH_NONE && q->n_generated >= (uint32_t)q->sampling.max_tokens) {
        q->finish = GM_FINISH_LENGTH;
        q->n_out = q->n_held;
    }
}

/* The outcome of the last take_token. */
static void tell(struct gm_seq *q, struct gm_outcome *out)
{
    const size_t wide = alts_per_token(q);
    for (uint32_t i = 0; i < q->n_out; i++) {
        q->out[i] = q->held[i].token;
        q->out[i].tops = q->out[i].n_tops > 0 ? q->alts + i * wide : NULL;
    }
    *out = (struct gm_outcome){ .n_generated = q->n_generated,
                                .n_released = q->n_out,
                                .released = q->n_out > 0 ? q->out : NULL,
                                .finish = q->finish };
}

static enum gm_status check_args(const struct gm_seq_args *a, struct gm_err *err)
{
    enum gm_status rc = gm_sampling_check(a->sampling, err);
    if (rc != GM_OK)
        return rc;
    if (!a->piece || a->n_vocab < 1 || a->n_vocab > GM_SAMPLER_VOCAB_MAX)
        return gm_fail(err, GM_INVALID, "the vocabulary has %u tokens; give 1 to %d and its pieces",
                       a->n_vocab, GM_SAMPLER_VOCAB_MAX);
    if (a->n_end > GM_END_IDS_MAX || (a->n_end > 0 && !a->end_ids))
        return gm_fail(err, GM_INVALID, "there are %u end tokens; give at most %d", a->n_end,
                       GM_END_IDS_MAX);
    if (a->prompt_len < 1 || a->prompt_len > INT32_MAX)
        return gm_fail(err, GM_INVALID, "the prompt has %u tokens; give 1 to %d", a->prompt_len,
                       INT32_MAX);
    if (a->n_done > (uint32_t)a->sampling->max_tokens || (a->n_done > 0 && !a->done))
        return gm_fail(err, GM_INVALID, "%u tokens to resume from; max_tokens allows %d", a->n_done,
                       (int)a->sampling->max_tokens);
    for (uint32_t i = 0; i < a->n_done; i++)
        if (a->done[i] < 0 || (uint32_t)a->done[i] >= a->n_vocab)
            return gm_fail(err, GM_INVALID, "resumed token %u has id %d of %u tokens", i,
                           (int)a->done[i], a->n_vocab);
    return GM_OK;
}

/* Brings a fresh sequence to where the resumed ids left it. */
static enum gm_status replay(struct gm_seq *q, const struct gm_seq_args *a, struct gm_err *err)
{
    for (uint32_t i = 0; i < a->n_done; i++) {
        if (q->finish != GM_FINISH_NONE)
            return gm_fail(err, GM_INVALID,
                           "resumed token %u comes after the end of the turn; resume from %u", i,
                           i);
        drop_out(q);
        enum gm_status rc = make_room(q, err);
        if (rc != GM_OK)
            return rc;
        take_token(q, &(struct gm_released){ .id = a->done[i], .position = gm_seq_position(q) });
    }
    if (q->finish == GM_FINISH_NONE)
        drop_out(q);
    return GM_OK;
}

enum gm_status gm_seq_open(struct gm_seq **out, const struct gm_seq_args *args,
                           struct gm_outcome *first, struct gm_err *err)
{
    *out = NULL;
    *first = (struct gm_outcome){ 0 };
    enum gm_status rc = check_args(args, err);
    if (rc != GM_OK)
        return rc;
    struct gm_seq *q = calloc(1, sizeof *q);
    if (!q)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a sequence; run fewer turns at once");
    q->sampling = *args->sampling;
    if (args->n_end > 0)
        memcpy(q->end_ids, args->end_ids, args->n_end * sizeof *q->end_ids);
    q->n_end = args->n_end;
    q->n_vocab = args->n_vocab;
    q->prompt_len = args->prompt_len;
    q->piece = args->piece;
    q->piece_ctx = args->piece_ctx;
    gm_dm_chain_start(&q->chain, q->sampling.seed);
    gm_matcher_init(&q->matcher, q->sampling.stops, q->sampling.n_stops);
    rc = replay(q, args, err);
    if (rc != GM_OK) {
        gm_seq_close(&q);
        return rc;
    }
    tell(q, first);
    *out = q;
    return GM_OK;
}

/* Log-probability and alternatives of the chosen candidate, into the next held place. */
static enum gm_status fill_logprobs(struct gm_seq *q, const struct gm_cands *c, uint32_t index,
                                    struct gm_released *token, struct gm_err *err)
{
    if (q->sampling.logprobs < 0)
        return GM_OK;
    const float raw = c->raw ? c->raw[index] : NAN;
    if (!isfinite(raw) || !isfinite(c->lse_raw) || (c->n_tops > 0 && !c->tops))
        return gm_fail(err, GM_INTERNAL,
                       "log-probabilities need finite raw logits and their log-sum-exp; "
                       "check the last shard");
    const double logprob = (double)raw - c->lse_raw;
    token->has_logprob = true;
    token->logprob = logprob < 0.0 ? (float)logprob : 0.0f; /* rounding may leave it above 0 */
    const uint32_t wide = alts_per_token(q);
    token->n_tops = c->n_tops < wide ? c->n_tops : wide;
    if (token->n_tops > 0)
        memcpy(q->alts + (size_t)q->n_held * wide, c->tops, token->n_tops * sizeof *c->tops);
    return GM_OK;
}

static enum gm_status pick(struct gm_seq *q, const struct gm_cands *c, struct gm_pick *out,
                           struct gm_err *err)
{
    uint32_t key[2];
    if (q->sampling.rules != GM_RULES_DEEPMIND)
        return gm_pick(c, &q->sampling, out, err);
    gm_dm_chain_key(&q->chain, q->sampling.seed, q->n_generated, key);
    return gm_dm_pick(c, &q->sampling, key, out, err);
}

/* Chooses from one row and takes the token; *need > 0: it was not possible, nothing happened.
 * go_on: tokens that are free stay, for one outcome with this one. */
static enum gm_status step_row(struct gm_seq *q, const struct gm_cands *c, bool go_on,
                               uint32_t *need, struct gm_err *err)
{
    if (c->position != gm_seq_position(q))
        return gm_fail(err, GM_ABORTED,
                       "candidates are for position %u, the sequence is at %u; resume it",
                       c->position, gm_seq_position(q));
    if (c->n_vocab != q->n_vocab)
        return gm_fail(err, GM_INTERNAL, "candidates of %u tokens, the vocabulary has %u",
                       c->n_vocab, q->n_vocab);
    struct gm_pick chosen;
    enum gm_status rc = pick(q, c, &chosen, err);
    if (rc != GM_OK)
        return rc;
    if (chosen.need > 0 && c->n < q->asked) /* or one short answer would be asked for ever */
        return gm_fail(err, GM_INTERNAL, "asked for %u candidates, the last shard sent %u",
                       q->asked, c->n);
    *need = chosen.need;
    if (chosen.need > 0) {
        q->asked = chosen.need;
        return GM_OK;
    }
    if (!go_on)
        drop_out(q);
    struct gm_released token = { .id = chosen.id, .position = c->position };
    rc = make_room(q, err);
    if (rc == GM_OK)
        rc = fill_logprobs(q, c, chosen.index, &token, err);
    if (rc != GM_OK)
        return rc;
    take_token(q, &token);
    q->last_id = chosen.id;
    return GM_OK;
}

enum gm_status gm_seq_run(struct gm_seq *q, const struct gm_cands *rows, const int32_t *drafts,
                          uint32_t n, struct gm_outcome *out, struct gm_err *err)
{
    uint32_t need = 0;
    *out = (struct gm_outcome){ .n_generated = q->n_generated, .finish = q->finish };
    if (q->finish != GM_FINISH_NONE)
        return gm_fail(err, GM_PRECONDITION, "the turn is finished; start a new one");
    enum gm_status rc = step_row(q, &rows[0], false, &need, err);
    if (rc != GM_OK || need > 0) {
        out->need = need;
        return rc;
    }
    for (uint32_t i = 1; i < n && q->finish == GM_FINISH_NONE && need == 0; i++)
        if (q->last_id != drafts[i] || q->n_held >= GM_HELD_MAX ||
            step_row(q, &rows[i], true, &need, NULL) != GM_OK)
            break;
    tell(q, out);
    out->need = need;
    out->has_next = q->finish == GM_FINISH_NONE && need == 0;
    out->next_id = out->has_next ? q->last_id : -1;
    out->next_position = out->has_next ? gm_seq_position(q) - 1 : 0;
    return GM_OK;
}

enum gm_status gm_seq_step(struct gm_seq *q, const struct gm_cands *c, struct gm_outcome *out,
                           struct gm_err *err)
{
    return gm_seq_run(q, c, NULL, 1, out, err);
}

uint32_t gm_seq_position(const struct gm_seq *q)
{
    return q->prompt_len + q->n_generated;
}

void gm_seq_close(struct gm_seq **seq)
{
    struct gm_seq *q = *seq;
    if (!q)
        return;
    free(q->held);
    free(q->alts);
    free(q->out);
    free(q);
    *seq = NULL;
}
