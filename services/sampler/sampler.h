/* sampler.h - the sampler's logic: candidates in, chosen and released tokens out.
 *
 * Owns:      the plain structs of this service and the contract of noise.c, pick.c, stop.c, seq.c.
 * Does not:  know sockets or messages (edge.c turns those into these structs), apply penalties,
 *            bias or bans (the last shard has done it), or hold the vocabulary.
 * Threads:   one owner thread for each gm_seq; the pure functions are safe anywhere.
 */
#ifndef GM_SAMPLER_H
#define GM_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/sampling.h"

enum {
    GM_SAMPLER_VOCAB_MAX = 1 << 20, /* token ids are below this */
    GM_CANDS_GROW = 8,              /* a list that proves nothing is asked again this much longer */
    GM_END_IDS_MAX = 16,            /* end tokens of one model */
    GM_HELD_MAX = 4096,             /* tokens held back for one unfinished stop string */
    GM_RUN_MAX = 8,                 /* rows of one run: a token's and those of guesses behind it */
};

/* ---- noise.c: pure functions whose bits are the same on every machine ------------------------ */

/* No Gumbel value is larger: u is at most 1 - 2^-33, so g is at most 33 ln 2 = 22.8739. */
#define GM_GUMBEL_MAX 22.9

/* Uniform in (0,1), a multiple of 2^-33: Philox4x32-10 (Salmon et al. 2011) with the seed as key
 * and (position, id) as counter; u = (first word + 0.5) / 2^32. Depends on nothing else. */
double gm_noise_uniform(uint64_t seed, uint64_t position, int32_t id);

/* Standard Gumbel noise -log(-log(u)) of that u; -3.14 < g < GM_GUMBEL_MAX. */
double gm_noise_gumbel(uint64_t seed, uint64_t position, int32_t id);

/* The generator itself: 128 bits of counter and 64 of key to 128 bits, for tests with the
 * published answers. out may be ctr. */
void gm_noise_philox(uint32_t out[4], const uint32_t ctr[4], const uint32_t key[2]);

/* ---- pick.c ---------------------------------------------------------------------------------- */

/* One alternative of a log-probability list. */
struct gm_alt {
    int32_t id;
    float logprob; /* natural log, temperature 1, before penalties and bias */
};

/* What the last shard says about the token to be chosen. Arrays are borrowed for the call.
 * The list holds the n best of the vocabulary: logits fall, and equal logits have rising ids. A
 * forbidden token has the logit -inf and stays in the list, so n is K unless the vocabulary is
 * smaller. */
struct gm_cands {
    uint32_t position; /* absolute position of the token to be chosen */
    uint32_t n;        /* candidates, 1..n_vocab */
    uint32_t n_vocab;  /* tokens in all, 1..GM_SAMPLER_VOCAB_MAX */
    const int32_t *ids;
    const float *logits;       /* [n] after soft cap, penalties, bias, bans; before temperature */
    const float *raw;          /* [n] after soft cap only; may be NULL without log-probabilities */
    double lse_raw;            /* log sum exp of the raw logits; read with log-probabilities only */
    double lse_temp;           /* log sum exp(logit / T); read with top_p < 1 and top_k = 0 only */
    uint32_t n_tops;           /* entries in tops */
    const struct gm_alt *tops; /* best raw tokens, falling; NULL when n_tops is 0 */
};

/* GM_INTERNAL: the list breaks its contract (NaN, +inf, order, ids) or forbids every token. */
enum gm_status gm_cands_check(const struct gm_cands *c, struct gm_err *err);

struct gm_pick {
    uint32_t need;  /* 0: chosen; else ask for at least so many candidates and call again */
    uint32_t index; /* place of the chosen token in the list; valid when need is 0 */
    int32_t id;     /* the chosen token; valid when need is 0 */
};

/* Chooses one token: temperature, top-k, top-p over what top-k left (over the whole vocabulary by
 * lse_temp when top-k is off), min-p relative to the most probable, then Gumbel-max: the largest
 * logit / T + g(seed, position, id), lowest id on ties. Temperature 0 takes the first candidate.
 * The answer is the one the whole vocabulary would give, or *need says how many candidates could
 * prove it (more than c->n, at most c->n_vocab). `p` has passed gm_sampling_check.
 * GM_INTERNAL: the list breaks its contract (NaN, +inf, order, ids) or forbids every token. */
enum gm_status gm_pick(const struct gm_cands *c, const struct gm_sampling *p, struct gm_pick *out,
                       struct gm_err *err);

/* ---- stop.c ---------------------------------------------------------------------------------- */

/* Finds stop strings in a stream of bytes (Knuth-Morris-Pratt, one automaton a string). Plain
 * data: the same bytes give the same state however they were cut into pieces. */
struct gm_matcher {
    uint32_t n;
    const struct gm_stop *stops;  /* borrowed, [n]; lives as long as the matcher */
    uint64_t total;               /* bytes seen */
    uint16_t state[GM_STOPS_MAX]; /* bytes of the string that end the text so far */
    uint8_t fail[GM_STOPS_MAX][GM_STOP_BYTES_MAX]; /* longest border of each prefix */
};

/* Starts at byte 0. `stops` is of checked sizes (gm_sampling_check); n may be 0. */
void gm_matcher_init(struct gm_matcher *m, const struct gm_stop *stops, uint32_t n);

/* Adds `len` bytes. True when a stop string ended within them; then *safe is the byte (counted
 * from 0) at which it begins, and the rest of the bytes is not looked at. Of several strings the
 * first to end counts, of those that end together the longest. Otherwise false, and *safe says
 * that no stop string can begin before that byte any more. */
bool gm_matcher_feed(struct gm_matcher *m, const char *bytes, size_t len, uint64_t *safe);

/* Forgets what was matched in part; the count of bytes stays. */
void gm_matcher_forget(struct gm_matcher *m);

/* ---- seq.c ----------------------------------------------------------------------------------- */

/* Bytes of a token, borrowed for the call; NULL or *len = 0 for control tokens. It must give the
 * same bytes for the same id always. */
typedef const char *gm_piece_fn(const void *ctx, int32_t id, size_t *len);

enum gm_finish {
    GM_FINISH_NONE,   /* goes on */
    GM_FINISH_STOP,   /* an end token or a stop string */
    GM_FINISH_LENGTH, /* max_tokens were generated */
};

/* A token the client may have. */
struct gm_released {
    int32_t id;
    uint32_t position;         /* absolute: prompt_len + number of tokens generated before it */
    bool has_logprob;          /* asked for, and chosen here (not taken over by a resume) */
    float logprob;             /* raw logit - raw lse, at most 0 */
    uint32_t n_tops;           /* at most sampling.logprobs */
    const struct gm_alt *tops; /* NULL when n_tops is 0 */
};

/* What a step led to. `released` is borrowed until the next call on the same sequence. */
struct gm_outcome {
    uint32_t need;          /* > 0: no token was chosen at gm_seq_position (a run's tokens before it
                               were); step there again with at least so many candidates */
    bool has_next;          /* a token goes back into the ring */
    int32_t next_id;        /* that token */
    uint32_t next_position; /* its absolute position */
    uint32_t n_generated;   /* tokens generated so far: resumed, held and cut ones too */
    uint32_t n_released;
    const struct gm_released *released; /* in order of position */
    enum gm_finish finish;
};

/* What a sequence is opened with; everything but `piece_ctx` is copied. */
struct gm_seq_args {
    const struct gm_sampling *sampling;
    const int32_t *end_ids; /* tokens that end a turn, [n_end] */
    uint32_t n_end;
    uint32_t n_vocab;    /* ids are below this */
    uint32_t prompt_len; /* tokens before the first generated one, >= 1 */
    const int32_t *done; /* tokens generated before (resume), [n_done], oldest first */
    uint32_t n_done;
    gm_piece_fn *piece;
    const void *piece_ctx; /* borrowed for the sequence's life */
};

struct gm_seq;

/* Opens a sequence and gives it to the caller (gm_seq_close). Resumed tokens go through the same
 * steps as chosen ones; what they released then is known to the client and is not released again,
 * what they still hold back comes later, without a log-probability. *first tells whether the
 * resumed tokens had already finished the turn (then with what that finish releases); it never
 * has a next token. On failure *out is NULL.
 * GM_INVALID: parameters or sizes out of range, or tokens after a finish. GM_EXHAUSTED: memory. */
enum gm_status gm_seq_open(struct gm_seq **out, const struct gm_seq_args *args,
                           struct gm_outcome *first, struct gm_err *err);

/* Chooses the next token and says what follows. An end token (without ignore_eos) finishes and is
 * not released; a stop string finishes and the whole tokens that carry it are not released; at
 * max_tokens everything held is released.
 * GM_ABORTED: the candidates are for another position (start a new attempt). GM_PRECONDITION: the
 * sequence is finished. GM_INTERNAL: bad candidates. GM_EXHAUSTED: memory. After a failure the
 * sequence is as before the call. */
enum gm_status gm_seq_step(struct gm_seq *seq, const struct gm_cands *c, struct gm_outcome *out,
                           struct gm_err *err);

/* Steps along rows[0..n), n in 1..GM_RUN_MAX, as so many gm_seq_step do whose outcomes are joined:
 * drafts[i] (i in 1..n-1; drafts[0] is not read) is the guess that rows[i] was computed from, and
 * the run goes on to rows[i] only when the token chosen from rows[i - 1] is that one. next_id is
 * the last token chosen. A run may end early at any row, without harm: the ring then computes the
 * row again, as a first one. So it does at a failure of a row after the first. */
enum gm_status gm_seq_run(struct gm_seq *seq, const struct gm_cands *rows, const int32_t *drafts,
                          uint32_t n, struct gm_outcome *out, struct gm_err *err);

/* Absolute position of the token the next step chooses. */
uint32_t gm_seq_position(const struct gm_seq *seq);

/* Frees it and sets the pointer to NULL; NULL inside is allowed. */
void gm_seq_close(struct gm_seq **seq);

#endif
