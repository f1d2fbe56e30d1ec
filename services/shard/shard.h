/* shard.h - one slice of layers as a process: tickets, sessions, the batch of a step.
 *
 * Owns:      the plain structs that edge.c fills from messages, and the contract of admit.c,
 * evict.c, batch.c and step.c.
 * Does not:  know sockets or protobuf (edge.c), or tensors (common/model).
 * Threads:   the loop thread only.
 */
#ifndef GM_SHARD_H
#define GM_SHARD_H

#include "common/common.h"
#include "common/model/model.h"
#include "services/shard/draft.h"
#include "services/shard/prefix.h"

enum {
    GM_SESSION_NAME_MAX = 192, /* "tenant/id" */
    GM_TICKETS_MAX = 1024,     /* turns running here at once */
    GM_SESSIONS_MAX = 3000,    /* sessions whose rows are kept */
    GM_GROW_POSITIONS = 256,   /* pages are reserved for so many positions ahead of a turn's rows */
    GM_PREFIX_GAIN_MIN = 16,   /* rows that another session must save: fewer are computed sooner */
    GM_MOVE_LEFT_MAX = GM_PAGE, /* rows that a sequence may lose where it changes hands */
    GM_CHUNK_ALONE = 256,       /* prefill rows of a step without decode rows */
    GM_CHUNK_BESIDE = 16,    /* prefill rows of a step while others decode, before it is known what
                                a row costs */
    GM_CHUNK_BESIDE_MIN = 4, /* and the least, whatever a row costs: a prompt must come to an end */
    GM_CHUNK_SHORT = 64, /* a prompt of at most so many rows goes whole beside decode rows, one in a
                            step: its answer begins a step later instead of ten */
    GM_ROWS_TOGETHER = 8,    /* rows that kernels take at a time: a step is filled up to them */
    GM_BESIDE_PERCENT = 70,  /* what prefill rows may add to a step of decode rows, */
    GM_BESIDE_MORE = 20,     /* and more for each further prompt that waits, */
    GM_BESIDE_MOST = 250,    /* at most */
    GM_PACE_ROWS = 32,       /* decode rows whose steps are told apart */
    GM_GATHER_US = 800,      /* how long tokens that came back wait for the rest of their step */
    GM_HOLD_US = 2500,       /* how long a prompt waits for the tokens of the last step, so that one
                                chunk and not two lie between two tokens */
    GM_BESIDE_US = 250000,   /* others decode: a decode row was seen within this time */
    GM_CHUNKS_IN_FLIGHT = 2, /* prefill chunks of one sequence between shard 0 and the last */
    GM_CANDS_GREEDY = 16,    /* candidates of a row at temperature 0 */
    GM_CANDS_OPEN = 256,     /* candidates of a row without top-k */
    GM_SCORE_ROWS = 8,       /* rows whose logits are held at once while scoring */
    GM_WORKS_MAX = GM_BATCH_ROWS_MAX,
    GM_QUEUE_WORKS_MAX = 4096,          /* spans waiting here */
    GM_TICKET_WORKS_MAX = 8,            /* of one ticket: it has GM_CHUNKS_IN_FLIGHT and a token */
    GM_BANNED_MAX = 1024,               /* tokens that a turn may never choose */
    GM_RETRY_MS = 500,                  /* hint when pages are taken */
    GM_RUN_ROWS_MAX = GM_DRAFT_MAX + 1, /* rows of a decode span */
    GM_DRAFT_LOGITS_MAX = 28, /* rows of logits kept for guesses: four turns of GM_DRAFT_MAX */
};

/* A conversation's rows. `running` is the ticket that uses them now; else they are kept until
 * somebody else needs the pages. */
struct gm_session {
    char name[GM_SESSION_NAME_MAX]; /* "" for a score: never kept, not in the map */
    struct gm_kv_seq *seq;
    struct gm_ticket *running;
    int64_t touched_us;
    bool ephemeral; /* of one turn: its rows may change hands when that has ended */
    struct gm_prefix_levels levels;
};

/* How a ticket's logits become candidates. */
struct gm_row_rules {
    float temperature;
    int32_t top_k;
    float repeat_penalty, presence, frequency;
    int32_t n_bias, n_banned;
    int32_t *bias_ids; /* owned by the ticket */
    float *bias_values;
    int32_t *banned;
    int32_t top_n; /* log-probabilities listed; 0: none */
};

/* One attempt of one turn. */
struct gm_ticket {
    uint64_t id;
    uint64_t order; /* age of its turn: where pages run out, the highest gives up its own */
    struct gm_session *session;
    int32_t *prompt; /* owned */
    int32_t n_prompt;
    int32_t prompt_len; /* where the output starts */
    struct gm_row_rules rules;
    bool score;
    int32_t every;             /* score: head at every n-th position */
    int64_t deadline_us;       /* 0: none */
    void *next, *home, *first; /* edge.c's peers */
    /* first shard: what waits */
    int32_t send_from, send_end; /* prompt positions not sent yet */
    bool send_start;             /* the next prompt rows are the ticket's first */
    int32_t chunks;              /* in flight */
    int32_t positions;           /* prompt and answer: no row is computed beyond */
    bool has_decode, decodes;    /* a chosen token waits; one came before */
    int32_t decode_pos, decode_id;
    int32_t drafts; /* guesses of the span that was sent last, from decode_pos on */
    struct gm_draft_pace pace;
    /* every shard: rows below are accepted, rows from here on may have been guesses */
    int32_t accepted;
    int32_t waiting; /* not the first shard: spans in its queues */
    /* last shard: the logits of the rows from logits_pos on, for MORE; rows after the first are
     * taken from the shard's spare ones while they are needed */
    float *logits[GM_RUN_ROWS_MAX];
    int32_t n_logits;                /* buffers that the ticket has */
    int32_t logits_pos, logits_rows; /* pos -1: none */
};

/* A span on its way through this shard. */
struct gm_work {
    uint64_t ticket;
    int32_t pos, n;
    bool start, last, decode;
    int32_t drafts; /* decode: ids behind the first that are guesses, n - 1 */
    int32_t *ids;   /* [n], owned */
    float *rows;    /* [n][d_model], owned; NULL on the first shard */
};

/* Candidates of one row. */
struct gm_row_out {
    int32_t id; /* of the row itself: the chosen token or a guess */
    struct gm_candidates c;
    const int32_t *top_ids; /* [rules.top_n] */
    const double *top_logprobs;
};

/* Where results go; edge.c fills it. Nothing here may block; a failure is logged there. */
struct gm_shard_out {
    void *ctx;
    /* rows: [sum of n][d_model] in the order of works */
    void (*hidden)(void *ctx, void *next, const struct gm_work *const *works, int32_t n,
                   const float *rows);
    /* n rows, 1..GM_RUN_ROWS_MAX, from `pos` on */
    void (*candidates)(void *ctx, const struct gm_ticket *t, int32_t pos,
                       const struct gm_row_out *rows, int32_t n);
    /* n rows from `pos` on; next_logprob NaN where there is no next id; skipped rows have top_n 0
     */
    void (*scored)(void *ctx, const struct gm_ticket *t, int32_t pos, double next_logprob,
                   int32_t top_n, const int32_t *top_ids, const double *top_logprobs);
    void (*chunk_done)(void *ctx, const struct gm_ticket *t, const struct gm_work *w);
    void (*fault)(void *ctx, const struct gm_ticket *t, const struct gm_err *why);
};

/* What steps take here, measured: from it follows how many prefill rows go beside decode rows. 0:
 * not known yet. */
struct gm_pace {
    double decode_us[GM_PACE_ROWS + 1]; /* a step of so many decode rows (or more) alone */
    double row_us;                      /* what one prefill row adds to a step */
    int32_t decode_rows;                /* of the last step that had any */
};

struct gm_shard {
    struct gm_slice *slice;
    const struct gm_kernels *kernels;
    bool is_first, is_last;
    bool speculate;            /* first shard: guess tokens ahead */
    struct gm_idmap tickets;   /* id -> struct gm_ticket */
    struct gm_strmap sessions; /* name -> struct gm_session */
    struct gm_prefix prefix;   /* the sessions by what they begin with */
    struct gm_ring decode,
        prefill;       /* of struct gm_work: spans that arrived (not the first shard) */
    int64_t decode_us; /* when a decode row was computed last */
    struct gm_pace pace;
    int32_t step_rows; /* decode rows of the last step that had any */
    int64_t step_us;   /* its end */
    int64_t back_us;   /* when the first of its tokens came back; 0: none has */
    bool held;         /* gm_shard_form waits for more: call it again soon */
    size_t turn;       /* round robin over prompts */
    struct gm_shard_out out;
    float *hidden;                     /* [GM_BATCH_ROWS_MAX][d_model] */
    float *score_logits;               /* [GM_SCORE_ROWS][vocab]; last shard */
    double *lse;                       /* [GM_HEAD_ROWS_MAX][2][chunks] of the head; last shard */
    float *spare[GM_DRAFT_LOGITS_MAX]; /* [vocab] each: logits that no ticket uses */
    int32_t n_spare, n_logits;         /* free, and made in all; last shard */
    volatile uint64_t progress;        /* layers computed */
    struct gm_err lost; /* not GM_OK: a file of the slice was cut or changed under it; what was
                           computed since the last good step is worth nothing, no step does more */
    uint64_t decoded;   /* tokens decoded since start */
    uint64_t drafted, accepted;            /* guesses computed, and those that were right */
    uint64_t busy_us;                      /* spent in steps that had rows */
    uint64_t prompt_tokens, prefix_tokens; /* of all turns; those whose rows were here already */
};

/* What Reserve asks for; borrowed. */
struct gm_reserve {
    uint64_t ticket;
    const char *session;
    const int32_t *ids;
    int32_t n_ids, positions, prompt_len;
    struct gm_row_rules rules; /* arrays borrowed */
    bool score, ephemeral;
    uint64_t order;
    int32_t every;
    int64_t deadline_us;
    const char *numerics;
    void *next, *home, *first;
};

/* ---- admit.c -----------------------------------------------------------------------------------
 */
enum gm_status gm_shard_init(struct gm_shard *s, struct gm_err *err); /* slice, kernels, is_* set */
void gm_shard_close(struct gm_shard *s);

/* Takes pages for the prompt and the next GM_GROW_POSITIONS, and says how much of the prompt is
 * here already: of the session's own rows, or taken from another session of the tenant that gives
 * more. rewind_min: *have may be lowered to it, or to 0. Repeating it with the same ticket answers
 * the same. GM_ABORTED: other numerics. GM_PRECONDITION: no pool of this size can hold the turn.
 * GM_EXHAUSTED: pages are taken (retry_ms). */
enum gm_status gm_shard_reserve(struct gm_shard *s, const struct gm_reserve *in, int32_t *have,
                                int32_t *rewind_min, struct gm_err *err);
/* Ends a ticket; unknown ones are fine. keep: the session's rows stay for its next turn. */
void gm_shard_release(struct gm_shard *s, uint64_t ticket, bool keep);
void gm_shard_forget(struct gm_shard *s, const char *session);
struct gm_ticket *gm_shard_ticket(struct gm_shard *s, uint64_t ticket);
/* Bytes of rows that running turns and kept sessions hold. */
void gm_shard_usage(struct gm_shard *s, uint64_t *total, uint64_t *used, uint64_t *kept);
/* Last shard: buffers for the logits of `n` rows of the ticket; returns how many it has then, at
 * least 1. Fewer than n where memory or GM_DRAFT_LOGITS_MAX ends. What was in them is gone. */
int32_t gm_shard_logits(struct gm_shard *s, struct gm_ticket *t, int32_t n);

/* Frees a session that no ticket uses, with its rows. NULL is fine. */
void gm_session_free(struct gm_shard *s, struct gm_session *session);

/* ---- evict.c -----------------------------------------------------------------------------------
 */
/* Frees the kept session that was not used for the longest time, none of the two (may be NULL);
 * false when there is none. */
bool gm_shard_evict(struct gm_shard *s, const struct gm_session *a, const struct gm_session *b);
/* Reserves `positions` for the session; kept sessions go for it, but not `other` (may be NULL). */
enum gm_status gm_shard_pages(struct gm_shard *s, struct gm_session *session, int32_t positions,
                              const struct gm_session *other, struct gm_err *err);
/* Whether a turn that begins with `positions` finds room beside the running ones and their next
 * GM_GROW_POSITIONS, so that no turn begins only to be pushed out. */
bool gm_shard_room(const struct gm_shard *s, int32_t positions);
/* Reserves rows up to `need` for a running ticket, GM_GROW_POSITIONS ahead. Where no pages are left
 * the youngest running turn is pushed out: its ticket has a fault (GM_EXHAUSTED) and ends, its rows
 * are kept while nobody needs the pages. That may be the ticket itself: false. */
bool gm_shard_grow(struct gm_shard *s, struct gm_ticket *t, int32_t need);

/* ---- batch.c -----------------------------------------------------------------------------------
 */
/* First shard: the prompt from `pos` on may be sent; the id at `pos` is to be computed next. */
enum gm_status gm_shard_prompt(struct gm_shard *s, uint64_t ticket, int32_t pos, bool start,
                               struct gm_err *err);
/* First shard: `id` stands at `pos` and is the turn's next decode row. Guesses of the last span
 * that stand before `pos` were right. GM_INVALID, GM_DATA_LOSS: nothing happened. */
enum gm_status gm_shard_chosen(struct gm_shard *s, uint64_t ticket, int32_t pos, int32_t id,
                               struct gm_err *err);
void gm_shard_chunk_done(struct gm_shard *s, uint64_t ticket);
/* Other shards: takes *w on GM_OK, but for one whose ticket is unknown: it stays the caller's.
 * GM_EXHAUSTED when too many wait, GM_DATA_LOSS when the ticket cannot have so many: then the
 * ticket has a fault. */
enum gm_status gm_shard_arrived(struct gm_shard *s, struct gm_work *w, struct gm_err *err);
/* Fills works[] (ids and rows now owned by the caller): decode rows first, with guesses behind them
 * where few turns decode and no prompt waits, then prefill rows up to the step's budget, taking
 * turns. Returns how many. *more: something is left. */
int32_t gm_shard_form(struct gm_shard *s, struct gm_work works[GM_WORKS_MAX], bool *more);
void gm_work_free(struct gm_work *w);
/* Notes what a step of so many rows took. */
void gm_shard_pace(struct gm_pace *p, int32_t decode_rows, int32_t prefill_rows, double us);

/* ---- step.c ------------------------------------------------------------------------------------
 */
/* One batch through the slice and out. *more: call again at once. */
void gm_shard_step(struct gm_shard *s, bool *more);
/* Candidates again (last shard): k of the row at pos, and those of the rows of its span after it.
 */
void gm_shard_more(struct gm_shard *s, uint64_t ticket, int32_t pos, int32_t k);

#endif
